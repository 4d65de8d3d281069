import Environments
import InterceptModel
import WorkspaceAPI
import WorkspaceAgent

extension StartRequest {
    /// Options for the sidecars, if the environment makes some for this intercept.
    var sidecarOptions: SidecarOptions {
        func ports(_ transport: Transport) -> [UInt16] {
            self.mappings.map(\.port).filter { $0.transport == transport }.map(\.number)
        }
        return SidecarOptions(image: self.sidecarImage, ports: ports(.tcp), datagramPorts: ports(.udp))
    }
}

extension LocalTargets {
    init(_ request: StartRequest) throws(StartError) {
        try self.init(request.mappings, flag: "--port")
    }
}

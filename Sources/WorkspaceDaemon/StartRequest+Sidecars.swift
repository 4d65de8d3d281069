import Environments
import InterceptModel
import WorkspaceAPI
import WorkspaceAgent

extension StartRequest {
    /// Options for the sidecars, if the environment makes some for this intercept.
    var sidecarOptions: SidecarOptions {
        SidecarOptions(image: self.sidecarImage, ports: self.mappings.map(\.port))
    }
}

extension LocalTargets {
    init(_ request: StartRequest) throws(StartError) {
        try self.init(request.mappings, flag: "--port")
    }

    /// The ports as a replica's sidecar calls them; without those that the replica doesn't serve.
    func named(as location: SidecarLocation) -> LocalTargets {
        location.ports == nil ? self : self.renamed { location.ownPort(of: $0) }
    }
}

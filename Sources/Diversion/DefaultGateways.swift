import NIOCore

#if os(Linux)
import CNetlink
import Libc
#endif

/// The default gateways of this thread's network namespace. In a pod these are addresses of the node, and its health probes come
/// from them.
public enum DefaultGateways {
    /// IPv4 and IPv6 addresses as `SocketAddress.ipAddress` has them.
    public static func addresses() throws(DiversionError) -> Set<String> {
        #if os(Linux)
        let socket = try RouteSocket()
        return Set(try socket.gateways(AF_INET) + socket.gateways(AF_INET6))
        #else
        throw DiversionError("A network's gateways can be told on Linux alone.")
        #endif
    }
}

#if os(Linux)
extension RouteSocket {
    fileprivate func gateways(_ family: CInt) throws(DiversionError) -> [String] {
        var gateways: [String] = []
        try self.list(.routes(family)) { type, content in
            if type == RouteMessage.newRoute, let gateway = Self.defaultGateway(content) { gateways.append(gateway) }
            return gateways.count < Self.gatewaysAtMost
        }
        return gateways
    }

    /// More than any namespace has. †
    private static let gatewaysAtMost = 64
    /// linux/rtnetlink.h: of the table that ip(8) calls main, and of a route to another machine.
    private static let (mainTable, unicast): (UInt8, UInt8) = (254, 1)
    private static let (gatewayAttribute, viaAttribute): (UInt16, UInt16) = (5, 18)

    /// - Parameter content: of a message of the type RTM_NEWROUTE.
    static func defaultGateway(_ content: UnsafeRawBufferPointer) -> String? {
        guard content.count >= RouteMessage.headerSize, content[1] == 0, content[4] == Self.mainTable,
            content[7] == Self.unicast
        else { return nil }
        var address: [UInt8]?
        ConntrackMessage.attributes(UnsafeRawBufferPointer(rebasing: content[RouteMessage.headerSize...])) {
            type,
            value in
            switch type {
            case Self.gatewayAttribute: address = Array(value)
            // Of the other family; the family's number stands before it.
            case Self.viaAttribute: address = Array(value.dropFirst(2))
            default: break
            }
        }
        guard let address, let parsed = try? SocketAddress(packedIPAddress: ByteBuffer(bytes: address), port: 0) else {
            return nil
        }
        return parsed.ipAddress
    }
}
#endif

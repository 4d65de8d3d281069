import Libc
import NIOCore

/// A link-local address (fe80::/10) can be used only together with its interface, which the kernel doesn't always report with it.
extension SocketAddress {
    /// Adds the interface, if this is a link-local address without one.
    ///
    /// - Parameter index: the interface's; nil means the interface that has this address.
    func scoped(toInterface index: Int?) -> SocketAddress {
        guard case .v6(let own) = self, self.isLinkLocal, own.address.sin6_scope_id == 0 else { return self }
        guard let scope = UInt32(exactly: index ?? self.interface ?? 0), scope > 0 else { return self }
        var address = own.address
        address.sin6_scope_id = scope
        return SocketAddress(address, host: "")
    }

    /// The interface's index in the address, if any.
    var scope: Int? {
        guard case .v6(let own) = self, own.address.sin6_scope_id > 0 else { return nil }
        return Int(own.address.sin6_scope_id)
    }

    private var isLinkLocal: Bool {
        guard case .v6(let own) = self else { return false }
        return withUnsafeBytes(of: own.address.sin6_addr) { $0[0] == 0xFE && $0[1] & 0xC0 == 0x80 }
    }

    private var interface: Int? {
        let devices = (try? System.enumerateDevices()) ?? []
        return devices.first { $0.address?.ipAddress == self.ipAddress }?.interfaceIndex
    }
}

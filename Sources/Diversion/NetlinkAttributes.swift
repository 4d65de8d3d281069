#if os(Linux)
import CNetlink

/// A sequence of netlink attributes (struct nlattr).
struct NetlinkAttributes: Equatable {
    private(set) var bytes: [UInt8] = []

    private static let headerSize = MemoryLayout<nlattr>.size
    private static let nested: UInt16 = 0x8000

    init() {}

    /// - Parameter build: adds the attributes.
    init(_ build: (inout Self) -> Void) { build(&self) }

    /// Generic because Linux has an enumeration for each kind of attribute.
    mutating func add<Kind: RawRepresentable>(_ type: Kind, _ body: [UInt8]) where Kind.RawValue == UInt32 {
        self.add(UInt16(truncatingIfNeeded: type.rawValue), body)
    }

    /// In network order, like all of nf_tables' numbers.
    mutating func add<Kind: RawRepresentable>(_ type: Kind, _ number: UInt32) where Kind.RawValue == UInt32 {
        self.add(type, Self.bytes(number))
    }

    mutating func add<Kind: RawRepresentable>(_ type: Kind, _ number: UInt64) where Kind.RawValue == UInt32 {
        self.add(type, Self.bytes(number))
    }

    mutating func add<Kind: RawRepresentable>(_ type: Kind, _ text: String) where Kind.RawValue == UInt32 {
        self.add(type, Array(text.utf8) + [0])
    }

    mutating func add<Kind: RawRepresentable>(_ type: Kind, _ inner: Self) where Kind.RawValue == UInt32 {
        self.add(UInt16(truncatingIfNeeded: type.rawValue) | Self.nested, inner.bytes)
    }

    private mutating func add(_ type: UInt16, _ body: [UInt8]) {
        var header = nlattr()
        header.nla_len = UInt16(truncatingIfNeeded: Self.headerSize + body.count)
        header.nla_type = type
        withUnsafeBytes(of: header) { self.bytes.append(contentsOf: $0) }
        self.bytes += body
        // Attributes are aligned to four bytes.
        while self.bytes.count % 4 != 0 { self.bytes.append(0) }
    }

    static func bytes(_ number: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: number.bigEndian) { Array($0) }
    }
}
#endif

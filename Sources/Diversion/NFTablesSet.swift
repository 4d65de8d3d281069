#if os(Linux)
import CNetlink

/// A set of ports in a table, or a map from ports to ports.
struct NFTablesSet: Equatable {
    var name: String
    /// Identifies a set without a name to the other steps of its transaction.
    var id: UInt32
    var isMap = false
    /// How long the kernel keeps an element; nil: for good.
    var lifetimeSeconds: Int?
    /// The number of elements, for an anonymous set: the kernel names it, its elements are constant, and it is removed with
    /// its rule.
    var fixedCount: Int?

    /// An anonymous set for a single rule.
    static func unnamed(id: UInt32, count: Int) -> Self { Self(name: "__set%d", id: id, fixedCount: count) }

    /// nft(8)'s type `inet_service`, so that nft can display the table.
    private static let portType: UInt32 = 13
    private static let portSize: UInt32 = 2
    /// The list of elements is one attribute of at most 64 KiB, and a map's element takes 28 bytes.
    private static let elementsAtOnce = 1_024

    func add(to table: String) -> NFTablesMessage {
        var flags: UInt32 = 0
        if self.isMap { flags |= NFT_SET_MAP.rawValue }
        if self.lifetimeSeconds != nil { flags |= NFT_SET_TIMEOUT.rawValue }
        if self.fixedCount != nil { flags |= NFT_SET_ANONYMOUS.rawValue | NFT_SET_CONSTANT.rawValue }
        let attributes = NetlinkAttributes {
            $0.add(NFTA_SET_TABLE, table)
            $0.add(NFTA_SET_NAME, self.name)
            $0.add(NFTA_SET_FLAGS, flags)
            $0.add(NFTA_SET_KEY_TYPE, Self.portType)
            $0.add(NFTA_SET_KEY_LEN, Self.portSize)
            if self.isMap {
                $0.add(NFTA_SET_DATA_TYPE, Self.portType)
                $0.add(NFTA_SET_DATA_LEN, Self.portSize)
            }
            $0.add(NFTA_SET_ID, self.id)
            if let lifetimeSeconds { $0.add(NFTA_SET_TIMEOUT, UInt64(lifetimeSeconds) * 1_000) }
            if let fixedCount {
                $0.add(NFTA_SET_DESC, NetlinkAttributes { $0.add(NFTA_SET_DESC_SIZE, UInt32(fixedCount)) })
            }
        }
        return NFTablesMessage(
            type: NFT_MSG_NEWSET,
            flags: NLM_F_CREATE,
            attributes: attributes,
            subject: self.fixedCount == nil ? "set \(self.name)" : "a rule's set"
        )
    }

    func fill(_ table: String, _ ports: Set<UInt16>) -> [NFTablesMessage] {
        self.fill(table, ports.sorted().map { ($0, nil) })
    }

    func fill(_ table: String, _ ports: [UInt16: UInt16]) -> [NFTablesMessage] {
        self.fill(table, ports.sorted { $0.key < $1.key }.map { ($0.key, $0.value) })
    }

    private func fill(_ table: String, _ elements: [(key: UInt16, value: UInt16?)]) -> [NFTablesMessage] {
        stride(from: 0, to: elements.count, by: Self.elementsAtOnce).map { start in
            let some = elements[start..<min(start + Self.elementsAtOnce, elements.count)]
            let attributes = NetlinkAttributes {
                $0.add(NFTA_SET_ELEM_LIST_TABLE, table)
                $0.add(NFTA_SET_ELEM_LIST_SET, self.name)
                $0.add(NFTA_SET_ELEM_LIST_SET_ID, self.id)
                $0.add(NFTA_SET_ELEM_LIST_ELEMENTS, Self.list(some))
            }
            return NFTablesMessage(
                type: NFT_MSG_NEWSETELEM,
                flags: NLM_F_CREATE,
                attributes: attributes,
                subject: self.fixedCount == nil ? "the ports of set \(self.name)" : "the ports of a rule's set"
            )
        }
    }

    private static func list(_ elements: ArraySlice<(key: UInt16, value: UInt16?)>) -> NetlinkAttributes {
        func data(_ port: UInt16) -> NetlinkAttributes {
            NetlinkAttributes { $0.add(NFTA_DATA_VALUE, NetlinkAttributes.bytes(port)) }
        }
        return NetlinkAttributes { list in
            for (index, element) in elements.enumerated() {
                let attributes = NetlinkAttributes {
                    $0.add(NFTA_SET_ELEM_KEY, data(element.key))
                    if let value = element.value { $0.add(NFTA_SET_ELEM_DATA, data(value)) }
                }
                // libnftnl numbers the elements; the kernel ignores the numbers.
                list.add(ListIndex(rawValue: UInt32(index + 1)), attributes)
            }
        }
    }

    private struct ListIndex: RawRepresentable { var rawValue: UInt32 }

    /// Removes all elements.
    func flush(_ table: String) -> NFTablesMessage {
        let attributes = NetlinkAttributes {
            $0.add(NFTA_SET_ELEM_LIST_SET, self.name)
            $0.add(NFTA_SET_ELEM_LIST_TABLE, table)
        }
        return NFTablesMessage(
            type: NFT_MSG_DELSETELEM,
            attributes: attributes,
            subject: "the ports of set \(self.name)"
        )
    }
}
#endif

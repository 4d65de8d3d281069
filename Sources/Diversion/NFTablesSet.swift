#if os(Linux)
import CNetlink
import InterceptModel

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
    /// The list of elements is one attribute of at most 64 KiB. A map's element takes 28 bytes, one with a comment up to 160.
    private static let elementsAtOnce = 1_024
    private static let elementsWithCommentsAtOnce = 256
    /// With the byte 0 at its end, as nft has it.
    private static let maxComment = 128
    /// NFTNL_UDATA_SET_ELEM_COMMENT of libnftnl, which is how nft writes comments.
    private static let commentType: UInt8 = 0

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

    private struct Element {
        var key: UInt16
        var value: UInt16?
        var comment: String?
    }

    /// - Parameter comments: comments of ports that are in `ports`; nft shows them.
    func fill(_ table: String, _ ports: Set<UInt16>, comments: [UInt16: String] = [:]) -> [NFTablesMessage] {
        self.fill(table, ports.sorted().map { Element(key: $0, comment: comments[$0]) })
    }

    func fill(_ table: String, _ ports: [UInt16: UInt16]) -> [NFTablesMessage] {
        self.fill(table, ports.sorted { $0.key < $1.key }.map { Element(key: $0.key, value: $0.value) })
    }

    private func fill(_ table: String, _ elements: [Element]) -> [NFTablesMessage] {
        let hasComments = elements.contains { $0.comment != nil }
        let atOnce = hasComments ? Self.elementsWithCommentsAtOnce : Self.elementsAtOnce
        return stride(from: 0, to: elements.count, by: atOnce).map { start in
            let some = elements[start..<min(start + atOnce, elements.count)]
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

    private static func list(_ elements: ArraySlice<Element>) -> NetlinkAttributes {
        func data(_ port: UInt16) -> NetlinkAttributes {
            NetlinkAttributes { $0.add(NFTA_DATA_VALUE, NetlinkAttributes.bytes(port)) }
        }
        return NetlinkAttributes { list in
            for (index, element) in elements.enumerated() {
                let attributes = NetlinkAttributes {
                    $0.add(NFTA_SET_ELEM_KEY, data(element.key))
                    if let value = element.value { $0.add(NFTA_SET_ELEM_DATA, data(value)) }
                    if let comment = element.comment { $0.add(NFTA_SET_ELEM_USERDATA, Self.userData(comment)) }
                }
                // libnftnl numbers the elements; the kernel ignores the numbers.
                list.add(ListIndex(rawValue: UInt32(index + 1)), attributes)
            }
        }
    }

    /// A type, a length, the text and a 0. nft prints the text unchanged, between quotation marks.
    private static func userData(_ comment: String) -> [UInt8] {
        var text: [UInt8] = []
        for character in comment.printable {
            let bytes = character == "\"" || character == "\\" ? [UInt8(ascii: "'")] : Array(character.utf8)
            guard text.count + bytes.count < Self.maxComment else { break }
            text += bytes
        }
        return [Self.commentType, UInt8(text.count + 1)] + text + [0]
    }

    private struct ListIndex: RawRepresentable { var rawValue: UInt32 }

    // MARK: Reading

    /// The ports of a message about a set's elements, with their comments.
    static func elements(of content: UnsafeRawBufferPointer) -> [(port: UInt16, comment: String?)] {
        let start = MemoryLayout<nfgenmsg>.size
        guard content.count >= start else { return [] }
        var found: [(UInt16, String?)] = []
        ConntrackMessage.attributes(UnsafeRawBufferPointer(rebasing: content[start...])) { type, list in
            guard UInt32(type) == NFTA_SET_ELEM_LIST_ELEMENTS.rawValue else { return }
            ConntrackMessage.attributes(list) { _, element in if let one = Self.element(element) { found.append(one) } }
        }
        return found
    }

    private static func element(_ bytes: UnsafeRawBufferPointer) -> (UInt16, String?)? {
        var port: UInt16?
        var comment: String?
        ConntrackMessage.attributes(bytes) { type, value in
            switch UInt32(type) {
            case NFTA_SET_ELEM_KEY.rawValue:
                ConntrackMessage.attributes(value) { type, key in
                    guard UInt32(type) == NFTA_DATA_VALUE.rawValue, key.count == Self.portSize else { return }
                    port = UInt16(bigEndian: key.loadUnaligned(as: UInt16.self))
                }
            case NFTA_SET_ELEM_USERDATA.rawValue: comment = Self.comment(value)
            default: break
            }
        }
        return port.map { ($0, comment) }
    }

    private static func comment(_ bytes: UnsafeRawBufferPointer) -> String? {
        var rest = bytes[...]
        while rest.count >= 2 {
            let (type, length) = (rest[rest.startIndex], Int(rest[rest.startIndex + 1]))
            rest = rest.dropFirst(2)
            guard length <= rest.count else { return nil }
            if type == Self.commentType {
                let text = String(decoding: rest.prefix(length).prefix { $0 != 0 }, as: UTF8.self).printable
                return text.isEmpty ? nil : text
            }
            rest = rest.dropFirst(length)
        }
        return nil
    }

    // MARK: Emptying

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

import Noise

/// The text of one secret key, in locked memory from the first read to the last parse.
enum KeyText {
    /// 44 characters, a newline, and room for some blanks; longer text isn't a key.
    static let limit = 64

    enum Outcome: ~Copyable {
        case text(LockedBytes, count: Int)
        case tooLong
    }

    /// `fill` writes the text, up to one byte more than the limit, and returns its length.
    static func read<E: Error>(_ fill: (inout MutableRawSpan) throws(E) -> Int) throws(E) -> Outcome {
        var buffer = LockedBytes(byteCount: limit + 1)
        let count = try buffer.withMutableBytes(fill)
        return count <= limit ? .text(buffer, count: count) : .tooLong
    }

    /// Calls `parse` with the text without trailing blanks, which `wg` allows as well.
    static func parse<Key>(_ text: borrowing LockedBytes, count: Int, _ parse: (RawSpan) -> Key?) -> Key? {
        text.withBytes { bytes in
            var end = min(count, bytes.byteCount)
            while end > 0, isBlank(bytes.unsafeLoad(fromByteOffset: end - 1, as: UInt8.self)) { end -= 1 }
            return parse(bytes.extracting(first: end))
        }
    }

    static func isBlank(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: " ") || (0x09...0x0d ~= byte)
    }
}

/// Decodes a terminal's input into keys. Bytes come in pieces of any size; what isn't understood is dropped.
///
///                   ┌───────────────────────────────┐
///                   │            ground             │◄── end of a sequence, or a byte that can't belong to it
///                   └─┬────────────┬────────────────┘
///     lead byte of UTF-8           │ ESC
///                   ▼              ▼
///              character        escape ──── "[" ──► control sequence (CSI), until its last byte
///                                  ├─────── "O" ──► one more byte (SS3)
///                                  ├── "]PX^_" ──► string (OSC, DCS, SOS, PM, APC), until BEL or ST
///                                  └── expire() ──► the key Esc
///
/// Only time can tell a lone ESC from the start of a sequence: while `isWaiting`, the driver calls `expire()` after
/// `KeyDecoder.patience` without input.
public struct KeyDecoder: Sendable {
    private enum State: Equatable {
        case ground
        case character(value: UInt32, missing: Int, least: UInt32)
        case escape
        /// The parameters so far; nil once they are longer than those of any known sequence.
        case sequence([UInt8]?)
        /// The Linux console's function keys: ESC [ [ and a letter.
        case consoleKey
        case singleShift
        case string(length: Int, sawEscape: Bool)
    }

    /// In milliseconds. Sequences come in one piece; over a slow line their pieces are rarely further apart.
    public static let patience: CInt = 50

    /// No known sequence has more bytes of parameters.
    private static let longestParameters = 32
    /// Pastes and terminals' strings have an end of their own; these limits are for those whose end never comes.
    private static let longestString = 4_096
    private static let longestPaste = 65_536

    private var state = State.ground
    /// The bytes that a bracketed paste may still have; nil outside of one.
    private var pasteLeft: Int?

    public init() {}

    /// Whether `expire()` would change something.
    public var isWaiting: Bool {
        switch self.state {
        case .escape, .string: true
        case .ground, .character, .sequence, .consoleKey, .singleShift: false
        }
    }

    public mutating func decode(_ bytes: some Sequence<UInt8>) -> [Key] {
        var keys: [Key] = []
        for byte in bytes { self.take(byte, into: &keys) }
        return keys
    }

    /// Called after a time without input: a lone ESC is the key Esc.
    public mutating func expire() -> [Key] {
        guard self.isWaiting else { return [] }
        let wasEscape = self.state == .escape
        self.state = .ground
        return wasEscape && self.pasteLeft == nil ? [.escape] : []
    }

    private mutating func take(_ byte: UInt8, into keys: inout [Key]) {
        if let left = self.pasteLeft { self.pasteLeft = left > 0 ? left - 1 : nil }
        switch self.state {
        case .ground:
            self.takeOnGround(byte, into: &keys)
        case .character(let value, let missing, let least):
            guard byte & 0xC0 == 0x80 else { return self.startAnew(with: byte, into: &keys) }
            let value = value << 6 | UInt32(byte & 0x3F)
            if missing > 1 {
                self.state = .character(value: value, missing: missing - 1, least: least)
            } else {
                self.state = .ground
                // Not UTF-8: an overlong form, a surrogate, or a value beyond Unicode.
                guard value >= least, let scalar = Unicode.Scalar(value) else { return }
                // C1 controls (U+0080 to U+009F) aren't text.
                if scalar.value >= 0xA0 { keys.append(.character(Character(scalar))) }
            }
        case .escape:
            self.takeAfterEscape(byte, into: &keys)
        case .sequence(let parameters):
            self.takeInSequence(byte, parameters, into: &keys)
        case .consoleKey:
            if byte < 0x20 || byte > 0x7E { return self.startAnew(with: byte, into: &keys) }
            self.state = .ground
        case .singleShift:
            if byte < 0x20 || byte > 0x7E { return self.startAnew(with: byte, into: &keys) }
            self.state = .ground
            if self.pasteLeft == nil, let key = Self.key(ofSingleShift: byte) { keys.append(key) }
        case .string(let length, let sawEscape):
            self.takeInString(byte, length, sawEscape, into: &keys)
        }
    }

    private mutating func startAnew(with byte: UInt8, into keys: inout [Key]) {
        self.state = .ground
        self.takeOnGround(byte, into: &keys)
    }

    private mutating func takeOnGround(_ byte: UInt8, into keys: inout [Key]) {
        switch byte {
        case 0x1B: self.state = .escape
        case 0x20...0x7E: keys.append(.character(Character(Unicode.Scalar(byte))))
        case 0xC2...0xDF: self.state = .character(value: UInt32(byte & 0x1F), missing: 1, least: 0x80)
        case 0xE0...0xEF: self.state = .character(value: UInt32(byte & 0x0F), missing: 2, least: 0x800)
        case 0xF0...0xF4: self.state = .character(value: UInt32(byte & 0x07), missing: 3, least: 0x1_0000)
        case 0x80...0xFF: break
        default:
            if byte == 0x03 {
                // Ctrl-C always works, even if the end of a paste never comes.
                self.pasteLeft = nil
                keys.append(.control("c"))
            } else if self.pasteLeft != nil {
                // A pasted line break must not answer the question.
                keys.append(.character(" "))
            } else if let key = Self.key(ofControl: byte) {
                keys.append(key)
            }
        }
    }

    private mutating func takeAfterEscape(_ byte: UInt8, into keys: inout [Key]) {
        switch byte {
        case 0x1B: break
        case UInt8(ascii: "["): self.state = .sequence([])
        case UInt8(ascii: "O"): self.state = .singleShift
        case UInt8(ascii: "]"), UInt8(ascii: "P"), UInt8(ascii: "X"), UInt8(ascii: "^"), UInt8(ascii: "_"):
            self.state = .string(length: 0, sawEscape: false)
        // Alt with a letter has no meaning here.
        case 0x20...0x7E: self.state = .ground
        case 0x7F, 0x08:
            // Alt-Backspace deletes a word.
            self.state = .ground
            if self.pasteLeft == nil { keys.append(.control("w")) }
        default: self.startAnew(with: byte, into: &keys)
        }
    }

    private mutating func takeInSequence(_ byte: UInt8, _ parameters: [UInt8]?, into keys: inout [Key]) {
        switch byte {
        case 0x20...0x3F:
            guard var known = parameters, known.count < Self.longestParameters else {
                self.state = .sequence(nil)
                return
            }
            known.append(byte)
            self.state = .sequence(known)
        case UInt8(ascii: "[") where parameters == []:
            self.state = .consoleKey
        case 0x40...0x7E:
            self.state = .ground
            guard let parameters else { return }
            self.finishSequence(parameters, byte, into: &keys)
        case 0x7F: break
        default: self.startAnew(with: byte, into: &keys)
        }
    }

    private mutating func finishSequence(_ parameters: [UInt8], _ last: UInt8, into keys: inout [Key]) {
        let number = Self.firstNumber(parameters)
        if last == UInt8(ascii: "~"), number == 200 {
            self.pasteLeft = Self.longestPaste
        } else if last == UInt8(ascii: "~"), number == 201 {
            self.pasteLeft = nil
        } else if self.pasteLeft == nil, let key = Self.key(ofSequence: last, number) {
            keys.append(key)
        }
    }

    private mutating func takeInString(
        _ byte: UInt8,
        _ length: Int,
        _ sawEscape: Bool,
        into keys: inout [Key]
    ) {
        // BEL ends the string; Ctrl-C works even here.
        if byte == 0x07 {
            self.state = .ground
        } else if byte == 0x03 {
            self.startAnew(with: byte, into: &keys)
        } else if sawEscape {
            // ESC \ ends the string; any other byte after ESC begins a sequence.
            self.state = byte == UInt8(ascii: "\\") ? .ground : .escape
            if self.state == .escape { self.takeAfterEscape(byte, into: &keys) }
        } else if length >= Self.longestString {
            self.state = .ground
        } else {
            self.state = .string(length: length + 1, sawEscape: byte == 0x1B)
        }
    }
}

extension KeyDecoder {
    private static func key(ofControl byte: UInt8) -> Key? {
        switch byte {
        case 0x0D: .enter
        case 0x09: .tab
        case 0x08, 0x7F: .backspace
        case 0x01...0x1A: .control(Character(Unicode.Scalar(byte + 0x60)))
        default: nil
        }
    }

    private static func key(ofSingleShift byte: UInt8) -> Key? {
        // The keypad's Enter.
        if byte == UInt8(ascii: "M") { return .enter }
        return self.key(ofSequence: byte, nil)
    }

    /// The cursor keys of ECMA-48 as xterm sends them, and the numbered keys of the VT220 and of rxvt. Modifiers (`1;5A`)
    /// are ignored.
    private static func key(ofSequence last: UInt8, _ number: Int?) -> Key? {
        switch (last, number) {
        case (UInt8(ascii: "A"), _): .up
        case (UInt8(ascii: "B"), _): .down
        case (UInt8(ascii: "C"), _): .right
        case (UInt8(ascii: "D"), _): .left
        case (UInt8(ascii: "H"), _): .home
        case (UInt8(ascii: "F"), _): .end
        case (UInt8(ascii: "Z"), _): .backTab
        case (UInt8(ascii: "~"), 1), (UInt8(ascii: "~"), 7): .home
        case (UInt8(ascii: "~"), 4), (UInt8(ascii: "~"), 8): .end
        case (UInt8(ascii: "~"), 3): .delete
        case (UInt8(ascii: "~"), 5): .pageUp
        case (UInt8(ascii: "~"), 6): .pageDown
        default: nil
        }
    }

    private static func firstNumber(_ parameters: [UInt8]) -> Int? {
        let digits = parameters.prefix { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        guard !digits.isEmpty, digits.count <= 4 else { return nil }
        return digits.reduce(0) { $0 * 10 + Int($1 - UInt8(ascii: "0")) }
    }
}

/// Text as a terminal shows it: a cell for each character, with its width in columns.
///
/// Names come from files that others wrote. Whatever would move the cursor or change the reading order (control characters,
/// escapes, direction marks) is shown as `?`, so that no name can affect the terminal. Characters without a width that join
/// others (joiners, variation selectors) are left out: terminals disagree on the width of the result.
struct DisplayText: Equatable, Sendable {
    struct Cell: Equatable, Sendable {
        var text: String
        var width: Int
    }

    /// One for each character of the text; some may be empty.
    let cells: [Cell]

    init(_ text: String) {
        // Cut the text: no terminal's row is that long.
        self.cells = String(text.unicodeScalars.prefix(Self.longest)).map { Self.cell(of: $0) }
    }

    init(_ characters: [Character]) {
        self.cells = characters.map { Self.cell(of: $0) }
    }

    /// In Unicode scalars.
    static let longest = 2_000

    var width: Int { self.cells.reduce(0) { $0 + $1.width } }

    var text: String { self.cells.reduce(into: "") { $0 += $1.text } }

    /// The limits for one character, which may have any number of combining marks and columns; what is beyond isn't shown.
    private static let mostMarks = 3
    private static let widestCell = 8

    private static func cell(of character: Character) -> Cell {
        var cell = Cell(text: "", width: 0)
        var marks = 0
        for scalar in character.unicodeScalars {
            switch DisplayedScalar(scalar) {
            case .dropped:
                continue
            case .mark:
                if cell.width == 0 {
                    cell = Cell(text: "?", width: 1)
                } else if marks < self.mostMarks {
                    cell.text.unicodeScalars.append(scalar)
                    marks += 1
                }
            case .modifier(let width):
                // An emoji's skin colour. After an emoji it is left out; by itself it is shown.
                guard cell.width == 0 else { continue }
                cell.text.unicodeScalars.append(scalar)
                cell.width += width
            case .letter(let letter):
                guard cell.width < self.widestCell else { return cell }
                cell.text.unicodeScalars.append(letter)
                cell.width += 1
            case .replaced:
                guard cell.width < self.widestCell else { return cell }
                cell.text += "?"
                cell.width += 1
            case .shown(let width):
                guard cell.width + width <= self.widestCell else { return cell }
                cell.text.unicodeScalars.append(scalar)
                cell.width += width
            }
        }
        return cell
    }
}

private enum DisplayedScalar {
    case shown(width: Int)
    case modifier(width: Int)
    /// Half of a flag: terminals show a pair of them in two to four columns, so it is shown as a letter.
    case letter(Unicode.Scalar)
    /// A combining mark, shown on the character before it.
    case mark
    case replaced
    case dropped

    init(_ scalar: Unicode.Scalar) {
        if (0x20...0x7E).contains(scalar.value) {
            self = .shown(width: 1)
            return
        }
        let properties = scalar.properties
        switch properties.generalCategory {
        case .control, .surrogate, .lineSeparator, .paragraphSeparator:
            self = .replaced
        case _ where properties.isBidiControl || properties.isNoncharacterCodePoint:
            self = .replaced
        case _ where properties.isDefaultIgnorableCodePoint:
            self = .dropped
        case .format:
            self = .replaced
        case .nonspacingMark, .enclosingMark:
            self = .mark
        default:
            if Self.isConjoiningJamo(scalar) {
                self = .mark
            } else if let letter = Self.letter(ofRegionalIndicator: scalar) {
                self = .letter(letter)
            } else {
                let width = WideRanges.contains(scalar) ? 2 : 1
                self = properties.isEmojiModifier ? .modifier(width: width) : .shown(width: width)
            }
        }
    }

    /// Hangul vowels and final consonants, which share the cell of the consonant before them.
    private static func isConjoiningJamo(_ scalar: Unicode.Scalar) -> Bool {
        (0x1160...0x11FF).contains(scalar.value) || (0xD7B0...0xD7FF).contains(scalar.value)
    }

    private static func letter(ofRegionalIndicator scalar: Unicode.Scalar) -> Unicode.Scalar? {
        guard (0x1F1E6...0x1F1FF).contains(scalar.value) else { return nil }
        return Unicode.Scalar(scalar.value - 0x1F1E6 + 0x41)
    }
}

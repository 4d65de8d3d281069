import Foundation
import Testing

@testable import Interactive

/// A story of screens, compared with the one in `Screens/NAME.txt`. `KL_STORE_SCREENS=1` writes that file anew, for a
/// person to read and commit.
struct StoredScreens {
    private let name: String
    private var text = ""

    init(_ name: String) {
        self.name = name
    }

    mutating func show(_ what: String, _ dialogue: some Dialogue, _ width: Int = 80, _ height: Int = 24) {
        let screen = dialogue.screen(width: width, height: height)
        expectSound(screen, width: width, height: height)
        let cursor = screen.cursor.map { ", cursor at \($0.row):\($0.column)" } ?? ""
        self.text += "== \(what) (\(width)x\(height)\(cursor))\n\(screen.plainText)\n\n"
    }

    func expectStored(_ place: SourceLocation = #_sourceLocation) throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Screens")
        let file = folder.appending(path: "\(self.name).txt")
        if ProcessInfo.processInfo.environment["KL_STORE_SCREENS"] == "1" {
            try self.text.write(to: file, atomically: true, encoding: .utf8)
        }
        let stored = try String(contentsOf: file, encoding: .utf8)
        #expect(self.text == stored, "see \(file.path)", sourceLocation: place)
    }
}

import InterceptModel
import InterceptProtocol

/// One finding of `kl doctor`: a state, and what to do about it. A value, made of facts that were gathered before.
struct Check: Codable, Equatable {
    enum State: String, Codable {
        case ok
        /// Something doesn't work that only some users need.
        case warning
        /// `kl` doesn't work until this is fixed.
        case failed
    }

    var name: String
    var state: State
    /// What was found, as a clause.
    var text: String
    /// What to do, as a sentence.
    var mend: String?

    static func ok(_ name: String, _ text: String) -> Check { Check(name: name, state: .ok, text: text) }

    static func warning(_ name: String, _ text: String, _ mend: String) -> Check {
        Check(name: name, state: .warning, text: text, mend: mend)
    }

    static func failed(_ name: String, _ text: String, _ mend: String) -> Check {
        Check(name: name, state: .failed, text: text, mend: mend)
    }

    static func failed(_ name: String, _ problem: Problem) -> Check {
        .failed(name, problem.what, problem.remedy ?? "Fix that.")
    }
}

/// The output of `kl doctor`.
struct DoctorView: Codable {
    /// Nothing has failed.
    var isUsable: Bool
    var checks: [Check]

    init(_ checks: [Check]) {
        self.isUsable = !checks.contains { $0.state == .failed }
        self.checks = checks
    }

    func text(_ marks: Marks) -> String {
        let width = (self.checks.map(\.name.count).max() ?? 0) + 3
        return self.checks.map { check in
            let name = check.name + String(repeating: " ", count: width - check.name.count)
            let sentence = check.text + (check.mend.map { ". \($0)" } ?? "")
            // The text may contain paths and other programs' output; keep it on one line.
            let line = String.UnicodeScalarView(sentence.unicodeScalars.map { $0.isVisible ? $0 : " " })
            return "\(marks[check.state]) \(name)\(String(line))\n"
        }
        .joined()
    }

    struct Marks {
        var ok = "✓"
        var failed = "✗"

        subscript(_ state: Check.State) -> String {
            switch state {
            case .ok: self.ok
            case .warning: "!"
            case .failed: self.failed
            }
        }
    }
}

import ComposeFiles
import Environments
import InterceptModel

/// Of a file in a folder that isn't there, so that every path in it is known.
func parse(_ text: String, environment: [String: String] = [:]) throws(Problem) -> ComposeFile {
    try ComposeFile.parse(text: text, path: "/no/such/demo/compose.yaml", environment: environment)
}

/// Line, column and the rest of an error, or of a warning.
func withoutPath(_ text: String) -> String { text.replacing("/no/such/demo/compose.yaml:", with: "") }

func failure(_ text: String, environment: [String: String] = [:]) -> String? {
    do throws(Problem) {
        _ = try parse(text, environment: environment)
        return nil
    } catch {
        return error.code == .file ? withoutPath(error.description) : "\(error)"
    }
}

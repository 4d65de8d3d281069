import InterceptModel

/// Whether the program that a sidecar stands before still takes clients.
public enum OriginalListeners {
    /// Whether a program in this network namespace listens on one of these ports; true if that can't be told.
    public static func listen(on ports: some Sequence<ServicePort>) -> Bool {
        #if os(Linux)
        do throws(DiversionError) {
            let diagnosis = try SocketDiagnosis()
            for port in ports where try diagnosis.isListenedOn(port) { return true }
            return false
        } catch { return true }
        #else
        return true
        #endif
    }
}

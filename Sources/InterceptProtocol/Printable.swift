extension String {
    /// A peer's string, safe to show: at most 256 bytes, without control characters and without what turns a terminal's
    /// writing direction around.
    public var printable: String {
        var result = ""
        var count = 0
        for scalar in self.unicodeScalars {
            let size = String(scalar).utf8.count
            if count + size > 256 { break }
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .privateUse, .unassigned: continue
            default: break
            }
            result.unicodeScalars.append(scalar)
            count += size
        }
        return result
    }
}

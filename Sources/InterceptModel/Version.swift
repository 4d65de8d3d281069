/// One version for all three programs: they are released together.
public enum Version {
    public static let number = "0.1.0"
    public static let text = "kl \(number), tunnel protocol 1"
}

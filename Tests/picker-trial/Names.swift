import Interactive

/// Services as nobody should name them, and some as everybody does.
enum Names {
    static let stems = [
        "api-server", "billing", "支払い-サービス", "café-menu", "données", "배송-추적", "auth-gateway", "Überweisung",
        "orders.v2", "🚀-launcher", "search_index", "web",
    ]

    static func services(_ count: Int) -> [ServiceOffer] {
        (0..<max(0, count)).map { index in
            let stem = self.stems[index % self.stems.count]
            let round = index / self.stems.count
            return ServiceOffer(
                name: round == 0 ? stem : "\(stem)-\(round)",
                state: index % 7 == 3 ? "starting" : "running",
                ports: (0...(index % 3)).map { PortOffer(UInt16(clamping: 8_080 + index + 1_000 * $0)) },
                refusal: index % 12 == 1 ? "intercepted by ada@thinkpad" : nil
            )
        }
    }
}

import NIOCore
import Noise
import Tunnel

/// Which byte stream a workspace dials, and when.
///
/// ```
///          ┌──────────────── the wait is over ◀──────────────────┐
///          ▼                                                     │
///   dialling(round) ── opened ──▶ unanswered(round) ──┐          │
///     ▲    │                        │                 │          │
///     │    │ failed           closed: explain      answered      │
///     │    ▼                        │                 ▼          │
///     └── next address ◀────────────┘               idle ── closed ──▶ waiting
///              └── none is left: report ─────────────────────────────────▲
/// ```
///
/// A carrier that closes unanswered led nowhere, as if it couldn't be dialled: `explain` asks the driver why, and `failed` has
/// the answer. There may be two carriers: after this machine's network has changed, one is dialled beside the other.
///
/// A value type: events go in with their time, and what its driver has to do comes out.
struct StreamDialMachine {
    enum Event: Equatable {
        case start
        case stop
        /// From now on these are the addresses.
        case addresses([TunnelClient.Address])
        case networkChanged
        /// Datagrams don't get through any more: a byte stream is needed without a pause.
        case streamIsNeeded
        case waited
        case opened(CarrierID, TunnelClient.Address)
        /// The time that `limit` set is over.
        case limitReached(CarrierID)
        case answered(CarrierID)
        /// - Parameter rest: how long to dial nothing, as the last connection has ended with an error.
        case closed(CarrierID, rest: TimeAmount?)
        /// The address that was to be dialled, or whose end was to be explained.
        case failed(DialFailure)
    }

    enum Action: Equatable {
        /// Opens a carrier, or fails.
        case dial(TunnelClient.Address, within: TimeAmount)
        /// `waited` is due then. An earlier wait is over.
        case wait(TimeAmount)
        case stopWaiting
        case limit(CarrierID, TimeAmount)
        /// Closes a carrier that gives no answer.
        case giveUp(CarrierID)
        case close(CarrierID)
        /// The carrier, which has closed, led nowhere: `failed` is due once it is known why.
        case explain(CarrierID)
        case report([DialFailure], retryIn: TimeAmount)
        /// The last carrier has closed.
        case lost
    }

    private enum State {
        case off
        /// A carrier is open, or there is no address.
        case idle
        case waiting
        /// An address is dialled, or a command that led nowhere is being ended. nil: the round is over, whatever comes of it.
        case dialling(DialAttempt?)
        /// The carrier is open.
        case unanswered(DialAttempt)
    }

    private struct Carrier {
        let id: CarrierID
        let address: TunnelClient.Address
        let openedAt: Instant
        var isAnswered = false
    }

    private var state = State.off
    private var order: DialOrder
    private var pauses = DialPauses()
    private var carriers: [Carrier] = []
    private let random: RandomSource
    /// The address of the carrier that was answered last.
    private(set) var answeredAddress: TunnelClient.Address?

    private static let carriersAtMost = 2

    init(_ addresses: [TunnelClient.Address], random: RandomSource) {
        self.order = DialOrder(addresses)
        self.random = random
    }

    var isOn: Bool { if case .off = self.state { false } else { true } }

    func has(_ id: CarrierID) -> Bool { self.carriers.contains { $0.id == id } }

    mutating func handle(_ event: Event, at now: Instant) -> [Action] {
        switch event {
        case .start: return self.isOn ? [] : self.dial(at: now)
        case .stop:
            self.state = .off
            return [.stopWaiting]
        case .addresses(let addresses): return self.use(addresses, at: now)
        case .networkChanged: return self.dialBeside(at: now)
        case .streamIsNeeded:
            guard case .waiting = self.state else { return [] }
            self.pauses.startOver()
            return [.stopWaiting] + self.dial(at: now)
        case .waited:
            guard case .waiting = self.state else { return [] }
            return self.dial(at: now)
        case .opened(let id, let address): return self.opened(id, address, at: now)
        case .limitReached(let id): return self.limitReached(id)
        case .answered(let id):
            self.answered(id)
            return []
        case .closed(let id, let rest): return self.closed(id, rest: rest, at: now)
        case .failed(let failure):
            guard case .dialling(let round) = self.state else { return [] }
            return self.failed(failure, in: round, at: now)
        }
    }

    // MARK: Rounds

    /// Begins a round, unless there is a carrier.
    private mutating func dial(at now: Instant) -> [Action] {
        guard self.carriers.isEmpty, !self.order.addresses.isEmpty else {
            self.state = .idle
            return []
        }
        return self.goOn(with: DialAttempt(self.order.attempt(at: now)))
    }

    private mutating func dialBeside(at now: Instant) -> [Action] {
        switch self.state {
        case .off, .dialling: return []
        case .idle, .waiting, .unanswered: break
        }
        guard self.carriers.count < Self.carriersAtMost, !self.order.addresses.isEmpty else { return [] }
        self.pauses.startOver()
        return [.stopWaiting] + self.goOn(with: DialAttempt(self.order.attempt(at: now)))
    }

    /// Dials the round's next address, or ends the round.
    private mutating func goOn(with round: DialAttempt) -> [Action] {
        var round = round
        if let address = round.next() {
            self.state = .dialling(round)
            return [.dial(address, within: round.connectTimeout)]
        }
        self.state = .waiting
        switch self.pauses.afterFailure(saysLittle: round.saysLittle, random: self.random) {
        case .soon(let pause): return [.wait(pause)]
        case .later(let pause, let step): return [.wait(pause), .report(round.failures, retryIn: step)]
        }
    }

    private mutating func failed(_ failure: DialFailure, in round: DialAttempt?, at now: Instant) -> [Action] {
        self.order.failed(failure.address, at: now)
        guard var round else { return self.dial(at: now) }
        round.failed(failure)
        return self.goOn(with: round)
    }

    private mutating func use(_ addresses: [TunnelClient.Address], at now: Instant) -> [Action] {
        guard addresses != self.order.addresses else { return [] }
        self.order = DialOrder(addresses)
        self.answeredAddress = nil
        guard self.isOn else { return [] }
        self.pauses.startOver()
        var actions: [Action] = [.stopWaiting] + self.carriers.map { .close($0.id) }
        if !self.carriers.isEmpty { actions.append(.lost) }
        self.carriers.removeAll()
        if case .dialling = self.state {
            self.state = .dialling(nil)
            return actions
        }
        return actions + self.dial(at: now)
    }

    // MARK: Carriers

    /// A carrier that isn't wanted any more isn't taken: see `has`.
    private mutating func opened(_ id: CarrierID, _ address: TunnelClient.Address, at now: Instant) -> [Action] {
        guard case .dialling(let round) = self.state else { return [] }
        guard self.order.addresses.contains(address) else { return self.dial(at: now) }
        self.carriers.append(Carrier(id: id, address: address, openedAt: now))
        guard let round else {
            self.state = .idle
            return []
        }
        self.state = .unanswered(round)
        return round.answerTimeout(for: address).map { [.limit(id, $0)] } ?? []
    }

    private mutating func answered(_ id: CarrierID) {
        guard let at = self.carriers.firstIndex(where: { $0.id == id }) else { return }
        self.carriers[at].isAnswered = true
        self.answeredAddress = self.carriers[at].address
        self.order.answered(self.carriers[at].address)
        self.pauses.startOver()
        switch self.state {
        case .dialling: self.state = .dialling(nil)
        case .unanswered: self.state = .idle
        case .off, .idle, .waiting: break
        }
    }

    private func limitReached(_ id: CarrierID) -> [Action] {
        guard let carrier = self.carriers.first(where: { $0.id == id }), !carrier.isAnswered else { return [] }
        switch self.state {
        case .dialling(.some), .unanswered: return [.giveUp(id)]
        case .off, .idle, .waiting, .dialling(nil): return []
        }
    }

    private mutating func closed(_ id: CarrierID, rest: TimeAmount?, at now: Instant) -> [Action] {
        guard let at = self.carriers.firstIndex(where: { $0.id == id }) else { return [] }
        let carrier = self.carriers.remove(at: at)
        guard self.isOn, self.carriers.isEmpty else { return [] }
        switch self.state {
        case .off, .dialling, .waiting: return [.lost]
        case .unanswered(let round) where rest == nil && !carrier.isAnswered:
            self.state = .dialling(round)
            return [.lost, .explain(id)]
        case .idle, .unanswered:
            self.state = .waiting
            return [.lost, .wait(rest ?? self.pauses.afterCarrier(thatLived: now - carrier.openedAt))]
        }
    }
}

import Synchronization

/// The descriptors of a process that sockets towards local servers may have, of all its tunnels together.
///
/// A sidecar opens as many streams as it likes up to its credit, and each costs a descriptor here. Some are kept back for everything
/// else: the tunnels themselves, `kl`'s commands, files. Of the rest each tunnel may have four times† what is free (a dynamic
/// threshold: Choudhury and Hahne, 1998). So one alone gets four fifths, and the next still finds some.
public final class LocalDescriptors: Sendable {
    let atMost: Int
    fileprivate let used = Atomic<Int>(0)

    private static let keptBack = 192  // †
    fileprivate static let timesWhatIsFree = 4  // †

    /// - Parameter limit: how many files and sockets this process may have open.
    public init(limit: Int) {
        self.atMost = max(8, limit - min(limit / 2, max(Self.keptBack, limit / 8)))
    }

    /// What one tunnel gets while no other has any.
    var mostForOne: Int { self.atMost * Self.timesWhatIsFree / (Self.timesWhatIsFree + 1) }
}

/// What one tunnel has of them.
final class DescriptorShare {
    private let all: LocalDescriptors
    private(set) var count = 0

    init(of all: LocalDescriptors) { self.all = all }

    /// nil: none is left for this tunnel. Else it is held for as long as what is returned lives.
    func take() -> HeldDescriptor? {
        let free = self.all.atMost - self.all.used.load(ordering: .relaxed)
        guard free > 0, self.count < LocalDescriptors.timesWhatIsFree * free else { return nil }
        self.count += 1
        self.all.used.wrappingAdd(1, ordering: .relaxed)
        return HeldDescriptor(of: self)
    }

    fileprivate func giveBack() {
        self.count -= 1
        self.all.used.wrappingSubtract(1, ordering: .relaxed)
    }
}

final class HeldDescriptor {
    private let share: DescriptorShare

    fileprivate init(of share: DescriptorShare) { self.share = share }

    deinit { self.share.giveBack() }
}

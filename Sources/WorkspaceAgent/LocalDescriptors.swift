import Synchronization

/// The process's budget of descriptors for sockets to local servers, shared by all of its tunnels.
///
/// A sidecar may open as many streams as its credit allows, and each costs a descriptor here. Some are reserved for everything
/// else: the tunnels themselves, `kl`'s commands, files. Of the rest, each tunnel may use up to four times† what is free (a
/// dynamic threshold: Choudhury and Hahne, 1998). So one tunnel alone gets four fifths, and another still finds some.
public final class LocalDescriptors: Sendable {
    let atMost: Int
    fileprivate let used = Atomic<Int>(0)

    private static let keptBack = 192  // †
    fileprivate static let timesWhatIsFree = 4  // †

    /// - Parameter limit: the process's limit of open files and sockets.
    public init(limit: Int) {
        self.atMost = max(8, limit - min(limit / 2, max(Self.keptBack, limit / 8)))
    }

    /// What one tunnel gets while no other uses any.
    var mostForOne: Int { self.atMost * Self.timesWhatIsFree / (Self.timesWhatIsFree + 1) }
}

/// One tunnel's part of `LocalDescriptors`.
final class DescriptorShare {
    private let all: LocalDescriptors
    private(set) var count = 0

    init(of all: LocalDescriptors) { self.all = all }

    /// nil if this tunnel may use no more. The descriptor counts as used until the returned object is freed.
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

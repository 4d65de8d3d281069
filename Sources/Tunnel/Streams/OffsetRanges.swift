/// Disjoint ranges in rising order, for few ranges: acknowledged numbers, bytes to send again.
struct OffsetRanges {
    private(set) var ranges: [Range<UInt64>] = []

    var isEmpty: Bool { self.ranges.isEmpty }
    var first: Range<UInt64>? { self.ranges.first }
    var last: Range<UInt64>? { self.ranges.last }
    var count: Int { self.ranges.count }

    /// Index of the first range that ends at or after this offset.
    private func position(_ offset: UInt64) -> Int {
        var low = 0
        var high = self.ranges.count
        while low < high {
            let middle = (low + high) / 2
            if self.ranges[middle].upperBound < offset { low = middle + 1 } else { high = middle }
        }
        return low
    }

    func contains(_ offset: UInt64) -> Bool {
        let at = self.position(offset + 1)
        return at < self.ranges.count && self.ranges[at].contains(offset)
    }

    mutating func insert(_ new: Range<UInt64>) {
        if new.isEmpty { return }
        // In-order input extends the last range without a search or a shift.
        if let last = self.ranges.last {
            if new.lowerBound == last.upperBound {
                self.ranges[self.ranges.count - 1] = last.lowerBound..<new.upperBound
                return
            }
            if new.lowerBound > last.upperBound {
                self.ranges.append(new)
                return
            }
        }
        let start = self.position(new.lowerBound)
        var end = start
        var merged = new
        while end < self.ranges.count, self.ranges[end].lowerBound <= new.upperBound {
            merged =
                min(
                    merged.lowerBound,
                    self.ranges[end].lowerBound
                )..<max(
                    merged.upperBound,
                    self.ranges[end].upperBound
                )
            end += 1
        }
        self.ranges.replaceSubrange(start..<end, with: CollectionOfOne(merged))
    }

    mutating func remove(_ gone: Range<UInt64>) {
        if gone.isEmpty { return }
        var at = self.position(gone.lowerBound + 1)
        while at < self.ranges.count, self.ranges[at].lowerBound < gone.upperBound {
            let range = self.ranges[at]
            let left = range.lowerBound..<max(range.lowerBound, gone.lowerBound)
            let right = min(range.upperBound, gone.upperBound)..<range.upperBound
            switch (left.isEmpty, right.isEmpty) {
            case (true, true): self.ranges.remove(at: at)
            case (false, true):
                self.ranges[at] = left
                at += 1
            case (true, false):
                self.ranges[at] = right
                at += 1
            case (false, false):
                self.ranges[at] = left
                self.ranges.insert(right, at: at + 1)
                at += 2
            }
        }
    }

    mutating func remove(below bound: UInt64) {
        var count = 0
        while count < self.ranges.count, self.ranges[count].upperBound <= bound { count += 1 }
        if count > 0 { self.ranges.removeFirst(count) }
        if let first = self.ranges.first, first.lowerBound < bound { self.ranges[0] = bound..<first.upperBound }
    }

    mutating func removeFirst() { if !self.ranges.isEmpty { self.ranges.removeFirst() } }

    mutating func removeAll() { self.ranges.removeAll() }
}

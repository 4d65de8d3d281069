"""Sets of integers that are mostly runs: acknowledged numbers, received bytes, bytes still to send."""


class Ranges:
    """Half-open runs [start, end), in order, apart from each other."""

    def __init__(self):
        self.runs = []

    def __iter__(self):
        return iter(self.runs)

    def __len__(self):
        return len(self.runs)

    def add(self, start, end):
        if start >= end:
            return
        kept = []
        for low, high in self.runs:
            if high < start or low > end:
                kept.append((low, high))
            else:
                start, end = min(start, low), max(end, high)
        self.runs = sorted(kept + [(start, end)])

    def remove(self, start, end):
        kept = []
        for low, high in self.runs:
            kept += [(a, b) for a, b in ((low, min(high, start)), (max(low, end), high)) if a < b]
        self.runs = kept

    def missing(self, start, end):
        """The runs of [start, end) that are not in the set."""
        rest = Ranges()
        rest.add(start, end)
        for low, high in self.runs:
            rest.remove(low, high)
        return rest.runs

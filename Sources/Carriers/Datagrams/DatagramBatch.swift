import CDatagrams
import Libc
import NIOCore
import Tunnel

/// Messages that are sent together, in one buffer that is reused: a run of messages of one size to one peer is one GSO send,
/// and all sends go into one `sendmmsg`.
struct DatagramBatch {
    /// Why the kernel refused a message.
    enum Refusal {
        /// EMSGSIZE: a local link has a smaller MTU.
        case tooLong(size: Int, route: DatagramRoute)
        /// No route, no permission, no buffer: the message counts as lost on the way.
        case other(CInt)
    }

    private struct Entry {
        var offset: Int
        var size: Int
        var route: DatagramRoute
    }

    private var buffer = ByteBuffer()
    private var entries: [Entry] = []
    /// The index of the first message that has not been sent.
    private var next = 0
    /// How many times a device or an old kernel refused GSO: after three times, messages are sent one by one.
    private var segmentationRefused = 0

    static let messagesAtMost = 64
    /// Four of the largest GSO sends.
    static let bytesAtMost = 256 * 1_024
    private static let segmentsAtMost = 64
    private static let runAtMost = 65_000
    private static let refusalsTolerated = 3

    var isEmpty: Bool { self.next >= self.entries.count }
    private var isFull: Bool {
        self.entries.count >= Self.messagesAtMost || self.buffer.readableBytes >= Self.bytesAtMost
    }

    var usesSegmentation: Bool { self.segmentationRefused < Self.refusalsTolerated }

    /// Fills the batch up, behind messages that were kept back. The closure appends one message and returns where it goes.
    mutating func fill(_ next: (inout ByteBuffer) -> DatagramRoute?) {
        self.dropSent()
        while !self.isFull {
            let offset = self.buffer.writerIndex
            guard let route = next(&self.buffer) else { break }
            self.entries.append(Entry(offset: offset, size: self.buffer.writerIndex - offset, route: route))
        }
    }

    private mutating func dropSent() {
        if self.isEmpty {
            self.buffer.clear()
            self.entries.removeAll(keepingCapacity: true)
        } else if self.next > 0 {
            let start = self.entries[self.next].offset
            self.buffer.moveReaderIndex(to: start)
            self.buffer.discardReadBytes()
            self.entries.removeFirst(self.next)
            for at in self.entries.indices { self.entries[at].offset -= start }
        }
        self.next = 0
    }

    /// Sends the batch. False: the socket takes no more now.
    ///
    /// If the batch is full there is more to send, so an incomplete last run is kept back and filled up: the kernels at both
    /// ends need nearly the same time for a run whatever its length.
    mutating func send(on descriptor: CInt, isIPv6: Bool, _ refused: (Refusal) -> Void) -> Bool {
        let keepsBack = self.isFull
        while !self.isEmpty {
            var sends = self.sends(isIPv6: isIPv6, segmenting: self.usesSegmentation)
            // All messages of a batch fit into one `sendmmsg`, so the last run is the batch's last.
            if keepsBack, let last = sends.last, last.count > 1, !last.isWhole {
                sends.removeLast()
                if sends.isEmpty { return true }
            }
            let (sent, code) = self.send(sends, on: descriptor)
            if sent > 0 {
                self.next += sends.prefix(sent).reduce(0) { $0 + $1.count }
                continue
            }
            if code == EAGAIN || code == EWOULDBLOCK || code == ENOBUFS { return false }
            guard let first = sends.first?.count else { return true }
            if first > 1 {
                // Some devices don't support GSO, and a run of messages too large for a link is refused with various errors:
                // send each by itself.
                guard self.sendSingly(first, on: descriptor, isIPv6: isIPv6, refused) else { return false }
            } else {
                self.refuse(code, refused)
            }
        }
        return true
    }

    private mutating func refuse(_ code: CInt, _ refused: (Refusal) -> Void) {
        let entry = self.entries[self.next]
        self.next += 1
        refused(code == EMSGSIZE ? .tooLong(size: entry.size, route: entry.route) : .other(code))
    }

    private mutating func sendSingly(
        _ count: Int,
        on descriptor: CInt,
        isIPv6: Bool,
        _ refused: (Refusal) -> Void
    ) -> Bool {
        let end = self.next + count
        var wentOut = 0
        while self.next < end {
            let sends = self.sends(isIPv6: isIPv6, segmenting: false, through: end)
            let (sent, code) = self.send(sends, on: descriptor)
            if sent > 0 {
                self.next += sent
                wentOut += sent
            } else if code == EAGAIN || code == EWOULDBLOCK || code == ENOBUFS {
                return false
            } else {
                self.refuse(code, refused)
            }
        }
        if wentOut == count { self.segmentationRefused += 1 }
        return true
    }

    /// One entry of `sendmmsg`: a message, or a run of messages.
    private struct Send {
        var datagram: kl_datagram
        var offset: Int
        var count: Int
        /// No further message fits into the run, or may follow in it.
        var isWhole: Bool
    }

    private func send(_ sends: [Send], on descriptor: CInt) -> (sent: Int, code: CInt) {
        self.buffer.withUnsafeReadableBytes { bytes in
            guard let base = bytes.baseAddress else { return (0, EINVAL) }
            // The pointers are valid only within this closure.
            let datagrams = sends.map { send in
                var datagram = send.datagram
                datagram.bytes = base + (send.offset - self.buffer.readerIndex)
                return datagram
            }
            let sent = kl_send_datagrams(descriptor, datagrams, CUnsignedInt(datagrams.count))
            return sent > 0 ? (Int(sent), 0) : (0, errno)
        }
    }

    private func sends(isIPv6: Bool, segmenting: Bool, through end: Int? = nil) -> [Send] {
        var sends: [Send] = []
        let end = end ?? self.entries.count
        var at = self.next
        while at < end, sends.count < Int(KL_DATAGRAMS_AT_ONCE) {
            let first = self.entries[at]
            var length = first.size
            var count = 1
            var isWhole = false
            while segmenting, at + count < end, count < Self.segmentsAtMost {
                let more = self.entries[at + count]
                guard more.route == first.route, more.size <= first.size, length + more.size <= Self.runAtMost else {
                    isWhole = true
                    break
                }
                length += more.size
                count += 1
                // A shorter message ends a run.
                if more.size < first.size {
                    isWhole = true
                    break
                }
            }
            isWhole = isWhole || count == Self.segmentsAtMost
            var datagram = kl_datagram()
            datagram.length = UInt32(length)
            datagram.segment = count > 1 ? UInt16(clamping: first.size) : 0
            datagram.destination = first.route.remote.socketAddress(forIPv6Socket: isIPv6)
            first.route.local?.setSource(of: &datagram, onIPv6Socket: isIPv6)
            sends.append(Send(datagram: datagram, offset: first.offset, count: count, isWhole: isWhole))
            at += count
        }
        return sends
    }
}

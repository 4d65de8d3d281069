"""The two directions of a stream (§10, §12; RFC 9000 §2 and §3)."""

from . import wire
from .ranges import Ranges


class ProtocolError(Exception):
    """The other side broke the protocol, or a bound was passed. Closes the connection."""

    def __init__(self, code, reason):
        super().__init__(reason)
        self.code, self.reason = code, reason


class StreamReset(Exception):
    """The other side reset the stream, or the connection that it was on is no more."""

    def __init__(self, code):
        super().__init__(f"stream reset, code {code}")
        self.code = code


class Sending:
    """What was written, until it is acknowledged."""

    def __init__(self, limit):
        self.limit = limit  # MAX_STREAM_DATA
        self.kept, self.base = bytearray(), 0  # bytes from offset `base` on
        self.queue, self.acked = Ranges(), Ranges()
        self.sent = 0  # highest offset sent: what counts against credit
        self.urgent = set()  # offsets
        self.ended = self.fin_queued = self.fin_acked = False
        self.reset_code, self.reset_acked = None, False

    @property
    def length(self):
        return self.base + len(self.kept)

    @property
    def done(self):
        return self.reset_acked or self.fin_acked and not self.kept

    def write(self, data):
        if self.ended or self.reset_code is not None:
            raise ValueError("the stream takes no more")
        self.queue.add(self.length, self.length + len(data))
        self.kept += data

    def end(self):
        if not self.ended and self.reset_code is None:
            self.ended = self.fin_queued = True

    def reset(self, code):
        """Returns whether there is something to reset."""
        if self.reset_code is not None or self.done:
            return False
        self.reset_code = code
        self.kept, self.base, self.queue, self.fin_queued = bytearray(), self.sent, Ranges(), False
        return True

    def ready(self, credit):
        if self.queue:
            start = self.queue.runs[0][0]
            return start < self.sent or min(self.limit - start, credit) > 0
        return self.fin_queued

    def next(self, room, credit):
        """Offset, data and FIN of the next frame, as far as room and credit allow."""
        start, end = self.queue.runs[0] if self.queue else (self.length, self.length)
        end = min(end, start + room, self.limit, self.sent + credit) if self.queue else end
        if end < start or (end == start and not (self.fin_queued and start == self.length)):
            return None
        end = min([end, *(mark + 1 for mark in self.urgent if start <= mark < end)])
        self.queue.remove(start, end)
        fin = self.ended and end == self.length
        if fin:
            self.fin_queued = False
        self.sent = max(self.sent, end)
        return start, bytes(self.kept[start - self.base : end - self.base]), fin

    def on_acked(self, start, end, fin):
        self.queue.remove(start, end)
        self.acked.add(start, end)
        if fin:
            self.fin_acked, self.fin_queued = True, False
        if self.acked.runs and self.acked.runs[0][0] == 0 and self.acked.runs[0][1] > self.base:
            whole = self.acked.runs[0][1]
            if self.reset_code is None:
                del self.kept[: whole - self.base]
                self.base = whole

    def on_lost(self, start, end, fin):
        if self.reset_code is not None:
            return
        for low, high in self.acked.missing(start, end):
            self.queue.add(low, high)
        if fin and not self.fin_acked:
            self.fin_queued = True


class Receiving:
    """What has come, until it is read."""

    MOST_GAPS = 4_096

    def __init__(self, window):
        self.window = self.limit = window
        self.buffer, self.at = bytearray(), 0  # bytes from offset `at` on, with holes
        self.got = Ranges()
        self.urgent = set()  # offsets
        self.highest, self.final = 0, None
        self.reset_code, self.stop_code = None, None
        self.discarding = False

    @property
    def readable(self):
        for start, end in self.got:
            if start <= self.at < end:
                return end - self.at
        return 0

    @property
    def done(self):
        return self.reset_code is not None or self.at == self.final

    def check(self, end, final):
        """Offsets against what was said before. Returns by how much the highest one rises."""
        if self.final is not None and (end > self.final or (final and end != self.final)):
            raise ProtocolError(wire.FINAL_SIZE_ERROR, "beyond the final size, or another one")
        if final and end < self.highest:
            raise ProtocolError(wire.FINAL_SIZE_ERROR, "final size below what has come")
        if end > self.limit:
            raise ProtocolError(wire.FLOW_CONTROL_ERROR, "beyond the stream's limit")
        if final:
            self.final = end
        rise = max(0, end - self.highest)
        self.highest += rise
        return rise

    def take(self, offset, data):
        if self.reset_code is not None:
            return
        end = offset + len(data)
        if end > self.at and data:
            if offset < self.at:
                data, offset = data[self.at - offset :], self.at
            lack = end - self.at - len(self.buffer)
            if lack > 0:
                self.buffer += bytes(lack)
            self.buffer[offset - self.at : end - self.at] = data
            self.got.add(offset, end)
        if len(self.got) > self.MOST_GAPS:
            raise ProtocolError(wire.INTERNAL_ERROR, "too many gaps")

    def read(self, most):
        count = min(most, self.readable)
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        self.at += count
        self.got.remove(0, self.at)
        return data

    def reset(self, code):
        """Discards what has not been read. Returns how much credit goes back."""
        returned, self.at = self.final - self.at, self.final
        self.reset_code = code
        self.buffer, self.got = bytearray(), Ranges()
        return returned


class Stream:
    def __init__(self, identifier, send_limit, window):
        self.id = identifier
        self.sending, self.receiving = Sending(send_limit), Receiving(window)

    @property
    def done(self):
        return self.sending.done and self.receiving.done

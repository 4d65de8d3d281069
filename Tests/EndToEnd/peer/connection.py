"""A connection: message numbers, acknowledgements, streams, credit (§9 to §13). It does no I/O and knows no keys.

What has to be told to the other side is kept as *reasons*, tuples such as ("max_data",) or ("reset", 5). A frame is made of
a reason when a message is built, with the newest value; a lost message gives its reasons back.
"""

import random
from collections import deque
from dataclasses import dataclass

from . import wire
from .ranges import Ranges
from .stream import ProtocolError, Stream

MAX_ACK_DELAY = 0.025
ACK_AFTER_BYTES = 128 * 1024
MOST_RANGES = 64
LEFT_OUT = 512  # one number in so many is not used


class RoundTrip:
    """RFC 9002 §5, for one carrier."""

    def __init__(self):
        self.smoothed, self.variation, self.least = 0.333, 0.333 / 2, None

    def sample(self, latest, delay):
        if self.least is None:
            self.least, self.smoothed, self.variation = latest, latest, latest / 2
            return
        self.least = min(self.least, latest)
        delay = min(delay, MAX_ACK_DELAY)
        adjusted = latest - delay if latest - delay >= self.least else latest
        self.variation = 0.75 * self.variation + 0.25 * abs(self.smoothed - adjusted)
        self.smoothed = 0.875 * self.smoothed + 0.125 * adjusted

    @property
    def pto(self):
        return self.smoothed + max(4 * self.variation, 0.001) + MAX_ACK_DELAY


@dataclass
class Sent:
    """What a message carried, to know what is lost with it."""

    when: float
    carrier: object
    eliciting: bool
    reasons: list
    acked_up_to: int = -1  # largest number that its ACK frame named


class Connection:
    def __init__(self, initiator, identifier, local, remote, now):
        self.initiator, self.id = initiator, identifier
        self.local = local
        self.second_name = None  # at the responder: the id that was named and not known
        # The route: whose choice it is differs between the two roles.
        self.carrier = self.session = None
        self.sessions = []
        self.highest = -1  # highest counter of a valid message
        # Numbers.
        self.number = 0
        self.left_out = set()
        self.sent, self.lost = {}, {}
        self.received = Ranges()
        self.ack_from, self.ack_bytes, self.ack_now = None, 0, False
        # Streams and credit.
        self.streams, self.arrived = {}, deque()
        self.stream_credit, self.window = remote.max_stream_data, local.max_stream_data
        self.send_limit, self.sent_total = remote.max_data, 0
        self.receive_limit, self.received_total, self.consumed = local.max_data, 0, 0
        self.open_limit, self.opened = remote.max_streams, 0
        self.accept_limit, self.accepted = local.max_streams, 0
        self.turn = deque()
        self.reasons = {}  # in order, each once
        # Datagrams (§18).
        self.takes_datagrams = local.max_datagram_frame_size > 0
        self.datagrams, self.outgoing_datagrams = deque(), deque()
        # Liveness.
        self.dead_after = min(local.dead_after, remote.dead_after) / 1000
        self.progress = self.last_eliciting = now
        self.round_trip, self.ptos = RoundTrip(), 0
        # Closing.
        self.closing = self.closed = None
        self.close_due = False

    # ---- Streams ----

    def open(self):
        """The next stream of ours, or nothing where there is no credit."""
        if self.opened >= self.open_limit or self.closing or self.closed:
            return None
        identifier = 4 * self.opened + (0 if self.initiator else 1)
        self.opened += 1
        return self.add(identifier)

    def add(self, identifier):
        stream = Stream(identifier, self.stream_credit, self.window)
        self.streams[identifier] = stream
        if identifier:
            self.turn.append(stream)
        return stream

    def find(self, identifier):
        """The stream that a frame is about, opened if need be; nothing if it has finished."""
        if identifier & 2:
            raise ProtocolError(wire.STREAM_STATE_ERROR, "a unidirectional stream")
        ours = (identifier & 1) == (0 if self.initiator else 1)
        if ours and identifier // 4 >= self.opened:
            raise ProtocolError(wire.STREAM_STATE_ERROR, "a stream that we did not open")
        if not ours and identifier // 4 >= self.accept_limit:
            raise ProtocolError(wire.STREAM_LIMIT_ERROR, "a stream beyond the limit")
        while not ours and identifier // 4 >= self.accepted:
            self.arrived.append(self.add(4 * self.accepted + (identifier & 1)))
            self.accepted += 1
        return self.streams.get(identifier)

    def read(self, stream, most):
        data = stream.receiving.read(most)
        self.give_back(stream, len(data))
        self.retire(stream)
        return data

    def discard(self, stream):
        """What has come and what will come is read by nobody."""
        stream.receiving.discarding = True
        self.read(stream, stream.receiving.readable)

    def give_back(self, stream, count):
        receiving = stream.receiving
        if stream.id:
            self.consumed += count
            if self.receive_limit - self.consumed < self.local.max_data // 2:
                self.receive_limit = self.consumed + self.local.max_data
                self.reasons["max_data",] = None
        if receiving.final is None and receiving.limit - receiving.at < receiving.window // 2:
            receiving.limit = receiving.at + receiving.window
            self.reasons["max_stream_data", stream.id] = None

    def reset(self, stream, code):
        if stream.sending.reset(code):
            self.reasons["reset", stream.id] = None

    def stop(self, stream, code):
        """Asks the other side to send no more, and ignores what comes."""
        if not stream.receiving.done:
            stream.receiving.stop_code = code
            self.reasons["stop", stream.id] = None
        self.discard(stream)

    def retire(self, stream):
        if not stream.done or self.streams.pop(stream.id, None) is None:
            return
        if stream in self.turn:
            self.turn.remove(stream)
        if (stream.id & 1) == (1 if self.initiator else 0):
            self.accept_limit += 1
            self.reasons["max_streams",] = None

    # ---- Receiving ----

    def receive(self, number, plaintext, now):
        try:
            frames = wire.read_frames(plaintext)
        except wire.Malformed as error:
            raise ProtocolError(wire.FRAME_ENCODING_ERROR, str(error)) from None
        for frame in frames:
            self.apply(frame, now)
        self.received.add(number, number + 1)
        while len(self.received) > MOST_RANGES:
            self.received.runs.pop(0)
        if any(frame.eliciting for frame in frames):
            self.ack_from = now if self.ack_from is None else self.ack_from
            self.ack_bytes += len(plaintext)

    def apply(self, frame, now):
        match frame:
            case wire.Ack():
                self.on_ack(frame, now)
            case wire.StreamData():
                if stream := self.find(frame.stream):
                    self.on_stream(stream, frame)
            case wire.ResetStream():
                if stream := self.find(frame.stream):
                    self.on_reset(stream, frame)
            case wire.StopSending():
                if stream := self.find(frame.stream):
                    self.not_on_control(stream)
                    self.reset(stream, frame.code)
            case wire.MaxData():
                self.send_limit = max(self.send_limit, frame.limit)
            case wire.MaxStreamData():
                if stream := self.find(frame.stream):
                    stream.sending.limit = max(stream.sending.limit, frame.limit)
            case wire.MaxStreams():
                self.open_limit = max(self.open_limit, frame.limit)
            case wire.Close():
                self.closed = frame
            case wire.Datagram():
                if not self.takes_datagrams:
                    raise ProtocolError(wire.PROTOCOL_VIOLATION, "no DATAGRAM was announced")
                self.datagrams.append(frame.data)

    def not_on_control(self, stream):
        if stream.id == 0:
            raise ProtocolError(wire.CONTROL_ERROR, "an end of the control stream")

    def count(self, stream, rise):
        if not stream.id:
            return
        self.received_total += rise
        if self.received_total > self.receive_limit:
            raise ProtocolError(wire.FLOW_CONTROL_ERROR, "beyond the connection's limit")

    def on_stream(self, stream, frame):
        if frame.fin:
            self.not_on_control(stream)
        self.count(stream, stream.receiving.check(frame.offset + len(frame.data), frame.fin))
        if frame.urgent:
            if not self.local.urgent:
                raise ProtocolError(wire.FRAME_ENCODING_ERROR, "an urgent byte, though none was asked for")
            stream.receiving.urgent.add(frame.offset + len(frame.data) - 1)
        stream.receiving.take(frame.offset, frame.data)
        if stream.receiving.discarding:
            self.discard(stream)
        if stream.receiving.done:
            self.retire(stream)

    def on_reset(self, stream, frame):
        self.not_on_control(stream)
        already = stream.receiving.done  # before the final size is known from this frame
        self.count(stream, stream.receiving.check(frame.final_size, True))
        if not already:
            self.give_back(stream, stream.receiving.reset(frame.code))
        self.retire(stream)

    # ---- Acknowledgements ----

    def on_ack(self, frame, now):
        if frame.ranges[0][1] >= self.number:
            raise ProtocolError(wire.PROTOCOL_VIOLATION, "an ACK of what is yet to be sent")
        for low, high in frame.ranges:
            if any(low <= number <= high for number in self.left_out):
                raise ProtocolError(wire.PROTOCOL_VIOLATION, "an ACK of what was left out")
        newly, largest_on = {}, {}
        for low, high in frame.ranges:
            for numbers in (self.sent, self.lost):
                newly |= {n: numbers[n] for n in numbers if low <= n <= high}
        for number, sent in newly.items():
            self.sent.pop(number, None) or self.lost.pop(number)
            largest_on[sent.carrier] = max(number, largest_on.get(sent.carrier, -1))
            self.forget_acked(sent.acked_up_to)
            for reason in sent.reasons:
                self.on_reason_acked(reason)
        if any(sent.eliciting for sent in newly.values()):
            self.progress, self.ptos = now, 0
        newest = newly.get(frame.ranges[0][1])
        if newest and newest.eliciting and newest.carrier is self.carrier:
            self.round_trip.sample(now - newest.when, frame.delay * 8e-6)
        # A message is lost when a later one on the same carrier has been acknowledged (§11.1).
        for number, sent in list(self.sent.items()):
            if number < largest_on.get(sent.carrier, -1):
                self.on_lost(number)

    def forget_acked(self, largest):
        self.received.remove(0, largest + 1)

    def on_reason_acked(self, reason):
        kind, *rest = reason
        stream = self.streams.get(rest[0]) if rest else None
        if not stream:
            return
        if kind == "stream":
            stream.sending.on_acked(*rest[1:])
        elif kind == "reset":
            stream.sending.reset_acked = True
        self.retire(stream)

    def on_lost(self, number):
        sent = self.lost[number] = self.sent.pop(number)
        while len(self.lost) > 1_024:
            self.lost.pop(next(iter(self.lost)))
        for reason in sent.reasons:
            kind, *rest = reason
            if kind == "stream":
                if stream := self.streams.get(rest[0]):
                    stream.sending.on_lost(*rest[1:])
            elif kind != "ping":
                self.reasons[reason] = None

    def leave(self, carrier, now):
        """A carrier ended, or was left: all that was unacknowledged on it is lost (§11.2)."""
        for number in [n for n, sent in self.sent.items() if sent.carrier is carrier]:
            self.on_lost(number)
        self.round_trip, self.ptos = RoundTrip(), 0

    def arrive(self, now):
        """The connection goes on over another carrier."""
        self.progress = self.last_eliciting = now
        self.ack_now = bool(self.received)

    # ---- Sending ----

    def ping(self):
        self.reasons["ping",] = None

    def frame_for(self, reason):
        """The frame to send, or nothing if there is no point any more."""
        kind, *rest = reason
        stream = self.streams.get(rest[0]) if rest else None
        match kind:
            case "ping":
                return wire.Ping()
            case "max_data":
                return wire.MaxData(self.receive_limit)
            case "max_streams":
                return wire.MaxStreams(self.accept_limit)
            case "max_stream_data" if stream and stream.receiving.final is None:
                return wire.MaxStreamData(stream.id, stream.receiving.limit)
            case "reset" if stream and not stream.sending.reset_acked:
                return wire.ResetStream(stream.id, stream.sending.reset_code, stream.sending.sent)
            case "stop" if stream and not stream.receiving.done:
                return wire.StopSending(stream.id, stream.receiving.stop_code)

    def timers(self, now):
        """What time alone makes this side send: keep-alives, and a PING after a PTO."""
        if now - self.last_eliciting >= self.dead_after / 3:
            self.ping()
        oldest = [sent.when for sent in self.sent.values() if sent.eliciting]
        if oldest and now - max(oldest) >= self.round_trip.pto * 2 ** min(self.ptos, 10):
            self.ptos += 1
            self.ping()

    def ack_due(self, now):
        if self.ack_now or self.ack_bytes >= ACK_AFTER_BYTES:
            return True
        return self.ack_from is not None and now - self.ack_from >= MAX_ACK_DELAY

    def build(self, room, now):
        """Number and plaintext of the next message, or nothing if there is nothing to say."""
        if self.closed or self.number >= wire.LARGEST_NUMBER - 16 and not self.closing:
            return None
        if self.closing:
            if not self.close_due:
                return None
            self.close_due = False
            return self.numbered(self.closing.encode(), room, Sent(now, self.carrier, False, []))
        parts, left, sent = [], room, Sent(now, self.carrier, False, [])

        def put(frame, reason=None):
            nonlocal left
            encoded = frame.encode()
            if len(encoded) > left:
                return False
            parts.append(encoded)
            left -= len(encoded)
            if reason:
                sent.eliciting = True
                sent.reasons.append(reason)
            return True

        if self.received and (self.ack_from is not None or self.ack_now):
            ranges = [(low, high - 1) for low, high in reversed(self.received.runs)]
            delay = 0 if self.ack_from is None else int((now - self.ack_from) / 8e-6)
            put(wire.Ack(ranges, delay))
            sent.acked_up_to = ranges[0][1]
        for reason in list(self.reasons):
            frame = self.frame_for(reason)
            if frame is None or put(frame, reason):
                del self.reasons[reason]
        while self.outgoing_datagrams and put(wire.Datagram(self.outgoing_datagrams[0])):
            self.outgoing_datagrams.popleft()
            sent.eliciting = True
        control = [self.streams[0]] if 0 in self.streams else []
        for stream in control + list(self.turn):
            while left > 32 and self.put_stream(stream, left, put):
                pass
        self.turn.rotate(-1)
        if not sent.eliciting and not self.ack_due(now):
            return None
        if sent.acked_up_to >= 0:
            self.ack_from, self.ack_bytes, self.ack_now = None, 0, False
        if sent.eliciting:
            self.last_eliciting = now
        return self.numbered(b"".join(parts), room, sent)

    def put_stream(self, stream, left, put):
        # At most 4 bytes of type, 8 of id, 8 of offset and 4 of length.
        credit = self.send_limit - self.sent_total if stream.id else wire.LARGEST_NUMBER
        before = stream.sending.sent
        if not stream.sending.ready(credit) or not (piece := stream.sending.next(left - 24, credit)):
            return False
        offset, data, fin = piece
        if stream.id:
            self.sent_total += stream.sending.sent - before
        end = offset + len(data)
        urgent = bool(data) and end - 1 in stream.sending.urgent
        return put(wire.StreamData(stream.id, offset, data, fin, urgent), ("stream", stream.id, offset, end, fin))

    def numbered(self, plaintext, room, sent):
        if random.randrange(LEFT_OUT) == 0:
            self.left_out.add(self.number)
            self.number += 1
        number, self.number = self.number, self.number + 1
        self.sent[number] = sent
        return number, plaintext + bytes(min(-len(plaintext) % 16, room - len(plaintext)))

    def close(self, code, reason=""):
        if not self.closing and not self.closed:
            self.closing, self.close_due = wire.Close(code, reason), True

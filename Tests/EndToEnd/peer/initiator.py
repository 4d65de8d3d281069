"""A workspace: dials, shakes hands, says `start`, and takes intercepted connections."""

import os
import random
import socket
from collections import deque

from . import control, wire
from .agent import Agent, Handle, log
from .carrier import Carrier
from .connection import Connection
from .handshake import NO_PSK, REKEY_AFTER, Dropped, Initiation, now, random_index, timestamp

LIMITS = {
    "max_data": 1_048_576,
    "max_stream_data": 131_072,
    "max_streams": 64,
    "max_message_size": wire.LARGEST_MESSAGE,
    "dead_after": 6_000,
}


class Workspace(Agent):
    HANDSHAKES = (wire.RESPONSE,)

    def __init__(self, private, responder, address, psk=NO_PSK, timestamp_file=None, linger=600, **limits):
        super().__init__(private, LIMITS | limits, linger)
        self.responder, self.address, self.psk = responder, address, psk
        self.timestamp_file, self.last_timestamp = timestamp_file, bytes(12)
        if timestamp_file and os.path.exists(timestamp_file):
            with open(timestamp_file, "rb") as file:
                self.last_timestamp = file.read()
        self.connection, self.made_by = None, bytes(12)  # the timestamp of the initiation that made it
        self.named = os.urandom(8)  # the id to name while there is no connection
        self.in_flight = {}  # index: (initiation, carrier)
        self.dialling, self.dials, self.dial_at = True, 0, 0
        self.lost_at, self.was_cut, self.redials = None, False, 0
        self.wanted, self.stopping = None, False  # the last `start`
        self.offered = deque()  # streams that the sidecar opened
        self.handshakes, self.resets = 0, []
        self.closed_with = None
        self.thread.start()

    def connections(self):
        held = [self.connection] if self.connection else []
        return held + [closing for _, closing in self.closings if closing not in held]

    # ---- Dialling and handshakes (§4.5, §7.3, §7.4) ----

    def tick(self, current):
        self.end_closings(current)
        if self.connection and not self.connection.carrier and self.lost_at and current - self.lost_at > self.linger:
            self.reset_streams()
        if self.dialling and not self.carriers and current >= self.dial_at:
            self.dial(current)
        for carrier in list(self.carriers):
            if carrier.next_initiation is not None and current >= carrier.next_initiation:
                self.initiate(carrier)
        session = self.connection.session if self.connection else None
        if session and self.connection.carrier and session.age > REKEY_AFTER:
            carrier = self.connection.carrier
            if carrier.next_initiation is None and not any(c is carrier for _, c in self.in_flight.values()):
                self.initiate(carrier)

    def dial(self, current):
        step = (0.1, 0.2, 0.4, 1, 2, 4, 5)[min(self.dials, 6)]
        self.dial_at = current + step + min(step, 1) * random.random() / 3
        self.dials += 1
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(self.address)  # how it ended is seen when it is used
        self.initiate(self.add_carrier(Carrier(sock, current)))

    def initiate(self, carrier):
        current = now()
        self.last_timestamp = timestamp(self.last_timestamp)
        if self.timestamp_file:
            with open(self.timestamp_file, "wb") as file:
                file.write(self.last_timestamp)
        name = self.connection.id if self.connection else self.named
        index = random_index({*self.sessions, *self.in_flight})
        arguments = (self.private, self.responder, self.psk, index, self.last_timestamp, self.parameters(name))
        self.in_flight[index] = (Initiation(*arguments), carrier)
        while len(self.in_flight) > 4:
            self.in_flight.pop(next(iter(self.in_flight)))
        carrier.queue(self.in_flight[index][0].message)
        carrier.first_sent = carrier.first_sent or current
        delays = (1, 2, 4)
        late = current - carrier.first_sent > 90
        usual = 15 if late else 5 + random.random() / 3
        carrier.next_initiation = current + (delays[carrier.initiations] if carrier.initiations < 3 else usual)
        carrier.initiations += 1

    def take_handshake(self, carrier, message):
        index = int.from_bytes(message[8:12], "little")
        if index not in self.in_flight:
            raise Dropped("a response to no initiation in flight")
        initiation, sent_on = self.in_flight[index]
        session = initiation.finish(message)
        if self.connection and initiation.timestamp < self.made_by:
            raise Dropped("a response to an old initiation")
        del self.in_flight[index]
        self.handshakes += 1
        answered = session.remote.connection_id
        if not self.connection or answered != self.connection.id:
            self.begin(answered, session, initiation)
        connection = self.connection
        self.sessions[session.local_index] = session
        self.join(connection, session)
        sent_on.first_sent = sent_on.next_initiation = None
        sent_on.initiations = 0
        if connection.session and connection.session.since > session.since:
            return  # a late response: a newer session is in use
        left = self.move(connection, session, sent_on)
        if left and not left.closed:
            self.drop_carrier(left)
        if self.was_cut and self.wanted:
            self.say(connection, self.wanted)
        self.lost_at, self.was_cut, self.dials, self.redials = None, False, 0, 0
        connection.ping()  # something at once, which confirms the session
        self.flush(connection)

    def begin(self, identifier, session, initiation):
        self.reset_streams()
        connection = Connection(True, identifier, session.local, session.remote, now())
        connection.control = control.Parser()
        connection.open()
        self.connection, self.made_by = connection, initiation.timestamp
        self.was_cut = False
        if self.wanted:
            self.say(connection, self.wanted)

    def reset_streams(self):
        """The connection that was held is no more."""
        if connection := self.connection:
            log.info("the connection is no more")
            self.resets.append(connection.id)
            self.forget(connection)

    def confirm(self, session, carrier):
        pass  # at an initiator the response has done that

    def follow(self, connection, session, carrier):
        pass  # an initiator chooses its carrier

    # ---- Ends ----

    def carrier_lost(self, connection):
        if connection is self.connection:
            self.lost_at = self.lost_at or now()
            self.was_cut, self.dial_at = True, 0

    def gone(self, connection):
        log.info("the sidecar is gone")
        self.drop_carrier(connection.carrier)

    def forgotten(self, connection):
        if connection is self.connection:
            self.connection = None
            self.named = os.urandom(8)
            if connection.closing:
                self.dial_again(connection.closing)

    def connection_closed(self, connection, close):
        self.closed_with = close.code
        self.dial_again(close)

    def dial_again(self, close):
        """What follows a close depends on its code, received or sent (§14)."""
        if close.code in (wire.DONE, wire.REPLACED, wire.REVOKED):
            self.dialling = False
        else:
            self.dial_at = now() + (1, 2, 4, 8, 15)[min(self.redials, 4)]
            self.redials += 1

    # ---- Streams and control ----

    def stream_opened(self, connection, stream):
        self.offered.append(Handle(self, connection, stream))

    def take_control(self, connection, message):
        if message["type"] == "withdrawn" and "holder" not in message and self.wanted and not self.stopping:
            self.say(connection, self.wanted)

    # ---- For other threads ----

    def wait_connected(self, timeout=10):
        self.wait(lambda: self.connection and self.connection.highest >= 0, timeout, "a connection")
        return self.connection

    def start(self, generation, *ports, transport="tcp", **more):
        ports = [{"service": port, "transport": transport} for port in ports]
        with self.changed:
            self.wanted = {"type": "start", "generation": generation, "workspace": "peer", "ports": ports} | more
            self.say(self.connection, self.wanted)
        self.wake()

    def send_control(self, message):
        with self.changed:
            self.stopping = self.stopping or message["type"] == "stop"
            self.say(self.connection, message)
        self.wake()

    def next_stream(self, timeout=10):
        """A stream that the sidecar opened, and its header."""
        self.wait(lambda: self.offered, timeout, "a stream")
        with self.changed:
            handle = self.offered.popleft()
        return handle, control.Header.read(handle.read_exactly)

    def rekey(self):
        with self.changed:
            before = self.handshakes
            self.initiate(self.connection.carrier)
        self.wake()
        self.wait(lambda: self.handshakes > before, 10, "a rekey")

    def cut(self):
        """Breaks the carrier as a network would, and returns once the connection goes on over another."""
        with self.changed:
            carrier = self.connection.carrier
            if carrier:
                self.drop_carrier(carrier, abort=True)
            before = self.handshakes
        self.wake()
        self.wait(lambda: self.handshakes > before, 10, "a resumption")

    def done(self, code=wire.DONE):
        """Closes the connection, and ends when the closing is over."""
        with self.changed:
            self.dialling = False
            connection = self.connection
            self.close_connection(connection, code)
        self.wake()
        self.wait(lambda: not self.connection, 10, "the end")
        self.shut()

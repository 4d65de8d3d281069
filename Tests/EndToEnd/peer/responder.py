"""A sidecar: listens, answers initiations, and opens a stream for each connection that is intercepted."""

import os
import selectors
import socket
from collections import deque

from . import control, wire
from .agent import Agent, Handle, log
from .carrier import Carrier
from .connection import Connection
from .handshake import NO_PSK, Dropped, Opened, now, random_index

LIMITS = {
    "max_data": 1_048_576,
    "max_stream_data": 131_072,
    "max_streams": 1,
    "max_message_size": wire.LARGEST_MESSAGE,
    "dead_after": 6_000,
}
SILENT_FOR = 5
MOST_WAITING = 64
UNCONFIRMED_FOR, MOST_UNCONFIRMED = 10, 4
INITIATIONS_A_SECOND = 50


class Accepted:
    """What is known of one accepted key."""

    def __init__(self, psk):
        self.psk = psk
        self.timestamp = bytes(12)
        self.arrivals = deque()
        self.unconfirmed = []
        self.connection = None
        self.pending = {}  # id of a connection that awaits confirmation: the unknown id that was named
        self.lost_at = None


class Sidecar(Agent):
    HANDSHAKES = (wire.INITIATION,)

    def __init__(self, private, peers, address=("127.0.0.1", 0), linger=600, serves=None, **limits):
        super().__init__(private, LIMITS | limits, linger)
        self.peers = {key: Accepted(psk or NO_PSK) for key, psk in peers.items()}
        self.serves = serves  # service ports, or nothing for all
        self.ports, self.total, self.passed, self.stopping = [], 0, 0, None
        self.answered = []  # transport parameters of the initiations that were answered
        self.listener = socket.create_server(address)
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.thread.start()

    def connections(self):
        held = [peer.connection for peer in self.peers.values() if peer.connection]
        return held + [closing for _, closing in self.closings if closing not in held]

    # ---- Carriers (§8.1) ----

    def accept(self, fileobj):
        if fileobj is not self.listener:
            return super().accept(fileobj)
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        carrier = self.add_carrier(Carrier(sock, now(), silent=True))
        carrier.deadline = now() + SILENT_FOR
        waiting = sorted((c for c in self.carriers if c.silent), key=lambda c: c.opened)
        if len(waiting) > MOST_WAITING:
            self.drop_carrier(waiting[0])

    def tick(self, current):
        self.end_closings(current)
        for carrier in [c for c in self.carriers if c.deadline and current > c.deadline]:
            self.drop_carrier(carrier)
        for peer in self.peers.values():
            for session in [s for s in peer.unconfirmed if s.age > UNCONFIRMED_FOR]:
                self.wipe_unconfirmed(peer, session)
            held = peer.connection
            if held and not held.carrier and peer.lost_at and current - peer.lost_at > self.linger:
                self.forget(held)
        self.end_stop()

    def shut(self):
        super().shut()
        self.listener.close()

    def carrier_lost(self, connection):
        for peer in self.peers.values():
            if peer.connection is connection:
                peer.lost_at = now()

    def gone(self, connection):
        log.info("the workspace is gone")
        for carrier in [c for c in self.carriers if c.connection is connection]:
            self.drop_carrier(carrier)

    # ---- Handshakes (§4.4, §9) ----

    def take_handshake(self, carrier, message):
        opened = Opened(self.private, message)
        peer = self.peers.get(opened.key)
        if not peer:
            raise Dropped("a key that is not accepted")
        current = now()
        while peer.arrivals and peer.arrivals[0] < current - 1:
            peer.arrivals.popleft()
        if len(peer.arrivals) >= INITIATIONS_A_SECOND:
            raise Dropped("too many initiations")
        peer.arrivals.append(current)
        if opened.timestamp <= peer.timestamp:
            raise Dropped("timestamp not later")
        if carrier.key not in (None, opened.key):
            raise Dropped("a carrier of another key")
        named = opened.remote.connection_id
        answered = self.answer_for(peer, named)
        response, session = opened.answer(peer.psk, random_index(self.sessions), self.parameters(answered))
        peer.timestamp = opened.timestamp
        carrier.key, carrier.silent, carrier.largest = opened.key, False, self.limits["max_message_size"]
        if not carrier.connection:
            carrier.deadline = current + SILENT_FOR
        self.sessions[session.local_index] = session
        session.peer = peer
        peer.unconfirmed.append(session)
        if not peer.connection or answered != peer.connection.id:
            peer.pending.setdefault(answered, named)
        while len(peer.unconfirmed) > MOST_UNCONFIRMED:
            self.wipe_unconfirmed(peer, peer.unconfirmed[0])
        self.answered.append(opened.remote)
        carrier.queue(response)

    @staticmethod
    def answer_for(peer, named):
        if peer.connection and named in (peer.connection.id, peer.connection.second_name):
            return peer.connection.id
        for identifier, second_name in peer.pending.items():
            if named in (identifier, second_name):
                return identifier
        return os.urandom(8)

    def wipe_unconfirmed(self, peer, session):
        peer.unconfirmed.remove(session)
        self.sessions.pop(session.local_index, None)
        named = session.local.connection_id
        if not any(s.local.connection_id == named for s in peer.unconfirmed):
            peer.pending.pop(named, None)

    def confirm(self, session, carrier):
        if session.connection:
            return
        peer = session.peer
        peer.unconfirmed.remove(session)
        identifier = session.local.connection_id
        if not peer.connection or identifier != peer.connection.id:
            earlier, peer.connection = peer.connection, None
            peer.connection = Connection(False, identifier, session.local, session.remote, now())
            peer.connection.control = control.Parser()
            peer.connection.second_name = peer.pending.pop(identifier, None)
            self.ports, self.total, self.passed, self.stopping = [], 0, 0, None
            if earlier:
                for other in [s for s in peer.unconfirmed if s.local.connection_id == earlier.id]:
                    self.wipe_unconfirmed(peer, other)
                self.close_connection(earlier, wire.REPLACED)
        self.join(peer.connection, session)
        carrier.connection, carrier.deadline = peer.connection, None

    def follow(self, connection, session, carrier):
        self.move(connection, session, carrier)
        carrier.deadline = None

    def forgotten(self, connection):
        for peer in self.peers.values():
            if peer.connection is connection:
                peer.connection = None

    def connection_closed(self, connection, close):
        self.ports = []

    # ---- Control (§16) ----

    def stream_opened(self, connection, stream):
        pass  # only stream 0, which is read as it comes

    def take_control(self, connection, message):
        match message["type"]:
            case "start":
                self.take_start(connection, message)
            case "stop":
                self.ports, self.stopping = [], connection
                self.say(connection, {"type": "withdrawn"})
            case _:
                answer = {"type": "failed", "code": "unsupported", "reason": "an unknown type"}
                self.say(connection, answer | {k: message[k] for k in ("generation",) if k in message})

    def take_start(self, connection, message):
        generation, ports = message.get("generation"), message.get("ports")
        if type(generation) is not int or not isinstance(ports, list):
            self.close_connection(connection, wire.CONTROL_ERROR, "start without generation or ports")
            return
        wanted = [port["service"] for port in ports]
        answer = {"type": "started", "generation": generation}
        if not connection.takes_datagrams and any(port.get("transport", "tcp") != "tcp" for port in ports):
            answer |= {"type": "failed", "code": "unsupported", "reason": "only TCP is intercepted"}
        elif self.serves is not None and not set(wanted) <= set(self.serves):
            answer |= {"type": "failed", "code": "port", "reason": "a port that is not served here"}
        else:
            self.ports = wanted
        self.say(connection, answer)

    def end_stop(self):
        connection = self.stopping
        if not connection or connection.closing or connection.closed or any(connection.streams.keys() - {0}):
            return
        self.stopping = None
        self.say(connection, {"type": "stopped", "total": self.total, "passed": self.passed})

    # ---- For other threads ----

    @property
    def connection(self):
        """The one that is held, where only one key is accepted."""
        (peer,) = self.peers.values()
        return peer.connection

    def wait_connected(self, timeout=10):
        return self.wait(lambda: self.connection, timeout, "a connection")

    def handle(self, connection, stream):
        return Handle(self, connection, stream)

    def intercept(self, service_port, client="192.0.2.7", client_port=40_000):
        """Opens a stream, with its header."""
        with self.changed:
            connection = self.connection
            stream = connection.open() if connection else None
            if not stream:
                raise ConnectionError("no stream can be opened")
            self.total += 1
            handle = self.handle(connection, stream)
            handle.write(control.Header(service_port, client, client_port).encode())
        return handle

    def close(self, code=wire.NO_ERROR):
        with self.changed:
            self.close_connection(self.connection, code)
        self.wake()

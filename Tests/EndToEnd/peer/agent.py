"""What both roles share: the loop, carriers, data messages, liveness, closing. And streams as blocking calls."""

import logging
import selectors
import socket
import threading
from collections import Counter, deque

from . import control, wire
from .handshake import REJECT_AFTER, Dropped, now, public_key
from .stream import ProtocolError, StreamReset

log = logging.getLogger("peer")
TICK = 0.01
MOST_BACKLOG = 256 * 1024  # bytes given to a carrier and not yet taken by the system


class Handle:
    """A stream, for other threads: reading waits for bytes."""

    def __init__(self, agent, connection, stream):
        self.agent, self.connection, self.stream = agent, connection, stream
        self.id = stream.id

    def check(self):
        if self.stream.receiving.reset_code is not None:
            raise StreamReset(self.stream.receiving.reset_code)
        if self.connection.closed or self.connection.closing:
            raise StreamReset(None)

    def read(self, most=65_536, timeout=10):
        """Some bytes, or none at the end. StreamReset if there are no more to come."""
        receiving = self.stream.receiving

        def ready():
            return receiving.readable or receiving.done or self.connection.closed or self.connection.closing

        with self.agent.changed:
            if not self.agent.changed.wait_for(ready, timeout):
                raise TimeoutError(f"nothing on stream {self.id}")
            if not receiving.readable:
                self.check()
            data = self.connection.read(self.stream, most)
        self.agent.wake()
        return data

    def read_exactly(self, count, timeout=10):
        data = b""
        while len(data) < count:
            more = self.read(count - len(data), timeout)
            if not more:
                raise ValueError("the stream ended")
            data += more
        return data

    def read_to_end(self, timeout=10):
        data = b""
        while more := self.read(timeout=timeout):
            data += more
        return data

    def write(self, data, timeout=60):
        """Waits while much of what was written before is not acknowledged."""
        sending = self.stream.sending

        def ready():
            gone = self.connection.closed or self.connection.closing or sending.reset_code is not None
            return gone or len(sending.kept) < 2 * 1024 * 1024

        with self.agent.changed:
            if not self.agent.changed.wait_for(ready, timeout):
                raise TimeoutError(f"stream {self.id} takes no more")
            if self.connection.closed or self.connection.closing:
                raise StreamReset(None)
            if sending.reset_code is not None:
                raise StreamReset(sending.reset_code)
            sending.write(data)
        self.agent.wake()

    def run(self, action):
        with self.agent.changed:
            action()
        self.agent.wake()

    def write_urgent(self, byte):
        def action():
            self.stream.sending.urgent.add(self.stream.sending.length)
            self.stream.sending.write(byte)

        self.run(action)

    def end(self):
        self.run(self.stream.sending.end)

    def reset(self, code=wire.TCP_RESET):
        self.run(lambda: self.connection.reset(self.stream, code))

    def stop(self, code=wire.TCP_RESET):
        self.run(lambda: self.connection.stop(self.stream, code))

    def discard(self):
        self.run(lambda: self.connection.discard(self.stream))

    def wait_acknowledged(self, timeout=10):
        with self.agent.changed:
            if not self.agent.changed.wait_for(lambda: self.stream.sending.done, timeout):
                raise TimeoutError(f"stream {self.id} is not acknowledged")


class Agent:
    def __init__(self, private, limits, linger):
        self.private, self.public = private, public_key(private)
        self.limits, self.linger = limits, linger  # limits: transport parameters but for the id
        self.changed = threading.Condition()
        self.selector = selectors.DefaultSelector()
        self.sessions, self.carriers, self.drops = {}, set(), Counter()
        self.closings = []  # connections that were closed here, with the time of their end
        self.messages = deque()  # control messages received
        self.waker, self.woken = socket.socketpair()
        for end in (self.waker, self.woken):
            end.setblocking(False)
        self.selector.register(self.woken, selectors.EVENT_READ, None)
        self.running = True
        self.thread = threading.Thread(target=self.run, daemon=True)

    def parameters(self, connection_id):
        return wire.Parameters(connection_id, **self.limits)

    # ---- The loop ----

    def wake(self):
        try:
            self.waker.send(b"\0")
        except BlockingIOError:
            pass  # it is awake already

    def run(self):
        try:
            while self.running:
                events = self.selector.select(TICK)
                with self.changed:
                    for key, _ in events:
                        if key.data is None:
                            self.accept(key.fileobj)
                        elif not key.data.closed:
                            self.read_carrier(key.data)
                    self.tick(now())
                    for connection in self.connections():
                        self.serve(connection)
                    for carrier in list(self.carriers):
                        self.write_carrier(carrier)
                    self.changed.notify_all()
        except BaseException:
            log.exception("the loop ended")
            raise
        finally:
            with self.changed:
                self.running = False
                for carrier in list(self.carriers):
                    self.drop_carrier(carrier)
                self.changed.notify_all()

    def accept(self, fileobj):
        while fileobj is self.woken:
            try:
                fileobj.recv(4_096)
            except BlockingIOError:
                return

    def shut(self):
        """Ends the loop without a word to the other side."""
        self.running = False
        self.wake()
        if threading.current_thread() is not self.thread:
            self.thread.join(5)

    # ---- Carriers ----

    def add_carrier(self, carrier):
        self.carriers.add(carrier)
        self.selector.register(carrier.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, carrier)
        return carrier

    def drop_carrier(self, carrier, abort=False):
        if carrier.closed:
            return
        self.selector.unregister(carrier.socket)
        carrier.close(abort)
        self.carriers.discard(carrier)
        for connection in self.connections():
            if connection.carrier is carrier:
                connection.carrier = None
                connection.leave(carrier, now())
                self.carrier_lost(connection)

    def read_carrier(self, carrier):
        going = carrier.receive()
        try:
            while not carrier.closed and (message := carrier.next_message()):
                try:
                    self.take(carrier, message)
                except Dropped as reason:
                    log.info("dropped: %s", reason)
                    self.drops[str(reason)] += 1
        except ValueError as error:
            log.info("carrier closed: %s", error)
            going = False
        if not going:
            self.drop_carrier(carrier)

    def write_carrier(self, carrier):
        if not carrier.send():
            self.drop_carrier(carrier)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if carrier.outgoing else 0)
        self.selector.modify(carrier.socket, wanted, carrier)

    # ---- Messages ----

    def take(self, carrier, message):
        kind = wire.message_type(message)
        if kind == wire.DATA:
            self.take_data(carrier, message)
        elif kind in self.HANDSHAKES:
            self.take_handshake(carrier, message)
        else:
            raise Dropped("message type or reserved bytes")

    def take_data(self, carrier, message):
        index, _ = wire.read_data_header(message)
        session = self.sessions.get(index)
        if not session or session.age > REJECT_AFTER:
            raise Dropped("no session has this index")
        if carrier.connection and session.connection and carrier.connection is not session.connection:
            raise Dropped("a carrier of another connection")
        counter, plaintext = session.open(message)
        self.confirm(session, carrier)
        connection = session.connection
        if connection.closing:
            self.closing_answer(connection)
            return
        if counter > connection.highest:
            connection.highest = counter
            self.follow(connection, session, carrier)
        try:
            connection.receive(counter, plaintext, now())
        except ProtocolError as error:
            self.close_connection(connection, error.code, error.reason)
        if connection.closed:
            log.info("closed by the other side: %s", connection.closed)
            self.forget(connection)
            self.connection_closed(connection, connection.closed)

    def flush(self, connection):
        carrier, session = connection.carrier, connection.session
        if not carrier or carrier.closed or not session or session.age > REJECT_AFTER:
            return
        while len(carrier.outgoing) < MOST_BACKLOG and (built := connection.build(session.room, now())):
            carrier.queue(session.seal(*built))

    def move(self, connection, session, carrier):
        """From now on the connection is sent over this carrier, sealed with this session."""
        connection.session = session
        carrier.connection = connection
        carrier.largest = self.limits["max_message_size"]
        connection.dead_after = min(session.local.dead_after, session.remote.dead_after) / 1000
        if connection.carrier is not carrier:
            left, connection.carrier = connection.carrier, carrier
            if left:
                connection.leave(left, now())
            connection.arrive(now())
            return left

    def join(self, connection, session):
        session.connection = connection
        connection.sessions.append(session)
        if len(connection.sessions) > 4:
            self.sessions.pop(connection.sessions.pop(0).local_index, None)

    # ---- Connections ----

    def serve(self, connection):
        """Once a round of the loop, for each connection."""
        current = now()
        for session in [s for s in connection.sessions if s.age > REJECT_AFTER]:
            connection.sessions.remove(session)
            self.sessions.pop(session.local_index, None)
        if not connection.closing and not connection.closed:
            while connection.arrived:
                self.stream_opened(connection, connection.arrived.popleft())
            self.read_control(connection)
        if connection.carrier and not connection.closing:
            connection.timers(current)
            if current - connection.progress > connection.dead_after:
                self.gone(connection)
        self.flush(connection)

    def read_control(self, connection):
        stream = connection.streams.get(0)
        if not stream or not stream.receiving.readable:
            return
        try:
            for message in connection.control.feed(connection.read(stream, 1 << 20)):
                log.info("received %s", message)
                self.messages.append(message)
                self.take_control(connection, message)
        except ProtocolError as error:
            self.close_connection(connection, error.code, error.reason)

    def say(self, connection, message):
        log.info("saying %s", message)
        connection.streams[0].sending.write(control.encode(message))

    def close_connection(self, connection, code, reason=""):
        """Sends CONNECTION_CLOSE, and wipes all three PTOs later (§14)."""
        if connection.closing or connection.closed:
            return
        log.info("closing: %#x %s", code, reason)
        connection.close(code, reason)
        connection.last_close = now()
        if connection.carrier:
            self.flush(connection)
            self.closings.append((now() + 3 * connection.round_trip.pto, connection))
        else:
            self.forget(connection)

    def closing_answer(self, connection):
        if now() - connection.last_close > connection.round_trip.pto:
            connection.last_close, connection.close_due = now(), True
            self.flush(connection)

    def end_closings(self, current):
        for entry in [entry for entry in self.closings if current > entry[0]]:
            self.closings.remove(entry)
            self.forget(entry[1])

    def forget(self, connection):
        """Wipes its keys and closes its carriers."""
        for session in connection.sessions:
            self.sessions.pop(session.local_index, None)
        connection.sessions.clear()
        connection.closed = connection.closed or connection.closing or wire.Close(wire.NO_ERROR, "forgotten")
        self.forgotten(connection)
        for carrier in [c for c in self.carriers if c.connection is connection]:
            carrier.send()
            self.drop_carrier(carrier)

    # ---- For other threads ----

    def wait(self, condition, timeout=10, what="it"):
        with self.changed:
            if not self.changed.wait_for(lambda: condition() or not self.running, timeout):
                raise TimeoutError(f"waited for {what}")
            return condition()

    def wait_message(self, *kinds, timeout=10):
        """The next control message of one of these types. Others before it are passed over."""

        def matching():
            while self.messages and self.messages[0]["type"] not in kinds:
                self.messages.popleft()
            return bool(self.messages)

        if not self.wait(matching, timeout, f"control message {kinds}"):
            raise ConnectionError(f"the agent ended before {kinds}")
        with self.changed:
            return self.messages.popleft()


def in_background(*actions):
    """Runs them at once. What is returned waits for them."""
    failures = []

    def run(action):
        try:
            action()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()

    def join():
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not failures

    return join

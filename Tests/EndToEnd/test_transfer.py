"""A gibibyte in each direction, with equal SHA-256."""

import time

import pytest
from harness.bulk import GIB, BulkServer, Receiver, Sender, finish
from harness.servers import Server
from harness.sockets import connect
from harness.waiting import note


@pytest.fixture
def bulk(make_pair, closing):
    """A server in the workspace that sends and takes a gibibyte on each connection, and where clients reach it."""
    original = closing(Server(lambda connection: None))
    local = closing(BulkServer(GIB))
    pair = make_pair(original=original.address, local=local.address).start()
    yield local, pair.public
    assert original.accepted == 0


def test_a_gibibyte_down_then_up(bulk):
    local, public = bulk
    with connect(public) as connection:
        down = Receiver(connection)
        transfer = local.next_transfer()
        note("1 GiB from the workspace", 5, finish(transfer.sender, down, 100))
        # The workspace has sent its FIN; this direction is still open.
        up = Sender(connection, GIB)
        note("1 GiB to the workspace", 5, finish(up, transfer.receiver, 100))


def test_a_gibibyte_both_ways_at_once(bulk):
    local, public = bulk
    with connect(public) as connection:
        up, down = Sender(connection, GIB), Receiver(connection)
        transfer = local.next_transfer()
        took = finish(up, transfer.receiver, 100)
        took += finish(transfer.sender, down, 100)
        note("1 GiB each way at once", 10, took)


@pytest.mark.long
@pytest.mark.deadline(600)
def test_four_gibibytes_to_a_reader_that_rests(make_pair, closing):
    """It stops for seconds at a time: whatever waited meanwhile comes, whole and in order."""
    original = closing(Server(lambda connection: None))
    local = closing(BulkServer(4 * GIB))
    pair = make_pair(original=original.address, local=local.address).start()
    with connect(pair.public) as connection:
        transfer = local.next_transfer()
        down = Receiver(RestingReader(connection))
        finish(transfer.sender, down, 500)


class RestingReader:
    """A connection whose reads pause for two seconds after each quarter of a gibibyte."""

    def __init__(self, connection):
        self.connection, self.count = connection, 0

    def recv_into(self, buffer):
        count = self.connection.recv_into(buffer)
        if (self.count + count) // (GIB // 4) > self.count // (GIB // 4):
            time.sleep(2)
        self.count += count
        return count

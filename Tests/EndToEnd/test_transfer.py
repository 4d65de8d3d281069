"""A gibibyte in each direction, with equal SHA-256."""

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

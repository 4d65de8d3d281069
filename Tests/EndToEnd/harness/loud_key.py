"""An accepted key that floods a sidecar over UDP, as a program: so that it takes none of the tests' own time.

It shakes hands by datagrams, and then says as much as it is told to, in messages of so many `--frames`, all the same: one makes the
smallest messages, many make some that are long to work through. It acknowledges nothing. It prints a line once it is heard, and
at its end, by SIGTERM, how many messages it has sent and how many have come back.
"""

import argparse
import base64
import contextlib
import json
import os
import pathlib
import signal
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from peer import handshake, wire  # noqa: E402
from peer.initiator import LIMITS  # noqa: E402

# A peer that acknowledges nothing is held to be gone after 6 s: it comes back before that.
AGAIN_AFTER = 4


def shake_hands(sock, private, responder, last):
    stamp = handshake.timestamp(last)
    index = int.from_bytes(os.urandom(4), "little")
    parameters = wire.Parameters(os.urandom(8), **LIMITS)
    one = handshake.Initiation(private, responder, handshake.NO_PSK, index, stamp, parameters)
    one.payload = wire.pad_parameters(one.payload, handshake.LARGEST_HANDSHAKE - handshake.INITIATION_OVERHEAD)
    message = one.begin()
    sock.settimeout(1)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        sock.send(message)
        try:
            while answer := sock.recv(2_048):
                if answer[0] == wire.RESPONSE:
                    return one.finish(answer), stamp
        except TimeoutError:
            continue
    raise SystemExit("nobody answers")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--key", required=True, help="a file")
    parser.add_argument("--responder", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--frame", required=True, type=bytes.fromhex, help="in hexadecimal")
    parser.add_argument("--frames", required=True, type=int)
    parser.add_argument("--rate", required=True, type=int, help="bytes a second")
    given = parser.parse_args()
    private = base64.b64decode(pathlib.Path(given.key).read_text())
    responder = base64.b64decode(given.responder)
    running = True

    def end(*_):
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, end)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", given.port))
    frames = given.frame * given.frames
    frames += bytes(-len(frames) % 16)
    stamp, sent, heard, handshakes, began = bytes(12), 0, 0, 0, time.monotonic()
    while running:
        session, stamp = shake_hands(sock, private, responder, stamp)
        handshakes += 1
        sock.setblocking(False)
        # What Session.seal does, in a quarter of the time.
        encrypt, zeros = session.sealing.cipher.cipher.encrypt, bytes(4)
        since, number, size = time.monotonic(), 0, 0
        while running and (now := time.monotonic()) - since < AGAIN_AFTER:
            for _ in range(200):
                if size >= (now - since) * given.rate:
                    break
                nonce = zeros + number.to_bytes(8, "little")
                message = wire.data_header(session.remote_index, number) + encrypt(nonce, frames, b"")
                number += 1
                size += len(message)
                with contextlib.suppress(OSError):
                    sent += sock.send(message) > 0
            try:
                while sock.recv(2_048):
                    heard += 1
                    if heard == 1:
                        print("heard", flush=True)
            except OSError:
                time.sleep(0.001)
    took = time.monotonic() - began
    print(json.dumps({"sent": sent, "heard": heard, "handshakes": handshakes, "took": took}), flush=True)


if __name__ == "__main__":
    main()

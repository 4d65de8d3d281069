"""A flood of UDP clients, as a program: one byte from each of ever new addresses of this host, at a steady rate.

It ends by SIGTERM, and says how many a second there were.
"""

import argparse
import itertools
import signal
import socket
import struct
import threading
import time

IP_PKTINFO = 8
FIRST = 0x7F40_0000  # 127.64.0.0
COUNT = 1 << 22


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--per-second", type=int, required=True)
    flags = parser.parse_args()
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    start = time.monotonic()
    for number in itertools.count():
        # struct in_pktinfo: the address that this one leaves from.
        source = struct.pack("=i", 0) + struct.pack(">I4x", FIRST + number % COUNT)
        sender.sendmsg([b"?"], [(socket.SOL_IP, IP_PKTINFO, source)], 0, ("127.0.0.1", flags.port))
        wait = start + number / flags.per_second - time.monotonic()
        if wait > 0.001:
            time.sleep(wait)
        if ended.is_set():
            break
    print(round(number / (time.monotonic() - start)), flush=True)


if __name__ == "__main__":
    main()

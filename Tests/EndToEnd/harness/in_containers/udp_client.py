"""Asks a UDP service from one port, again and again: a line for each question, "-" where no answer came in time."""

import argparse
import socket
import sys
import time

flags = argparse.ArgumentParser()
flags.add_argument("--host", required=True)
flags.add_argument("--port", type=int, required=True)
flags.add_argument("--from-port", type=int, default=0)
flags.add_argument("--count", type=int, default=0, help="0: until standard input ends")
flags.add_argument("--pause", type=float, default=0.05)
flags.add_argument("--timeout", type=float, default=1)
flags = flags.parse_args()

family = socket.AF_INET6 if ":" in flags.host else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM)
client.bind(("", flags.from_port))
# Whoever answers from elsewhere is not heard.
client.connect(socket.getaddrinfo(flags.host, flags.port, family, socket.SOCK_DGRAM)[0][4])
client.settimeout(flags.timeout)


def ask(text):
    """Who answers this very question; late answers to earlier ones are passed over."""
    end = time.monotonic() + flags.timeout
    try:
        client.send(text)
        while time.monotonic() < end:
            name, _, rest = client.recv(65_536).partition(b" ")
            if rest == text:
                return name.decode()
    except (TimeoutError, ConnectionRefusedError):
        pass
    return "-"


number = 0
while not flags.count or number < flags.count:
    number += 1
    print(ask(b"question %d" % number), flush=True)
    time.sleep(flags.pause)
sys.stdout.close()

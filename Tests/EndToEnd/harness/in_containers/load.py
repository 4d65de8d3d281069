"""Asks a service who it is again and again, and tells of each answer in a line of JSON. Ends when its input ends.

Times are of the monotonic clock, which all containers of a machine share. With --keep a connection is kept, and what
breaks on it is asked once more on a new one, as pools of connections do; without, each question has its own connection.
With --hold nothing but one connection is asked, and when it ends that is told.
"""

import argparse
import json
import sys
import threading
import time

from asking import Asker, ask

parser = argparse.ArgumentParser()
parser.add_argument("--kind", choices=("http", "redis", "postgres"), default="http")
parser.add_argument("--host", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--pause", type=float, default=0.01)
parser.add_argument("--timeout", type=float, default=10)
parser.add_argument("--header", action="append", default=[])
parser.add_argument("--once", action="store_true")
parser.add_argument("--keep", action="store_true")
parser.add_argument("--hold", action="store_true")
flags = parser.parse_args()
ended = threading.Event()


def wait_for_end():
    sys.stdin.read()
    ended.set()


def tell(start, who=None, error=None, again=False):
    entry = {"start": start, "end": time.monotonic(), "who": who, "error": error, "again": again}
    print(json.dumps(entry), flush=True)


def new():
    return Asker(flags.kind, flags.host, flags.port, flags.timeout, flags.header)


if flags.once:
    print(ask(flags.kind, flags.host, flags.port, flags.timeout, flags.header))
    sys.exit()

threading.Thread(target=wait_for_end, daemon=True).start()
kept = None
while not ended.is_set():
    start = time.monotonic()
    try:
        if flags.hold or flags.keep:
            again = False
            try:
                kept = kept or new()
                who = kept.ask()
            except OSError as error:
                if flags.hold:
                    tell(start, error=repr(error))
                    break
                kept, again = new(), True
                who = kept.ask()
            tell(start, who, again=again)
        else:
            tell(start, ask(flags.kind, flags.host, flags.port, flags.timeout, flags.header))
    except OSError as error:
        kept = None
        tell(start, error=repr(error))
    ended.wait(flags.pause)

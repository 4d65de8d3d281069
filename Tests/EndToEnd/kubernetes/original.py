"""The program of a test's pods: answers with its pod's name, and that it is the original; gRPC's health check too."""

import argparse
import os
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(__file__))
import grpc  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, action="append", default=[])
parser.add_argument("--udp-port", type=int, action="append", default=[])
parser.add_argument("--slow-start", type=float, default=0, help="seconds before it listens")
parser.add_argument("--stop-after", type=float, default=0, help="seconds for which it goes on after SIGTERM")
parser.add_argument("--name", default=os.environ.get("HOSTNAME") or socket.gethostname())
flags = parser.parse_args()


def serve(connection):
    with connection:
        if grpc.is_grpc(connection):
            grpc.serve(connection)
        data = b""
        while b"\r\n\r\n" not in data:
            if not (part := connection.recv(1 << 16)):
                return
            data += part
        body = f"{flags.name} original\n".encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=guarded, args=(connection,), daemon=True).start()


def guarded(connection):
    try:
        serve(connection)
    except OSError:
        pass


def answer(socket_):
    while True:
        data, address = socket_.recvfrom(1 << 16)
        socket_.sendto(f"{flags.name} ".encode() + data, address)


def end(*_):
    # In the first thread; the others go on answering.
    time.sleep(flags.stop_after)
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
time.sleep(flags.slow_start)
for port in flags.port:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
for port in flags.udp_port:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("0.0.0.0", port))
    threading.Thread(target=answer, args=(receiver,), daemon=True).start()
print("ready", flush=True)
while True:
    signal.pause()

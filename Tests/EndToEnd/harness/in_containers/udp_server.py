"""A UDP service: answers each payload with its name and the payload. `answer N` asks for N bytes in place of that, and `whom`
for the client's address as the service sees it. `twice N` asks for a second answer N seconds after the first."""

import argparse
import socket
import threading

flags = argparse.ArgumentParser()
flags.add_argument("--name", required=True)
flags.add_argument("--host", default="::")
flags.add_argument("--port", type=int, required=True)
flags = flags.parse_args()

family = socket.AF_INET6 if ":" in flags.host else socket.AF_INET
server = socket.socket(family, socket.SOCK_DGRAM)
if family == socket.AF_INET6:
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
server.bind((flags.host, flags.port))
print(f"{flags.name} answers", flush=True)


def send(answer, client):
    try:
        server.sendto(answer, client)
    except OSError as error:
        # While a table with translations goes, the kernel refuses what is in its hooks just then: lost, as on the way.
        print(f"{flags.name} couldn't answer: {error}", flush=True)


while True:
    payload, client = server.recvfrom(65_536)
    words = payload[:64].split()
    if words[:1] == [b"answer"]:
        answer = (flags.name.encode() + b" ").ljust(int(words[1]), b"x")
    elif words[:1] == [b"whom"]:
        answer = f"{flags.name} {client[0].removeprefix('::ffff:')} {client[1]}".encode()
    else:
        answer = flags.name.encode() + b" " + payload
    send(answer, client)
    if words[:1] == [b"twice"]:
        threading.Timer(float(words[1]), send, (answer, client)).start()

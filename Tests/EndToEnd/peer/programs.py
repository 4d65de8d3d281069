"""The real agents as processes, and a TCP service for them to reach."""

import base64
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading

BUILD = pathlib.Path(__file__).parents[3] / ".build" / "release"


def folder():
    """Where the programs are, or nothing if none were built and none were named."""
    if named := os.environ.get("KL_BIN"):
        return pathlib.Path(named)
    return BUILD if BUILD.exists() else None


def key_file(path, key):
    """As `wg genkey` writes it; the agents refuse a looser mode."""
    path.touch(0o600)
    path.write_text(base64.b64encode(key).decode() + "\n")
    return path


class Program:
    """One agent. `ready` is the line that it prints when it is."""

    def __init__(self, log, *arguments, wait=True):
        self.log = log
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                [folder() / arguments[0], *map(str, arguments[1:])], stdout=subprocess.PIPE, stderr=errors
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout=15):
        timer = threading.Timer(timeout, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            raise RuntimeError(f"not ready: {self.log.read_text(errors='replace')[-2_000:]}")
        self.ready = json.loads(line)
        assert self.ready["ready"] is True
        return self.ready

    def end(self, number=signal.SIGTERM, timeout=20):
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Service:
    """Listens, and gives each connection to `serve` in a thread of its own."""

    def __init__(self, serve):
        self.serve, self.requests = serve, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self.one, args=(sock,), daemon=True).start()

    def one(self, sock):
        with sock, contextlib.suppress(OSError):
            self.serve(self, sock)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self.listener.close()


def read_request(sock):
    data = b""
    while b"\r\n\r\n" not in data and (more := sock.recv(65_536)):
        data += more
    return data


def response(text):
    body = text.encode()
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def http(text):
    """What answers each request with this text, and keeps the request."""

    def serve(service, sock):
        service.requests.append(read_request(sock))
        sock.sendall(response(text))

    return serve


def echo(service, sock):
    """Gives back each byte, and ends when the client has."""
    while data := sock.recv(65_536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def get(address, path="/", timeout=15):
    """The body that a client sees."""
    with socket.create_connection(address, timeout) as sock:
        return ask(sock, path, timeout)


def ask(sock, path="/", timeout=15):
    sock.settimeout(timeout)
    sock.sendall(b"GET %s HTTP/1.0\r\nHost: test\r\n\r\n" % path.encode())
    data = b""
    while more := sock.recv(65_536):
        data += more
    assert data.startswith(b"HTTP/1.0 200 OK\r\n"), data
    return data.partition(b"\r\n\r\n")[2].decode()

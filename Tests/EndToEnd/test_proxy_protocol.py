"""A local server learns who the client is (PROXY protocol), and the original gets the client's bytes alone."""

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time

import pytest
from harness.line import Line
from harness.ports import free_port
from harness.programs import listening
from harness.servers import Server, read_all
from harness.sockets import connect
from harness.waiting import eventually

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


class Recorder:
    """Keeps what each client said, to the end of it, and answers with its name."""

    def __init__(self, name, host="127.0.0.1"):
        self.name, self.said = name.encode(), []
        self.server = Server(self.handle, host)
        self.address, self.close = self.server.address, self.server.close

    def handle(self, connection):
        said = bytearray()
        self.said.append(said)
        with contextlib.suppress(OSError):
            while part := connection.recv(65536):
                said += part
            connection.sendall(self.name)


@pytest.fixture
def nginx_of(processes, folder):
    """nginx that wants a PROXY protocol header, and answers with what it says."""
    if not os.path.exists("/usr/sbin/nginx"):
        pytest.skip("nginx isn't installed")

    def start(host="127.0.0.1"):
        port = free_port()
        root = folder / f"nginx-{port}"
        root.mkdir()
        temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        said = "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port"
        written = f"[{host}]" if ":" in host else host
        (root / "nginx.conf").write_text(
            f"""
            daemon off;
            worker_processes 1;
            pid {root}/nginx.pid;
            error_log stderr info;
            {"user root;" if os.geteuid() == 0 else ""}
            events {{ worker_connections 64; }}
            http {{
                access_log off;
                {" ".join(f"{kind}_temp_path {root}/{kind};" for kind in temporary)}
                server {{
                    listen {written}:{port} proxy_protocol;
                    location / {{ return 200 "{said}"; }}
                }}
            }}
            """
        )
        arguments = ["/usr/sbin/nginx", "-e", "stderr", "-p", root, "-c", root / "nginx.conf"]
        return processes.start("nginx", arguments), listening(host, port)

    return start


def request(address):
    """What the server answers to a GET, and from which port it was asked."""
    with connect(address) as connection:
        own = connection.getsockname()[:2]
        connection.sendall(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")
        return own, read_all(connection).partition(b"\r\n\r\n")[2].decode()


def has_ipv6():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nginx_is_told_the_client(make_pair, closing, nginx_of, version, host):
    if host == "::1" and not has_ipv6():
        pytest.skip("there is no IPv6 here")
    server, address = nginx_of()
    original = closing(Recorder("original"))
    flags = ["--proxy-protocol", version]
    pair = make_pair(original=original.address, local=address, host=host, workspace=flags).start()
    for _ in range(3):
        own, answer = request(pair.public)
        assert answer == f"{own[0]} {own[1]} {pair.public[0]} {pair.public[1]}"
    assert "broken header" not in server.log()
    assert original.said == []


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_original_gets_the_clients_bytes_alone(make_pair, closing, version):
    """Nothing listens locally: the first connection is handed over with what its client said, or said not."""
    original = closing(Recorder("original"))
    nobody = ("127.0.0.1", free_port())
    pair = make_pair(original=original.address, local=nobody, workspace=["--proxy-protocol", version]).start()
    with connect(pair.public) as talks, connect(pair.public) as keeps_silent:
        talks.sendall(b"hello")
        talks.shutdown(socket.SHUT_WR)
        assert read_all(talks) == b"original"
        keeps_silent.shutdown(socket.SHUT_WR)
        assert read_all(keeps_silent) == b"original"
    assert sorted(bytes(said) for said in original.said) == [b"", b"hello"]
    pair.workspace.kill()
    eventually("the original answers", lambda: exchange_whole(pair.public, b"later") == b"original", 2)
    assert bytes(original.said[-1]) == b"later"


def exchange_whole(address, data):
    with contextlib.suppress(OSError), connect(address) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def expected(version, client, public):
    if version == "v1":
        return f"PROXY TCP4 {client[0]} {public[0]} {client[1]} {public[1]}\r\n".encode()
    addresses = socket.inet_aton(client[0]) + socket.inet_aton(public[0])
    return SIGNATURE + b"\x21\x11\x00\x0c" + addresses + struct.pack(">HH", client[1], public[1])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_header_comes_once_and_first(make_pair, closing, version):
    original, local = closing(Recorder("original")), closing(Recorder("workspace"))
    flags = ["--proxy-protocol", version]
    pair = make_pair(original=original.address, local=local.address, workspace=flags).start()
    before = len(local.said)
    with connect(pair.public) as client:
        own = client.getsockname()
        # It says nothing: the header comes all the same.
        eventually("the server has the header", lambda: len(local.said) > before and len(local.said[before]) >= 16, 1)
        assert bytes(local.said[before]) == expected(version, own, pair.public)
        data = os.urandom(200_000)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"workspace"
        assert bytes(local.said[before]) == expected(version, own, pair.public) + data


def test_the_header_is_not_doubled_when_the_line_breaks(make_pair, closing):
    original, local = closing(Recorder("original")), closing(Recorder("workspace"))
    pair = make_pair(original=original.address, local=local.address, workspace=["--proxy-protocol", "v2"])
    pair.start_sidecar()
    line = closing(Line(pair.tunnel))
    pair.dialled = line.listen_address
    pair.start_workspace()
    for number in range(10):
        said = len(local.said)
        threading.Timer(0.002 * number, line.cut).start()
        with connect(pair.public) as client:
            own = client.getsockname()
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) in {b"workspace", b"original"}
        eventually("a carrier again", lambda: line.live, 2)
        time.sleep(0.2)
        for heard in local.said[said:]:
            assert bytes(heard) == expected("v2", own, pair.public) + b"hello"
    assert all(bytes(heard) == b"hello" for heard in original.said)


def test_wrong_versions_are_refused(binaries):
    command = [binaries / "kl-workspace", "run", "--proxy-protocol", "v3"]
    assert subprocess.run(command, capture_output=True, timeout=10).returncode == 2

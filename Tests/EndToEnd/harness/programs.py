"""Real servers and clients that others wrote, set up in a folder of the test."""

import os
import pathlib
import pwd
import shutil
import socket
import subprocess

from .ports import free_port
from .waiting import NotSeen, eventually


def run(*arguments, deadline=60, **options):
    """Runs a program to its end, and returns what it printed; fails if it fails."""
    arguments = [str(argument) for argument in arguments]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=deadline, **options)
    if done.returncode:
        raise NotSeen(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def compile_c(source, output, *flags):
    """Compiles one C file, and returns the path of what was made."""
    compiler = shutil.which("cc") or shutil.which("clang")
    assert compiler, "no C compiler found; the Swift toolchain has one, clang"
    run(compiler, "-O1", *flags, "-o", output, source)
    return output


def listening(host, port):
    """Waits until something accepts there."""

    def check():
        try:
            socket.create_connection((host, port), timeout=5).close()
            return True
        except OSError:
            return False

    eventually("a server that a test needs listens", check, 2)
    return host, port


def nginx(processes, folder, host="127.0.0.1", http2=False):
    """nginx with one page of 256 bytes at / and one of 16 KiB at /large."""
    port = free_port()
    root = folder / "www"
    root.mkdir(parents=True)
    (root / "index.html").write_bytes(b"x" * 256)
    (root / "large").write_bytes(b"y" * (16 << 10))
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""
        daemon off;
        worker_processes 1;
        pid {folder}/nginx.pid;
        error_log stderr warn;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{ worker_connections 4096; }}
        http {{
            access_log off;
            keepalive_requests 1000000;
            {" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in temporary)}
            server {{
                listen {host}:{port} backlog=4096 {"http2" if http2 else ""};
                root {root};
            }}
        }}
        """
    )
    # The log's path is given twice: nginx opens its built-in one before it reads the file.
    processes.start("nginx", ["/usr/sbin/nginx", "-e", "stderr", "-p", folder, "-c", configuration])
    return listening(host, port)


def redis(processes, folder):
    port = free_port()
    folder.mkdir(parents=True)
    arguments = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    processes.start("redis-server", arguments)
    return listening("127.0.0.1", port)


def postgres(processes, folder):
    """A new PostgreSQL cluster; its server refuses to run as root, so root runs it as the package's own user."""
    port = free_port()
    folder.mkdir(parents=True)
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
    data = folder / "data"
    home = _postgres_programs()
    as_user = {"user": user, "group": user, "extra_groups": []} if user else {}
    options = ["--no-sync", "--auth=trust", "--username=tester", "--encoding=UTF8", "--locale=C"]
    run(home / "initdb", "-D", data, *options, cwd=folder, **as_user)
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": 50,
    }
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    processes.start("postgres", [home / "postgres", "-D", data, *flags], user=user, directory=folder)
    eventually(
        "a server that a test needs listens",
        lambda: subprocess.run(["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0,
        2,
    )
    return "127.0.0.1", port


def _postgres_programs():
    """Debian keeps the server's programs out of the path, in a folder for each version."""
    homes = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = homes[-1] if homes else shutil.which("initdb")
    if not found:
        raise NotSeen("PostgreSQL's initdb isn't installed. Install it: agent/install")
    return pathlib.Path(found).parent

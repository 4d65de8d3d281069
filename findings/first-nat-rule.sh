#!/usr/bin/env bash
# Are established connections safe from a new rule of a nat chain, which only sees the first packet of a connection?
#
# Guessed: yes, as nft(8) says that only a connection's first packet comes to such a chain.
# Seen, on Linux 6.18: not if the rule is the first in its network namespace that needs connection tracking, which
# starts with it. To the tracking the next packet of an old connection is a first one: `redirect` sends it, in the
# middle of the stream, to the other port, and the client gets a reset. The server hears nothing. Connections whose
# server speaks next are spared, since they are taken to come from there; and all are where any rule has asked for
# tracking before.
#
# Needs root, and Debian 12 on amd64 with its package lists. Everything happens in a network namespace of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download conntrack=1:1.4.7-1+b2 libnetfilter-conntrack3=1.0.9-3 \
    libnfnetlink0=1.0.2-2 libmnl0=1.0.4-3 nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 \
    libjansson4=2.14-2 libxtables12=1.8.9-2 libedit2=3.1-20221030-2 libbsd0=0.11.7-2 \
    busybox-static=1:1.35.0-4+deb12u1+b1 python3.11-minimal=3.11.2-6+deb12u9 \
    libpython3.11-minimal=3.11.2-6+deb12u9 libpython3.11-stdlib=3.11.2-6+deb12u9
for package in *.deb; do dpkg -x "$package" .; done
export PATH="$folder/usr/sbin:$folder/usr/bin:$folder/bin:$PATH" PYTHONHOME="$folder/usr"
LD_LIBRARY_PATH=$(echo "$folder"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
echo "kernel $(uname -r), $(nft --version)"
echo "guessed: all old connections go on"

cat >trial.py <<'END'
import socket, subprocess, sys

def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

def attempt(one, other):
    """Whether a byte gets from one end to the other."""
    other.settimeout(1)
    try:
        one.send(b"x")
        return "arrives" if other.recv(1) else "end"
    except TimeoutError:
        return "never arrives"
    except ConnectionResetError:
        return "reset"

def trial(tracked_before, server_first):
    run("nft", "flush ruleset")
    run("conntrack", "-F")
    if tracked_before:
        run("nft", "add table ip t; add chain ip t o { type filter hook output priority 0; }; "
            "add rule ip t o ct state new accept")
    with socket.create_server(("127.0.0.1", 0)) as old, socket.create_server(("127.0.0.1", 0)) as new:
        with socket.create_connection(old.getsockname()) as client, old.accept()[0] as server:
            assert attempt(client, server) == attempt(server, client) == "arrives"
            ports = old.getsockname()[1], new.getsockname()[1]
            run("nft", "add table ip n; add chain ip n o { type nat hook output priority -100; }; "
                f"add rule ip n o tcp dport {ports[0]} counter redirect to :{ports[1]}")
            first = attempt(server, client) if server_first else "-"
            request = attempt(client, server)
            return first, request, attempt(server, client), "counter packets 1" in run("nft", "list table ip n")

run("busybox", "ifconfig", "lo", "up")
cases = [
    ("first rule with tracking, client speaks next", False, False, ("-", "never arrives", "reset", True)),
    ("first rule with tracking, server speaks next", False, True, ("arrives", "arrives", "arrives", False)),
    ("tracked before, client speaks next", True, False, ("-", "arrives", "arrives", False)),
]
wrong = False
for name, tracked_before, server_first, expected in cases:
    seen = trial(tracked_before, server_first)
    print(f"seen: {name}: client's byte {seen[1]}, then server's {seen[2]}, redirected {seen[3]}")
    wrong |= seen != expected
sys.exit("this kernel does something else" if wrong else 0)
END
unshare --net python3.11 -B trial.py

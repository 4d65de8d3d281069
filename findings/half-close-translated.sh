#!/usr/bin/env bash
# How long may a server take to answer a client that has sent all and closed its half, over a translated connection?
#
# Guessed: as long as an open connection may be silent, which is days (nf_conntrack_tcp_timeout_established).
# Seen, on Linux 6.18: 60 s (nf_conntrack_tcp_timeout_close_wait). Then the translation is forgotten, and the answer
# leaves from the port that the server really has. The client's socket knows no such connection and answers with a
# reset: the server hears EPIPE, and the client, which half-closed in all correctness, waits on.
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
echo "guessed: the answer arrives"

cat >trial.py <<'END'
import errno, socket, subprocess, sys, time

SETTING = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_"

def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

def timeout(name, value=None):
    with open(SETTING + name, "r+") as file:
        if value is None:
            return file.read().strip()
        file.write(str(value))

def trial(half_closes, pause):
    """What becomes of the client's wait and of the server's connection."""
    with socket.create_connection(("127.0.0.1", 7001)) as client, listener.accept()[0] as server:
        client.send(b"?")
        server.recv(1)
        if half_closes:
            client.shutdown(socket.SHUT_WR)
        time.sleep(pause)
        server.send(b"!")
        client.settimeout(2)
        try:
            heard = "hears the answer" if client.recv(1) == b"!" else "hears an end"
        except TimeoutError:
            heard = "waits"
        error = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return heard, errno.errorcode.get(error, "nothing")

run("busybox", "ifconfig", "lo", "up")
run("nft", "add table ip n; add chain ip n o { type nat hook output priority -100; }; "
    "add rule ip n o tcp dport 7001 redirect to :7002")
listener = socket.create_server(("127.0.0.1", 7002))
print("timeouts: established", timeout("established"), "s, close_wait", timeout("close_wait"), "s, for the trial 2 s")
timeout("close_wait", 2)
wrong = False
for name, half_closes, pause, expected in [
    ("open for 5 s", False, 5, ("hears the answer", "nothing")),
    ("half-closed, answer at once", True, 0.2, ("hears the answer", "nothing")),
    ("half-closed, answer after 5 s", True, 5, ("waits", "EPIPE")),
]:
    seen = trial(half_closes, pause)
    print(f"seen: {name}: the client {seen[0]}, the server's error is {seen[1]}")
    wrong |= seen != expected
sys.exit("this kernel does something else" if wrong else 0)
END
unshare --net python3.11 -B trial.py

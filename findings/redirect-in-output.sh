#!/usr/bin/env bash
# Do `redirect to :PORT` and `dnat to :PORT` in an output chain differ for a client that calls an address of its
# machine?
#
# Guessed: no; the address is this machine's already, so that redirect has nothing but the port to change.
# Seen, on Linux 6.18: redirect makes 127.0.0.1 of it. The server sees another address than was called. The plain
# answer of a UDP server on all addresses leaves from the called one, matches no flow, and comes with the wrong port,
# so a connected client never hears it. Clients that are bound to the device time out, with TCP and UDP. `dnat to
# :PORT`, with no address, is taken by nft 1.0.6, keeps the called address, and has none of this.
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
echo "guessed: the same rows for redirect and dnat"

cat >trial.py <<'END'
import socket, subprocess, sys

CALLED, DEVICE = "192.0.2.1", b"bridge0\0"

def run(*command):
    subprocess.run(command, check=True, capture_output=True)

def client(kind, bound):
    end = socket.socket(socket.AF_INET, kind)
    end.settimeout(1)
    if bound:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE)
    return end

def tcp(bound):
    with client(socket.SOCK_STREAM, bound) as end:
        try:
            end.connect((CALLED, 7001))
        except TimeoutError:
            return "timeout"
        return "server sees " + tcp_server.accept()[0].getsockname()[0]

def udp(bound):
    with client(socket.SOCK_DGRAM, bound) as end:
        end.sendto(b"?", (CALLED, 7001))
        try:
            udp_server.sendto(b"!", udp_server.recvfrom(1)[1])
            return "answer from port %d" % end.recvfrom(1)[1][1]
        except TimeoutError:
            return "timeout"

run("busybox", "ifconfig", "lo", "up")
run("busybox", "brctl", "addbr", "bridge0")
run("busybox", "ifconfig", "bridge0", CALLED, "netmask", "255.255.255.0", "up")
tcp_server = socket.create_server(("0.0.0.0", 7002))
udp_server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp_server.bind(("0.0.0.0", 7002))
udp_server.settimeout(1)
wrong = False
for statement, bound, expected in [
    ("redirect", False, ("server sees 127.0.0.1", "answer from port 7002")),
    ("redirect", True, ("timeout", "timeout")),
    ("dnat", False, ("server sees " + CALLED, "answer from port 7001")),
    ("dnat", True, ("server sees " + CALLED, "answer from port 7001")),
]:
    run("nft", "flush ruleset")
    run("conntrack", "-F")
    run("nft", "add table ip n; add chain ip n o { type nat hook output priority -100; }; "
        f"add rule ip n o meta l4proto {{ tcp, udp }} th dport 7001 {statement} to :7002")
    seen = tcp(bound), udp(bound)
    binding = "bound to the device" if bound else "not bound"
    print(f"seen: {statement:8}  client {binding:19}  TCP: {seen[0]}, UDP: {seen[1]}")
    wrong |= seen != expected
sys.exit("this kernel does something else" if wrong else 0)
END
unshare --net python3.11 -B trial.py

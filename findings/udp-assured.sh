#!/usr/bin/env bash
# When does connection tracking keep a UDP flow for nf_conntrack_udp_timeout_stream (120 s) in place of 30 s?
#
# Guessed: once it is answered, or once it has gone both ways often.
# Seen, on Linux 6.18: a thousand exchanges within 2 s leave it at 30 s and not ASSURED, so that it is also among the
# first to be thrown out of a full table. One more packet that comes later than 2 s after the flow's first one, behind
# at least one answer, makes it ASSURED. Questions without an answer never do, however long they go on.
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

cat >trial.py <<'END'
import os, socket, subprocess, sys, time

def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

run("busybox", "ifconfig", "lo", "up")
# Nothing is tracked in a network namespace before a rule asks for it.
run("nft", "add table ip t; add chain ip t o { type filter hook output priority 0; }; "
    "add rule ip t o ct state new accept")
print("kernel", os.uname().release, "with timeouts of", *(
    open(f"/proc/sys/net/netfilter/nf_conntrack_udp_timeout{name}").read().strip() for name in ("", "_stream")), "s")
print("guessed: answered flows are ASSURED")
wrong = False

class Flow:
    def __init__(self):
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind(("127.0.0.1", 0))
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect(self.server.getsockname())

    def exchange(self):
        self.client.send(b"?")
        self.server.sendto(b"!", self.server.recvfrom(9)[1])
        self.client.recv(9)

    def expect(self, what, assured):
        global wrong
        port = str(self.client.getsockname()[1])
        line = run("conntrack", "-L", "-p", "udp", "--orig-port-src", port)
        left, is_assured = int(line.split()[2]), "[ASSURED]" in line
        print(f"seen: {what}: {'ASSURED' if is_assured else 'not assured'}, {left} s left")
        wrong |= is_assured != assured or (left > 30) != assured

flow, began = Flow(), time.monotonic()
for _ in range(1000):
    flow.exchange()
assert time.monotonic() - began < 1.5, "this machine is too slow for the trial"
flow.expect("1000 exchanges at once", False)
time.sleep(2.5)
flow.client.send(b"?")
flow.expect("and one packet 2.5 s later", True)

flow = Flow()
for _ in range(7):
    flow.client.send(b"?")
    time.sleep(0.5)
flow.expect("3 s of questions without an answer", False)
sys.exit("this kernel does something else" if wrong else 0)
END
unshare --net python3.11 -B trial.py

#!/usr/bin/env bash
# Does a server learn by SO_ORIGINAL_DST which address a redirected client had called, if it listens with Multipath
# TCP?
#
# Guessed: yes, or never: it is a property of the server's socket.
# Seen, on Linux 6.18: that depends on the client. From one that speaks plain TCP it learns it as ever, since accept()
# then returns a socket of plain TCP. From one that speaks Multipath TCP it gets EOPNOTSUPP, though tracking knows the
# address: `conntrack -L` shows it. Whoever tries it with a plain client sees nothing wrong.
#
# Needs root, Multipath TCP in the kernel, and Debian 12 on amd64 with its package lists. Everything happens in a
# network namespace of its own.
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
echo "guessed: one answer for each listener"

cat >trial.py <<'END'
import errno, socket, subprocess, sys

TCP, MPTCP, SO_ORIGINAL_DST = 6, 262, 80
NAMES = {TCP: "TCP", MPTCP: "MPTCP"}

def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

def trial(listening, dialling):
    """What accept() returned, the port that it says was called, and whether tracking knows that port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, listening) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 7002))
        listener.listen()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, dialling) as client:
            client.connect(("127.0.0.1", 7001))
            server, _ = listener.accept()
            with server:
                try:
                    address = server.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
                    answer = str(int.from_bytes(address[2:4], "big"))
                except OSError as error:
                    # One number has two names.
                    answer = "EOPNOTSUPP" if error.errno == errno.EOPNOTSUPP else errno.errorcode[error.errno]
                port = str(client.getsockname()[1])
                tracked = "dport=7001" in run("conntrack", "-L", "-p", "tcp", "--orig-port-src", port)
                return NAMES[server.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)], answer, tracked

run("busybox", "ifconfig", "lo", "up")
run("nft", "add table ip n; add chain ip n o { type nat hook output priority -100; }; "
    "add rule ip n o tcp dport 7001 redirect to :7002")
wrong = False
for listening, dialling, expected in [
    (TCP, TCP, ("TCP", "7001", True)),
    (TCP, MPTCP, ("TCP", "7001", True)),
    (MPTCP, TCP, ("TCP", "7001", True)),
    (MPTCP, MPTCP, ("MPTCP", "EOPNOTSUPP", True)),
]:
    seen = trial(listening, dialling)
    print(f"seen: listener {NAMES[listening]:5}  client {NAMES[dialling]:5}  accepted {seen[0]:5}",
          f" SO_ORIGINAL_DST {seen[1]}, tracked {seen[2]}")
    wrong |= seen != expected
sys.exit("this kernel does something else" if wrong else 0)
END
unshare --net python3.11 -B trial.py

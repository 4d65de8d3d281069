#!/usr/bin/env bash
# What does IPCTNL_MSG_CT_DELETE do when the flow isn't named by addresses and ports, but by the id that the kernel
# gave it?
#
# Guessed: it deletes that one flow, or is an error (EINVAL), since CTA_ID is an attribute of every flow that is
# listed.
# Seen, on Linux 6.18: it empties the whole table, and the answer is success. The id is looked at only beside a tuple,
# and a deletion without a tuple is a flush. So is one with attributes that say which flow was meant but aren't
# filters, as CTA_TIMEOUT. CTA_ZONE is a filter, and spares the flows of other zones.
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
echo "kernel $(uname -r), $(conntrack --version)"
echo "guessed: 10 flows become 9, or stay 10 with an error"

cat >trial.py <<'END'
import re, socket, struct, subprocess, sys

NETLINK_NETFILTER, CT_DELETE = 12, 1 << 8 | 2
REQUEST, ACK = 1, 4
CTA_TIMEOUT, CTA_ID, CTA_ZONE = 7, 12, 18

def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

def flows():
    return [int(found) for found in re.findall(r" id=(\d+)", run("conntrack", "-L", "-o", "id"))]

def attribute(kind, value):
    return struct.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

def free(ids):
    return next(number for number in range(len(ids) + 1) if number not in ids)

def delete(attributes):
    """The error number of a deletion with these attributes; 0 is success."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        body = struct.pack("BBH", socket.AF_INET, 0, 0) + attributes
        netlink.send(struct.pack("IHHII", 16 + len(body), CT_DELETE, REQUEST | ACK, 1, 0) + body)
        return -struct.unpack_from("i", netlink.recv(4096), 16)[0]

run("busybox", "ifconfig", "lo", "up")
run("nft", "add table ip t; add chain ip t o { type filter hook output priority 0; }; "
    "add rule ip t o ct state new accept")
wrong = False
for name, attributes, expected in [
    ("the id of one flow", lambda ids: attribute(CTA_ID, struct.pack(">I", ids[0])), 0),
    ("an id that no flow has", lambda ids: attribute(CTA_ID, struct.pack(">I", free(ids))), 0),
    ("a timeout", lambda ids: attribute(CTA_TIMEOUT, struct.pack(">I", 1)), 0),
    ("zone 9, which has no flow", lambda ids: attribute(CTA_ZONE, struct.pack(">H", 9)), 10),
]:
    run("conntrack", "-F")
    for port in range(9000, 9010):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("127.0.0.1", port))
    ids = flows()
    error = delete(attributes(ids))
    left = len(flows())
    print(f"seen: {name}: {len(ids)} flows become {left}, error {error}")
    wrong |= (len(ids), left, error) != (10, expected, 0)
sys.exit("this kernel does something else" if wrong else 0)
END
unshare --net python3.11 -B trial.py

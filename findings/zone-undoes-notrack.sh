#!/usr/bin/env bash
# Does a rule that exempts packets from connection tracking (`notrack`) hold, also beside a rule that sets a zone?
#
# Guessed: yes. nft(8) says of notrack that "no conntrack entry will be created", and of a zone only that it is set.
# Seen, on Linux 6.18: a zone that is set before tracking undoes it, in whichever order the two rules come. The zone is
# kept in a template, which takes the place of the mark "untracked" on the packet, and notrack leaves a packet alone that
# has a template already.
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
echo "guessed: with notrack, no flow is tracked"

cat >trial.py <<'END'
import socket, subprocess, sys

def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

def tracked(*rules):
    """Whether a datagram over the loopback is tracked, behind chains with these rules, one after the other."""
    run("nft", "flush ruleset")
    run("conntrack", "-F")
    # What needs tracking, and so starts it.
    rules = [*rules, "ct state invalid counter"]
    for number, rule in enumerate(rules):
        priority = -320 + 10 * number if number < len(rules) - 1 else 0
        run("nft", f"add table ip t; add chain ip t c{number} {{ type filter hook output priority {priority}; }}; "
            f"add rule ip t c{number} {rule}")
    with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", 0))
        client.sendto(b"x", server.getsockname())
        server.recv(1)
        return f"dport={server.getsockname()[1]}" in run("conntrack", "-L")

run("busybox", "ifconfig", "lo", "up")
wrong = False
for rules, expected in [
    ((), True),
    (("notrack",), False),
    (("notrack", "ct zone set 7"), True),
    (("ct zone set 7", "notrack"), True),
]:
    seen = tracked(*rules)
    print(f"seen: {', then '.join(rules) or 'neither'}: {'tracked' if seen else 'not tracked'}")
    wrong |= seen != expected
sys.exit("this kernel does something else" if wrong else 0)
END
unshare --net python3.11 -B trial.py

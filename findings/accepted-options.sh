#!/usr/bin/env bash
# Which options of a listening TCP socket has a socket that accept() returns?
#
# Guessed: some of TCP's, since tcp(7) says of TCP_USER_TIMEOUT that it is inherited "like many others"; none that are
# about one reader or one connection; and those as they are when accept() is called.
# Seen, on Linux 6.18: nearly all, at every level, also SO_LINGER, SO_RCVTIMEO, SO_PEEK_OFF, IP_RECVERR and TCP_CORK.
# But not SO_PRIORITY, though SO_MARK and IP_TOS are; nor IP_OPTIONS. They are copied when the handshake is over. A
# connection that waits in the queue has none of what is set afterwards, so an option set between listen() and accept()
# holds for some connections and for others not.
#
# Needs root for SO_MARK, and Debian 12 on amd64 with its package lists. Everything happens in a network namespace of
# its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download busybox-static=1:1.35.0-4+deb12u1+b1 \
    python3.11-minimal=3.11.2-6+deb12u9 libpython3.11-minimal=3.11.2-6+deb12u9 libpython3.11-stdlib=3.11.2-6+deb12u9
for package in *.deb; do dpkg -x "$package" .; done
export PATH="$folder/usr/bin:$folder/bin:$PATH" PYTHONHOME="$folder/usr"
echo "kernel $(uname -r)"
echo "guessed: TCP_… inherited, however late they are set; others not"

cat >trial.py <<'END'
import socket, struct, subprocess, sys

subprocess.run(["busybox", "ifconfig", "lo", "up"], check=True)
number, seven_seconds = (lambda value: struct.pack("i", value)), struct.pack("qq", 7, 0)
SOCKET, IP, TCP = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_TCP
# name, level, number in the kernel's headers, a value that isn't the default, inherited
OPTIONS = [
    ("SO_LINGER", SOCKET, 13, struct.pack("ii", 1, 0), True),
    ("SO_KEEPALIVE", SOCKET, 9, number(1), True),
    ("SO_RCVTIMEO", SOCKET, 20, seven_seconds, True),
    ("SO_RCVLOWAT", SOCKET, 18, number(9), True),
    ("SO_PEEK_OFF", SOCKET, 42, number(3), True),
    ("SO_OOBINLINE", SOCKET, 10, number(1), True),
    ("SO_MARK", SOCKET, 36, number(7), True),
    ("SO_PRIORITY", SOCKET, 12, number(5), False),
    ("TCP_NODELAY", TCP, 1, number(1), True),
    ("TCP_CORK", TCP, 3, number(1), True),
    ("TCP_KEEPIDLE", TCP, 4, number(45), True),
    ("TCP_USER_TIMEOUT", TCP, 18, number(12345), True),
    ("TCP_NOTSENT_LOWAT", TCP, 25, number(1234), True),
    ("IP_TOS", IP, 1, number(16), True),
    ("IP_TTL", IP, 2, number(33), True),
    ("IP_RECVERR", IP, 11, number(1), True),
    ("IP_TRANSPARENT", IP, 19, number(1), True),
    ("IP_OPTIONS", IP, 4, bytes([1, 1, 1, 1]), False),
]

def inherited(level, option, value, before):
    """Whether an accepted socket has what was set before its client connected, or else while it was in the queue."""
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        default = listener.getsockopt(level, option, 64)
        if before:
            listener.setsockopt(level, option, value)
        client.connect(listener.getsockname())
        listener.setsockopt(level, option, value)
        accepted, _ = listener.accept()
        with accepted:
            assert listener.getsockopt(level, option, 64) != default
            return accepted.getsockopt(level, option, 64) == listener.getsockopt(level, option, 64)

wrong = False
for name, level, option, value, expected in OPTIONS:
    early, late = inherited(level, option, value, True), inherited(level, option, value, False)
    words = ["inherited" if found else "-" for found in (early, late)]
    print(f"seen: {name:17}  set before the handshake: {words[0]:9}  before accept(): {words[1]}")
    wrong |= early != expected or late
sys.exit("this kernel does something else" if wrong else 0)
END
unshare --net python3.11 -B trial.py

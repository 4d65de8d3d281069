#!/usr/bin/env bash
# Does a TCP urgent byte that was taken by recv(MSG_OOB) come again with the plain data?
#
# Guessed: no. tcp(7) says that older urgent data becomes plain data when newer comes, for it would be lost otherwise;
# what was taken can't be lost.
# Seen, on Linux 6.18: yes, if the next urgent byte comes before the receiver has read up to the first one. Then the
# first byte is given twice, as urgent and in the stream. If the receiver reads up to it in between, it is given once.
# So what a receiver gets from the same sender depends on when it reads, and a byte can't be told from a repeated one.
#
# Needs Debian 12 on amd64 with its package lists, and no root.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download python3.11-minimal=3.11.2-6+deb12u9 \
    libpython3.11-minimal=3.11.2-6+deb12u9 libpython3.11-stdlib=3.11.2-6+deb12u9
for package in *.deb; do dpkg -x "$package" .; done
echo "kernel $(uname -r)"
echo "guessed: A and B once in each row"

PYTHONHOME="$folder/usr" usr/bin/python3.11 -B - <<'END'
import socket, sys, time

def stream(end):
    """All plain data that is there now; a read ends before an urgent byte."""
    data = b""
    try:
        while part := end.recv(100):
            data += part
    except BlockingIOError:
        pass
    return data.decode()

def urgent(end):
    return end.recv(1, socket.MSG_OOB).decode()

def trial(reads_between):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sender:
        receiver, _ = listener.accept()
        with receiver:
            receiver.setblocking(False)
            plain, taken = "", ""
            for before, marked in (b"12", b"A"), (b"34", b"B"):
                sender.send(before)
                sender.send(marked, socket.MSG_OOB)
                time.sleep(0.3)
                taken += urgent(receiver)
                if reads_between:
                    plain += stream(receiver)
            sender.send(b"56")
            time.sleep(0.3)
            return plain + stream(receiver), taken

wrong = False
for name, reads_between, expected in [
    ("reads after each urgent byte", True, ("123456", "AB")),
    ("reads after the last one", False, ("12A3456", "AB")),
]:
    seen = trial(reads_between)
    print(f"seen: sent 12 urgent A 34 urgent B 56, {name}: stream {seen[0]}, urgent {seen[1]}")
    wrong |= seen != expected
sys.exit("this kernel does something else" if wrong else 0)
END

#!/usr/bin/env bash
# Does SIOCOUTQ, which tells how much a TCP socket has still to send, come to 0 in every case?
#
# Guessed: yes: what it counts is acknowledged, or is thrown away when the other end resets the connection. tcp(7)
# calls it the amount of unsent data.
# Seen, on Linux 6.18: it counts what isn't acknowledged, sent or not, and the FIN as one byte more. After a reset the
# queue is gone, the socket is closed, and the number stays what it was, for good. Who waits for 0 waits for ever,
# unless TCP_INFO's state or poll's POLLHUP is looked at as well.
#
# Needs root, and Debian 12 on amd64 with its package lists. Everything happens in a network namespace of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 \
    libnftnl11=1.2.4-2 libmnl0=1.0.4-3 libjansson4=2.14-2 libxtables12=1.8.9-2 libedit2=3.1-20221030-2 \
    libbsd0=0.11.7-2 busybox-static=1:1.35.0-4+deb12u1+b1 python3.11-minimal=3.11.2-6+deb12u9 \
    libpython3.11-minimal=3.11.2-6+deb12u9 libpython3.11-stdlib=3.11.2-6+deb12u9
for package in *.deb; do dpkg -x "$package" .; done
export PATH="$folder/usr/sbin:$folder/usr/bin:$folder/bin:$PATH" PYTHONHOME="$folder/usr"
LD_LIBRARY_PATH=$(echo "$folder"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
echo "kernel $(uname -r)"
echo "guessed: 0 in all rows but the first"

cat >trial.py <<'END'
import array, fcntl, select, socket, subprocess, sys, time

SIOCOUTQ, TCP_INFO, CLOSE = 0x5411, 11, 7

def run(*command):
    subprocess.run(command, check=True)

def left(end):
    value = array.array("i", [0])
    fcntl.ioctl(end, SIOCOUTQ, value)
    return value[0]

def pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]

run("busybox", "ifconfig", "lo", "up")
client, server = pair()
client.setblocking(False)
try:
    while True:
        client.send(bytes(65536))
except BlockingIOError:
    time.sleep(0.3)
full = left(client)
print(f"seen: nobody reads: {full > 0 and 'more than 0'}")
server.close()  # with bytes unread, so by a reset
time.sleep(1)
state = client.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 1)[0]
poll = select.poll()
poll.register(client, select.POLLOUT)
hung_up = bool(poll.poll(0)[0][1] & select.POLLHUP)
after = left(client)
try:
    client.send(b"x")
except OSError as error:
    print(f"seen: 1 s after a reset: {'as before' if after == full else after}, send() says {error.strerror},",
          f"TCP state {state}, POLLHUP {hung_up}")
again = left(client)
print(f"seen: after that error was told: {'as before' if again == full else again}")

client, server = pair()
run("nft", "add table ip t; add chain ip t i { type filter hook input priority 0; }; "
    f"add rule ip t i tcp dport {server.getsockname()[1]} drop")
client.shutdown(socket.SHUT_WR)
fin = left(client)
run("nft", "flush ruleset")
time.sleep(1)
acknowledged = left(client)
print(f"seen: no byte was sent, and the FIN is on its way: {fin}; it is acknowledged: {acknowledged}")
right = 0 < full == after == again and state == CLOSE and hung_up and (fin, acknowledged) == (1, 0)
sys.exit(0 if right else "this kernel does something else")
END
unshare --net python3.11 -B trial.py

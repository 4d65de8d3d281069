#!/usr/bin/env bash
# What do two programs hear when `ss --kill` ends their Multipath TCP connection, which has one subflow?
#
# Guessed: what TCP's programs hear: the killed end ECONNABORTED, the other one a reset, both at once.
# Seen, on Linux 6.18: `ss` says that it has killed the connection, and both programs stay established without a way.
# For net.mptcp.close_timeout (60 s) send() succeeds, and what it takes is lost. Then recv() says ENOTCONN and send()
# EPIPE; SO_ERROR is 0. `ss --kill --mptcp` finds nothing that it could end. An end that fell back to TCP is as TCP is.
#
# Needs root, Multipath TCP in the kernel, and Debian 12 on amd64 with its package lists. Everything happens in a
# network namespace of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download iproute2=6.1.0-3 libmnl0=1.0.4-3 libbsd0=0.11.7-2 \
    libtirpc3=1.3.3+ds-1 busybox-static=1:1.35.0-4+deb12u1+b1 python3.11-minimal=3.11.2-6+deb12u9 \
    libpython3.11-minimal=3.11.2-6+deb12u9 libpython3.11-stdlib=3.11.2-6+deb12u9
for package in *.deb; do dpkg -x "$package" .; done
export PATH="$folder/usr/sbin:$folder/usr/bin:$folder/bin:$PATH" PYTHONHOME="$folder/usr"
LD_LIBRARY_PATH=$(echo "$folder"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
echo "kernel $(uname -r), $(ss -V)"
echo "guessed: ECONNABORTED and ECONNRESET in all three rows"

cat >trial.py <<'END'
import errno, socket, subprocess, sys, time

MPTCP, TCP, WAIT = 262, 0, 4

def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

def connection(listening, dialling):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, listening)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, dialling)
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    for one, other in (client, server), (server, client):
        one.send(b"x")
        other.recv(1)
    time.sleep(0.3)  # the acknowledgements of Multipath TCP
    return client, server

def word(call):
    try:
        return str(call())
    except TimeoutError:
        return "nothing"
    except OSError as error:
        return errno.errorcode[error.errno]

def hears(end, seconds):
    end.settimeout(seconds)
    return word(lambda: end.recv(1))

run("busybox", "ifconfig", "lo", "up")
with open("/proc/sys/net/mptcp/close_timeout", "r+") as setting:
    print("net.mptcp.close_timeout is", setting.read().strip(), f"s, for the trial {WAIT} s")
    setting.seek(0)
    setting.write(str(WAIT))
rows = []
for name, listening, dialling in ("TCP", TCP, TCP), ("fallen back", MPTCP, TCP), ("MPTCP", MPTCP, MPTCP):
    client, server = connection(listening, dialling)
    port, began = str(server.getsockname()[1]), time.monotonic()
    killed = len(run("ss", "--kill", "-tnH", "dport", "=", port).splitlines())
    row = [hears(client, 1), hears(server, 1)]
    print(f"seen: {name}: ss killed {killed}, client hears {row[0]}, server {row[1]}")
    rows.append(row)
more = len(run("ss", "--kill", "--mptcp", "-nH", "dport", "=", port).splitlines())
last = [word(lambda: end.send(b"x")) for end in (client, server)]
last += [hears(end, 2 * WAIT) for end in (client, server)]
took = time.monotonic() - began
last += [word(lambda: end.send(b"x")) for end in (client, server)]
print(f"seen: MPTCP: ss --mptcp killed {more}, send took {last[0]} and {last[1]} byte")
print(f"seen: MPTCP, {took:.0f} s later: recv {last[2]} and {last[3]}, send {last[4]} and {last[5]},",
      "SO_ERROR", *(end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for end in (client, server)))
tcp = ["ECONNABORTED", "ECONNRESET"]
right = rows == [tcp, tcp, ["nothing", "nothing"]] and more == 0 and WAIT - 1 < took < WAIT + 2
right &= last == ["1", "1", "ENOTCONN", "ENOTCONN", "EPIPE", "EPIPE"]
sys.exit(0 if right else "this kernel does something else")
END
unshare --net python3.11 -B trial.py

#!/usr/bin/env bash
# In which order does the kernel let go of the files of a process that ends?
#
# Guessed: in ascending order of the descriptors, as a loop over the table goes and as a program that closes them does.
# Seen, on Linux 6.18: in descending order, the lowest number last. So it is with SIGKILL, _exit, close_range and the
# close-on-exec of execve. Only close(2), one call for each, has the order of the calls. The order in which the files
# were made plays no part.
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
echo "guessed: ascending in all rows"

PYTHONHOME="$folder/usr" usr/bin/python3.11 -B - <<'END'
import os, random, select, signal, socket, sys

FIRST, COUNT, RUNS = 100, 32, 40

def order(kind, how):
    """The descriptors of a child in the order in which their other ends heard of the end."""
    # epoll lists what has become ready in the order in which it did.
    poll, ends = select.epoll(), {}
    numbers = list(range(FIRST, FIRST + COUNT))
    random.shuffle(numbers)
    for number in numbers:
        ours, theirs = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
        os.dup2(theirs, number)
        os.close(theirs)
        ends[ours] = number
        poll.register(ours, select.EPOLLIN | select.EPOLLRDHUP)
    go, say = os.pipe()
    child = os.fork()
    if child == 0:
        for ours in ends:
            os.close(ours)
        poll.close()
        os.read(go, 1)  # until the parent holds none of the child's ends
        if how == "close, ascending":
            for number in sorted(numbers):
                os.close(number)
        elif how == "close_range":
            os.closerange(FIRST, FIRST + COUNT)
        elif how == "execve":
            for number in numbers:
                os.set_inheritable(number, False)
            os.execv("/bin/true", ["true"])
        elif how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    for number in numbers:
        os.close(number)
    os.write(say, b"x")
    os.waitpid(child, 0)
    seen = [ends[ours] for ours, _ in poll.poll(0, COUNT)]
    for end in [go, say, *ends]:
        os.close(end)
    poll.close()
    return seen

wrong = False
for kind in "pipe", "socket":
    for how in "SIGKILL", "_exit", "close_range", "execve", "close, ascending":
        ascending = list(range(FIRST, FIRST + COUNT))
        runs = [order(kind, how) for _ in range(RUNS)]
        up, down = runs.count(ascending), runs.count(ascending[::-1])
        print(f"seen: {kind:6}  {how:16}  ascending {up:2}, descending {down:2}, other {RUNS - up - down}")
        wrong |= (up if how == "close, ascending" else down) != RUNS
sys.exit("this kernel does something else" if wrong else 0)
END

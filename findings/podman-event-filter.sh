#!/usr/bin/env bash
# By which word does the Docker-compatible event stream of podman find the end of a container?
#
# Guessed: by `die`, Docker's word, since that is the action of the events that podman itself sends there.
# Seen, with podman 4.3.1: without a filter the event comes, as "Action":"die". With the filter event=die nothing
# comes, and no error. The filter takes podman's own word: with event=died the event comes, again as "die". So no
# filter works with both engines; who needs the event has to take all, and look at them himself.
#
# Needs root, and Debian 12 on amd64 with its package lists. Everything happens in namespaces of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download podman=4.3.1+ds1-8+deb12u1+b3 conmon=2.1.6+ds1-1 crun=1.8.1-1+deb12u1 \
    golang-github-containers-common=0.50.1+ds1-4 libyajl2=2.1.0-3+deb12u2 libsubid4=1:4.13+dfsg1-1+deb12u2 \
    libgpgme11=1.18.0-3+deb12u1 libassuan0=2.5.5-5 libgpg-error0=1.46-1 libdevmapper1.02.1=2:1.02.185-2 \
    libseccomp2=2.5.4-1+deb12u1 busybox-static=1:1.35.0-4+deb12u1+b1 python3.11-minimal=3.11.2-6+deb12u9 \
    libpython3.11-minimal=3.11.2-6+deb12u9 libpython3.11-stdlib=3.11.2-6+deb12u9
for package in *.deb; do dpkg -x "$package" .; done
export PATH="$folder/usr/bin:$folder/bin:$PATH" PYTHONHOME="$folder/usr" folder
libraries=$(echo "$folder"/usr/lib/*-linux-gnu)
mkdir -p image/bin
cp bin/busybox image/bin/sh
# podman starts the runtime without the environment that tells where libraries are.
printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/usr/bin/crun "$@"\n' "$libraries" "$folder" >runtime
chmod +x runtime
cat >containers.conf <<END
[containers]
cgroups = "disabled"
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
conmon_path = ["$folder/usr/bin/conmon"]
events_logger = "file"
no_pivot_root = true
runtime = "crun"
[engine.runtimes]
crun = ["$folder/runtime"]
END
export CONTAINERS_CONF="$folder/containers.conf" CONTAINERS_REGISTRIES_CONF=/dev/null libraries

cat >trial.sh <<'END'
set -euo pipefail
for place in /run /dev/shm /var/lib; do mount -t tmpfs tmpfs "$place"; done
# crun takes no machine that has control groups of both versions. This one needs none.
umount -l /sys/fs/cgroup/unified 2>/dev/null || true
pod() {
    LD_LIBRARY_PATH=$libraries podman --root "$folder/data" --runroot /run/pod --tmpdir /run/tmp \
        --storage-driver vfs "$@"
}
echo "kernel $(uname -r), $(pod --version)"
echo "guessed: with the filter die one event, with died none"
tar -C image -c . | pod import --quiet --signature-policy etc/containers/policy.json - findings:1 >image.id
pod system service --time 0 "unix://$folder/socket" 2>service.log &
for _ in $(seq 100); do [ ! -S socket ] || break; sleep 0.1; done
python3.11 -B trial.py &
while [ ! -e ready ]; do sleep 0.1; done
pod run --name probe findings:1 sh -c 'exit 3' || [ $? = 3 ]
wait %2
END
cat >trial.py <<'END'
import json, pathlib, re, socket, sys, time, urllib.parse

streams = {}
for word in None, "die", "died":
    query = "?filters=" + urllib.parse.quote(json.dumps({"event": [word]})) if word else ""
    streams[word] = socket.socket(socket.AF_UNIX)
    streams[word].connect("socket")
    streams[word].send(f"GET /v1.41/events{query} HTTP/1.1\r\nHost: podman\r\n\r\n".encode())
time.sleep(1)
pathlib.Path("ready").touch()
time.sleep(5)
seen = {}
for word, stream in streams.items():
    text = stream.recv(1 << 20).decode()
    seen[word] = re.findall(r'"Type":"container","Action":"(die\w*)"', text)
    print(f"seen: {'filter ' + word if word else 'no filter'}: {text.splitlines()[0]}, actions {seen[word]}")
sys.exit(0 if seen == {None: ["die"], "die": [], "died": ["die"]} else "this podman does something else")
END
unshare --net --mount --pid --fork --kill-child --mount-proc bash trial.sh

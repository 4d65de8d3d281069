#!/usr/bin/env bash
# Does `docker kill --signal` with a signal that ends nothing change what becomes of the container later?
#
# Guessed: no: SIGWINCH is ignored, the container runs on, and its restart policy holds as before.
# Seen, with Docker 20.10.24: it counts as a stop by hand. The container runs on, but when its program fails later, it
# isn't started again, and neither is it when the engine starts again; `docker inspect` shows `unless-stopped` all the
# same. Who sends SIGHUP or SIGUSR1 to have a configuration read again takes away the restart of what runs.
#
# Needs root, and Debian 12 on amd64 with its package lists. Everything happens in namespaces of its own.
set -euo pipefail
folder=$(mktemp -d)
group="findings-$$"
clean() {
    rm -rf "$folder"
    find /sys/fs/cgroup -depth -type d -path "*/$group*" -exec rmdir {} + 2>/dev/null || true
}
trap clean EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download docker.io=20.10.24+dfsg1-1+deb12u1+b6 \
    containerd=1.6.20~ds1-1+deb12u3 runc=1.1.5+ds1-1+deb12u1 libdevmapper1.02.1=2:1.02.185-2 \
    libseccomp2=2.5.4-1+deb12u1 busybox-static=1:1.35.0-4+deb12u1+b1
for package in *.deb; do dpkg -x "$package" . && rm "$package"; done
export PATH="$folder/usr/sbin:$folder/usr/bin:$folder/sbin:$folder/bin:$PATH" folder group
LD_LIBRARY_PATH=$(echo "$folder"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH DOCKER_HOST="unix://$folder/socket" DOCKER_CONFIG="$folder/client" DOCKER_RAMDISK=1
mkdir -p image/bin
cp bin/busybox image/bin/sh
ln -s sh image/bin/sleep

cat >trial.sh <<'END'
set -euo pipefail
mount -t tmpfs tmpfs /run
engine() {
    dockerd --host="$DOCKER_HOST" --data-root="$folder/data" --exec-root=/run/docker --pidfile="$folder/pid" \
        --cgroup-parent="/$group" --bridge=none --iptables=false --ip6tables=false --storage-driver=vfs 2>>log &
    for _ in $(seq 200); do
        if docker version >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    tail log
    exit 1
}
stop() { kill "$(cat pid)" && wait; }
state() {
    docker inspect --format \
        '{{.State.Status}}, restarted {{.RestartCount}} times, policy {{.HostConfig.RestartPolicy.Name}}' "$1"
}
row() {
    echo "seen: $1: $2: $(state "$2")"
    [[ $(state "$2") == "$3, policy unless-stopped" ]] || touch wrong
}

engine
echo "kernel $(uname -r), Docker $(docker version --format '{{.Server.Version}}')"
echo "guessed: the same in each pair of rows"
tar -C image -c . | docker import --change 'ENTRYPOINT ["/bin/sh", "-c"]' - findings:1 >image.id
for name in quiet signalled; do
    docker run --detach --name "$name" --network none --stop-timeout 1 --restart unless-stopped findings:1 \
        'sleep 900' >id
    # Fails once, and not a second time.
    docker run --detach --name "failing-$name" --network none --stop-timeout 1 --restart unless-stopped findings:1 \
        '[ -e /again ] && exec sleep 900; >/again; sleep 11; exit 3' >id
done
docker kill --signal WINCH signalled failing-signalled >id
row "after the signal" quiet "running, restarted 0 times"
row "after the signal" signalled "running, restarted 0 times"
sleep 14
row "the program failed" failing-quiet "running, restarted 1 times"
row "the program failed" failing-signalled "exited, restarted 0 times"
stop
engine
sleep 3
row "the engine started anew" quiet "running, restarted 0 times"
row "the engine started anew" signalled "exited, restarted 0 times"
stop
[ ! -e wrong ] || { echo "this Docker does something else" >&2; exit 1; }
END
unshare --net --mount --pid --fork --kill-child --mount-proc bash trial.sh

# What the scripts beside this file share. Sourced, never run.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# One configuration for the demo, the tests and the benchmarks, so that nothing is compiled twice. Traps stay on.
swift_flags=(-c release -Xswiftc -enable-testing)
python=$root/.build-venv/bin/python
binaries=$root/.build/release

# The package manager's caches and temporary files stay in the clone: what is done here leaves nothing elsewhere.
# It runs under the command `swift_prefix`, if there is one.
swift_in_clone() {
    local subcommand=$1
    shift
    # A folder of its own, since each run leaves some files behind. One that was killed could not remove its own: after a day.
    mkdir -p .build-tmp
    find .build-tmp -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {} +
    local temporary status=0
    temporary=$(mktemp -d "$root/.build-tmp/XXXXXX")
    TMPDIR=$temporary ${swift_prefix+"${swift_prefix[@]}"} swift "$subcommand" --disable-dependency-cache --manifest-cache local "$@" || status=$?
    rm -rf "$temporary"
    return "$status"
}

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$(basename "$0"): $*"
    exit 1
}

# Seconds since the machine started, with two decimals: a clock that nobody sets.
uptime_now() { cut -d' ' -f1 /proc/uptime; }

# took START: how long it has been since START, of uptime_now.
took() { awk -v from="$1" -v to="$(uptime_now)" 'BEGIN { printf "%.1f s", to - from }'; }

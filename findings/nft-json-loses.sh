#!/usr/bin/env bash
# Is a ruleset the same after `nft -j list ruleset` and `nft -j -f`, the JSON that nft prints and takes itself?
#
# Guessed: yes; and what JSON can't say would be an error, in listing or in loading.
# Seen, with nft 1.0.6: flags and comments of tables and comments of chains are left out of the listing without a word.
# So a table that was dormant, put aside by its owner, comes back awake and drops packets. And the device of a netdev
# chain is left out though loading asks for it: that listing can't be loaded. The plain listing keeps all of it.
#
# Needs root, and Debian 12 on amd64 with its package lists. Everything happens in a network namespace of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 \
    libnftnl11=1.2.4-2 libmnl0=1.0.4-3 libjansson4=2.14-2 libxtables12=1.8.9-2 libedit2=3.1-20221030-2 \
    libbsd0=0.11.7-2 busybox-static=1:1.35.0-4+deb12u1+b1
for package in *.deb; do dpkg -x "$package" .; done
export PATH="$folder/usr/sbin:$folder/bin:$PATH"
LD_LIBRARY_PATH=$(echo "$folder"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
cat >dormant.nft <<'END'
table ip shut {
	comment "put aside"
	flags dormant

	chain in {
		comment "nothing may come in"
		type filter hook input priority filter; policy drop;
	}
}
END
cat >device.nft <<'END'
table netdev door {
	chain in {
		type filter hook ingress device "lo" priority filter; policy accept;
	}
}
END

cat >trial.sh <<'END'
set -euo pipefail
busybox ifconfig lo up
echo "kernel $(uname -r), $(nft --version)"
echo "guessed: loaded and the same, four times"
ping() { busybox ping -c 1 -W 1 127.0.0.1 >/dev/null && echo "ping answered" || echo "ping not answered"; }
# Loads a file, lists, empties, loads the listing, and says how that went.
trip() {
    nft flush ruleset
    nft -f "$1"
    shift
    nft list ruleset >before
    echo "before: $(ping)"
    nft "$@" list ruleset >listing
    nft flush ruleset
    nft "$@" -f listing 2>error || { echo "not loaded: $(grep -o 'Error: .*' error)"; return; }
    nft list ruleset >after
    echo "after: $(ping)"
    diff before after | sed -n 's/^[<>]\s*\(\S.*\)/difference: \1/p' || true
}
row() {
    local name=$1 expected=$2 seen
    seen=$(trip "${@:3}" | paste -sd ';')
    echo "seen: $name: $seen"
    [[ $seen == "$expected" ]] || touch wrong
}
same="before: ping answered;after: ping answered"
row "plain, dormant table" "$same" dormant.nft
lost='difference: flags dormant;difference: comment "put aside";difference: comment "nothing may come in"'
row "JSON, dormant table" "before: ping answered;after: ping not answered;$lost" dormant.nft -j
row "plain, netdev chain" "$same" device.nft
error="Error: Missing \`device' in this chain definition"
row "JSON, netdev chain" "before: ping answered;not loaded: $error" device.nft -j
[ ! -e wrong ] || { echo "this nft does something else" >&2; exit 1; }
END
unshare --net bash trial.sh

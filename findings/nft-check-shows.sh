#!/usr/bin/env bash
# Can others see the tables of a ruleset that is only checked (`nft -c`)?
#
# Guessed: no, as the transaction is never committed.
# Seen, on Linux 6.18: the kernel undoes such a transaction step by step, last one first. Undoing a "delete table" makes
# the table that was added before it active again, and until its "add table" is undone as well, others can list it. So a
# ruleset that begins with add, delete and add, the usual way to a fresh table, appears for an instant with each
# check. Without the "delete" it never does.
#
# Needs root, and Debian 12 on amd64 with its package lists. Everything happens in a network namespace of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download libmnl0=1.0.4-3 nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 \
    libnftnl11=1.2.4-2 libjansson4=2.14-2 libxtables12=1.8.9-2 libedit2=3.1-20221030-2 libbsd0=0.11.7-2 \
    libgmp10=2:6.2.1+dfsg1-1.1
for package in *.deb; do dpkg -x "$package" .; done
export PATH="$folder/usr/sbin:$PATH"
LD_LIBRARY_PATH=$(echo "$folder"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
echo "kernel $(uname -r), $(nft --version)"
echo "guessed: the table is never listed"

ruleset() {
    echo "add table inet checked"
    if [[ $1 == with ]]; then printf '%s\n' "delete table inet checked" "add table inet checked"; fi
    echo "add chain inet checked input"
    for port in {1..64}; do echo "add rule inet checked input tcp dport $port accept"; done
}
ruleset with >with
ruleset without >without

cat >trial.sh <<'TRIAL'
while [[ ! -e stop ]]; do nft -c -f "$1"; done &
listed=0
for ((i = 0; i < 1500; i++)); do
    if [[ $(nft list tables) == *checked* ]]; then listed=$((listed + 1)); fi
done
touch stop
wait
rm stop
[[ -z $(nft list tables) ]] || exit 1
echo "$listed"
TRIAL
with=$(unshare --net bash trial.sh with)
without=$(unshare --net bash trial.sh without)
echo "listed in $with of 1500 looks beside checks that delete the table first, in $without beside checks that don't"
((with > 0 && without == 0))

# kl: kl-sidecar in front of the port, kl-workspace dials it over UDP alone. Noise IKpsk2, ChaCha20-Poly1305, own BBR-like model.
# KL_BIN names the folder of the programs; by default it is this package's release build.
up() {
  local bin=${KL_BIN:-$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)/.build/release}
  umask 077
  "$bin/kl" genkey >"$DIR/sidecar.key" && "$bin/kl" genkey >"$DIR/workspace.key" || return
  start a "$bin/kl-sidecar" run --private-key-file "$DIR/sidecar.key" \
    --peer "$("$bin/kl" pubkey <"$DIR/workspace.key")" --listen-tcp "$LINK_A:7001" --listen-udp "$LINK_A:7001" \
    --service-port 7000:127.0.0.1:1 --divert listen=127.0.0.1:7000
  wait_listen a 7001 || return
  start b "$bin/kl-workspace" run --private-key-file "$DIR/workspace.key" \
    --sidecar "$("$bin/kl" pubkey <"$DIR/sidecar.key")@udp:$LINK_A:7001" --map "7000:127.0.0.1:$1"
  wait_listen a 7000 && wait_for grep -q intercepting "$DIR/b.log" && echo "127.0.0.1 7000"
}

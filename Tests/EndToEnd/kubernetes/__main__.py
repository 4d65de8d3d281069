"""python -m kubernetes [--replicas N] [--service NAME]...: a small cluster by hand, until Ctrl-C. Needs root."""

import argparse
import pathlib
import signal
import sys
import tempfile

from .small import SmallCluster
from .team import RULES

ROOT = pathlib.Path(__file__).resolve().parents[3]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--service", action="append")
    parser.add_argument("--binaries", type=pathlib.Path, default=ROOT / ".build/release")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kl-cluster-") as folder:
        cluster = SmallCluster(folder, options.binaries)
        try:
            for name in options.service or ["api-server"]:
                cluster.create(name, options.replicas)
                print(f"{name}: {', '.join(f'http://{host}:{port}' for host, port in cluster.endpoints(name))}")
            for rule in RULES:
                print(f"dev may {', '.join(rule['verbs'])} {', '.join(rule['resources'])}")
            print(f"dev's is KUBECONFIG={cluster.user('dev', RULES)}")
            print(f"export KUBECONFIG={cluster.kubeconfig}", flush=True)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
        except Exception:
            print(cluster.logs(), file=sys.stderr)
            raise
        finally:
            cluster.close()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    sys.exit(main())

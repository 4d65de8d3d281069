"""The shows of agent/demo, which builds the programs first and says where they are."""

import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "Tests/EndToEnd"))

from harness.waiting import NotSeen  # noqa: E402
from shows import agents, through_kl  # noqa: E402

SHOW_DEADLINE = 300


def end(number, _):
    raise KeyboardInterrupt if number != signal.SIGALRM else NotSeen(f"the demo was not done in {SHOW_DEADLINE} s")


def main():
    binaries = pathlib.Path(sys.argv[1]).resolve()
    kind = agents if "--agents" in sys.argv[2:] else through_kl
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, end)
    signal.alarm(SHOW_DEADLINE)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kl-demo-"))
    show = kind.Show(binaries, folder)
    try:
        show.run()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (NotSeen, OSError, subprocess.SubprocessError) as error:
        print(f"\n   ✗ {error}\n\n{show.logs()}", file=sys.stderr)
        return 1
    finally:
        signal.alarm(0)
        # A second Ctrl-C must not keep the first from cleaning up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        show.end()
        shutil.rmtree(folder, ignore_errors=True)
    print("Everything was seen as it should be. Nothing is left running.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

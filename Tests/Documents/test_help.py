"""What the programs say with --help, command by command, beside the committed texts in help/.

After a change that is meant: KL_STORE_GOLDEN=1 pytest Tests/Documents/test_help.py, and read the difference.
"""

import os
import pathlib
import subprocess

import pytest
from programs import BINARIES, program

HELP = pathlib.Path(__file__).with_name("help")
# Users don't type these, so no command lists them.
HIDDEN = {"kl": ["kl daemon", "kl supervise"]}


def said(*words):
    """Without a terminal, and as wide everywhere."""
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=30, env=environment).stdout


@pytest.mark.parametrize("name", ("kl", "kl-sidecar", "kl-workspace"))
def test_help_is_as_it_was(name):
    commands = [command.name for command in program(name).all()] + HIDDEN.get(name, [])
    text = ""
    for command in commands:
        first, *words = command.split()
        text += f"=== {command} --help\n{said(BINARIES / first, *words, '--help')}\n"
    golden = HELP / f"{name}.txt"
    if os.environ.get("KL_STORE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()

"""Every flag that a program has is in the documents, and every flag that the documents give it exists."""

import os
import pathlib
import re
import subprocess

import pytest
from documents import ROOT, commands, documents

BINARIES = pathlib.Path(os.environ.get("KL_BIN", ROOT / ".build/release"))
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# Programs with a command that takes flags; the document that lists them all.
AGENTS = {"kl-sidecar": "run", "kl-workspace": "run"}
OPERATIONS = ROOT / "docs/OPERATIONS.md"


def flags_of(program, command):
    text = subprocess.run(
        [BINARIES / program, command, "--help"], check=True, capture_output=True, text=True, timeout=30
    ).stdout
    return set(FLAG.findall(text)) - {"--help", "--version"}


@pytest.mark.parametrize("program", AGENTS)
def test_every_flag_is_documented(program):
    lacking = flags_of(program, AGENTS[program]) - set(FLAG.findall(OPERATIONS.read_text()))
    assert not lacking, f"{program} has flags that {OPERATIONS.relative_to(ROOT)} doesn't name: {sorted(lacking)}"


def test_every_flag_in_the_list_exists():
    """The first cell of a table's row, where it begins with a flag, names flags of one of the agents."""
    named = set()
    for row in re.findall(r"^\|([^|]*)\|", OPERATIONS.read_text(), re.MULTILINE):
        if row.strip().startswith("`--"):
            named |= set(FLAG.findall(row))
    existing = set().union(*(flags_of(program, command) for program, command in AGENTS.items()))
    assert named, "the list of flags was not found"
    assert named <= existing | {"--help", "--version"}, sorted(named - existing)


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_use_flags_that_exist(document):
    wrong = []
    for line in commands(document.read_text()):
        for program, command in AGENTS.items():
            # Up to what ends a command in a shell.
            for call in re.findall(rf"{program} {command}\b([^|;&>]*)", line):
                wrong += [f"{program}: {flag}" for flag in set(FLAG.findall(call)) - flags_of(program, command)]
    assert not wrong, wrong

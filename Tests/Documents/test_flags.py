"""Every flag that a program has is in the documents, and every flag that the documents give it exists."""

import re

import pytest
from documents import ROOT, commands, documents, spans
from programs import GENERAL, program

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
SHORT_OR_LONG = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-[a-z])(?![\w-])")
PROGRAMS = ("kl", "kl-sidecar", "kl-workspace")
AGENTS = ("kl-sidecar", "kl-workspace")
OPERATIONS = ROOT / "docs/OPERATIONS.md"


def flags_of(name):
    return set().union(*(command.flags for command in program(name).all())) - GENERAL


@pytest.mark.parametrize("agent", AGENTS)
def test_every_flag_of_an_agent_is_documented(agent):
    lacking = flags_of(agent) - set(FLAG.findall(OPERATIONS.read_text()))
    assert not lacking, f"{agent} has flags that {OPERATIONS.relative_to(ROOT)} doesn't name: {sorted(lacking)}"


def test_every_flag_in_the_agents_list_exists():
    """The first cell of a table's row, where it begins with a flag, names flags of one of the agents."""
    named = set()
    for row in re.findall(r"^\|([^|]*)\|", OPERATIONS.read_text(), re.MULTILINE):
        if row.strip().startswith("`--"):
            named |= set(FLAG.findall(row))
    existing = set().union(*(flags_of(agent) for agent in AGENTS))
    assert named, "the list of flags was not found"
    assert named <= existing | GENERAL, sorted(named - existing)


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_exist_with_their_flags(document):
    text = document.read_text()
    wrong = []
    for line in commands(text) + spans(text):
        # A command begins a line, or follows what ends another or a colon; it lasts to what ends it.
        for call in re.findall(r"(?:^|[$|;&(:>] ?|\bor )((?:kl|kl-sidecar|kl-workspace) [^|;&>…]*)", line):
            wrong += faults(call)
    assert not wrong, wrong


def faults(call):
    name, *words = [word.rstrip(")") for word in call.split()]
    command = program(name)
    while words and command.subcommands:
        word = words.pop(0)
        if word in {"help", *GENERAL} or not re.fullmatch(r"[a-z]+", word):
            return []
        if (found := command.named(word)) is None:
            return [f"{command.name} has no command '{word}'"]
        command = found
    given = set(SHORT_OR_LONG.findall(" ".join(words)))
    return [f"{command.name} has no flag {flag}" for flag in given - command.flags - GENERAL]

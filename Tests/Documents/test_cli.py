"""docs/CLI.md has every command of `kl` with its aliases and flags, and nothing that isn't there."""

import json
import re

import pytest
from documents import ROOT
from programs import GENERAL, program

CLI = ROOT / "docs/CLI.md"
# Of every command that prints data; they have a table of their own.
SHARED = {"-o", "--output", "-q", "--quiet", "-v", "--verbose"}
FLAG = re.compile(r"`(--?[a-z][a-z-]*)`")


def sections():
    """The text under each heading."""
    parts = re.split(r"^#+ (.*)$", CLI.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def flags_in(text):
    """Flags in the first cells of tables."""
    found = set()
    for row in re.findall(r"^\|([^|]*)\|", text, re.MULTILINE):
        if row.strip().startswith("`-"):
            found |= set(FLAG.findall(row))
    return found


def groups():
    return [program("kl").subcommands[name] for name in ("env", "intercept")]


COMMANDS = [("env", name) for name in ("list", "connect", "status", "up", "down", "disconnect")]
COMMANDS += [("intercept", name) for name in ("start", "list", "status", "stop")]


def test_the_commands_are_these():
    found = [(group.name.split()[-1], name) for group in groups() for name in group.subcommands]
    assert sorted(found) == sorted(COMMANDS)


@pytest.mark.parametrize("group, name", COMMANDS)
def test_flags_of_a_command(group, name):
    command = program("kl").subcommands[group].subcommands[name]
    documented = flags_in(sections()[command.name])
    existing = command.flags - GENERAL - SHARED
    assert documented == existing, f"documented, or in the program, alone: {sorted(documented ^ existing)}"
    assert SHARED <= command.flags


def test_flags_of_all_commands():
    assert flags_in(sections()["Flags of all commands"]) == SHARED


@pytest.mark.parametrize("group, name", COMMANDS)
def test_aliases_of_a_command(group, name):
    command = program("kl").subcommands[group].subcommands[name]
    row = re.search(rf"^\| \[`{command.name}`\][^|]*\|([^|]*)\|", CLI.read_text(), re.MULTILINE)
    assert row, f"{command.name} isn't in the table of its group"
    assert set(re.findall(r"`(\w+)`", row.group(1))) == command.aliases


def test_aliases_of_groups():
    text = CLI.read_text()
    for group in groups():
        sentence = re.search(rf"^(.*) are `{group.name}`", text, re.MULTILINE)
        assert sentence, f"the aliases of {group.name} aren't named"
        assert set(re.findall(r"`kl (\w+)`", sentence.group(1))) == group.aliases


def test_other_commands():
    """Each is in a table by its name."""
    text = CLI.read_text()
    for name in set(program("kl").subcommands) - {"env", "intercept"}:
        assert re.search(rf"^\| `kl {name}\b", text, re.MULTILINE), f"kl {name} isn't documented"


def test_exit_codes_and_schema():
    """The codes in the table are those of the schema's errors, and each object of the schema is named."""
    schema = json.loads((ROOT / "docs/cli-schema.json").read_text())["$defs"]
    text = CLI.read_text()
    table = sections()["Exit codes"]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"\|([^|]*)\|$", table, re.MULTILINE)[1:]))) == set(
        schema["error"]["properties"]["error"]["properties"]["code"]["enum"]
    )
    for phase in schema["phase"]["enum"]:
        assert re.search(rf"^\| `{phase}` \|", text, re.MULTILINE), phase
    for name, body in schema.items():
        for key in body.get("properties", {}):
            assert f"`{key}`" in text, f"{name}.{key} isn't documented"

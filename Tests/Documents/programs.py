"""What the programs say of themselves: their commands, aliases and flags."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess

from documents import ROOT

BINARIES = pathlib.Path(os.environ.get("KL_BIN", ROOT / ".build/release"))
# Every command has these; they are documented once.
GENERAL = {"-h", "--help", "--version"}


@dataclasses.dataclass
class Command:
    """A command, by its whole name: `kl intercept start`."""

    name: str
    aliases: set[str]
    flags: set[str]
    subcommands: dict[str, "Command"]

    def named(self, word):
        """The subcommand of this name or alias."""
        return next((c for name, c in self.subcommands.items() if word == name or word in c.aliases), None)

    def all(self):
        yield self
        for command in self.subcommands.values():
            yield from command.all()


@functools.cache
def program(name):
    """A program's commands, as its own help has them; hidden ones are left out."""
    said = subprocess.run(
        [BINARIES / name, "--experimental-dump-help"], check=True, capture_output=True, text=True, timeout=30
    ).stdout
    return read(json.loads(said)["command"], "")


def read(help, above):
    name = f"{above} {help['commandName']}".strip()
    flags = set()
    for argument in help.get("arguments", []):
        if argument["shouldDisplay"]:
            for flag in argument.get("names", []):
                flags.add(("--" if flag["kind"] == "long" else "-") + flag["name"])
    commands = [read(c, name) for c in help.get("subcommands", []) if c["shouldDisplay"] and c["commandName"] != "help"]
    return Command(name, set(help.get("aliases") or []), flags, {c.name.split()[-1]: c for c in commands})

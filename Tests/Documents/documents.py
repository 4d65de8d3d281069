"""The project's Markdown files, and what stands in them."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def documents():
    """Every Markdown file that is part of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    assert found, "no Markdown file was found"
    return found


def without_code(text):
    """The text with fenced blocks and code spans blanked, since what looks like a link there is none."""
    text = re.sub(r"^(```+|~~~+).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def commands(text):
    """The command lines in fenced blocks of a shell, with continued lines joined."""
    lines = []
    for language, block in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if language in ("", "sh", "bash", "shell", "console"):
            lines += re.sub(r"\\\n\s*", " ", block).splitlines()
    return lines


def spans(text):
    """What stands in `code spans`, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^(```+|~~~+).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL))

"""What docs/INTERNALS.md names is in the code: files, types, and members of types."""

import functools
import re
import subprocess

from documents import ROOT, spans
from modules import SOURCES, code

TEXT = (ROOT / "docs/INTERNALS.md").read_text()
FILE = re.compile(r"[\w+./-]+\.(?:swift|py|md|json)")
FOLDER = re.compile(r"[A-Za-z-]+(?:/[A-Za-z-]+)+")
MEMBER = re.compile(r"((?:[A-Z]\w*\.)*[A-Z]\w*)\.([a-z]\w*)(\(.*\))?")


@functools.cache
def swift():
    return {path: code(path.read_text()) for path in SOURCES.rglob("*.swift")}


@functools.cache
def words():
    """All that the project's files consist of, its documents left out."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = set()
    for name in listed.splitlines():
        if not name.endswith((".md", ".json")) and (ROOT / name).exists():
            found |= set(re.findall(r"\w+", name + " " + (ROOT / name).read_text(errors="replace")))
    return found


def test_files_and_folders_exist():
    lacking = []
    for span in spans(TEXT):
        # X+Topic.swift stands for any.
        if FILE.fullmatch(span) and not span.startswith("X+"):
            places = [ROOT / span, SOURCES / span, *SOURCES.rglob(span.rsplit("/", 1)[-1])]
            # Written by the programs, and described where it is.
            ours = span not in ("record.json", "intercepts.json")
            if ours and not (any(place.exists() for place in places[:2]) or ("/" not in span and places[2:])):
                lacking.append(span)
        elif FOLDER.fullmatch(span) and not any((place / span).exists() for place in (ROOT, SOURCES)):
            # A file's name without its end.
            if not (SOURCES / f"{span}.swift").exists():
                lacking.append(span)
    assert not lacking, f"no such file or folder: {lacking}"


def test_names_are_in_the_code():
    lacking = {
        f"{word} in `{span}`"
        for span in spans(TEXT)
        if not FILE.fullmatch(span)
        for word in re.findall(r"[A-Za-z]\w+", span)
        if word not in words()
    }
    # NAME stands for any.
    assert not {one for one in lacking if not one.startswith("NAME ")}, sorted(lacking)


def declared(type, member, labels):
    """Whether a file that declares or extends the type has such a member, of these labels."""
    pattern = rf"\b(?:struct|class|enum|protocol|actor|extension) (?:\w+\.)*{type}\b"
    if labels:
        names = [rf"\s*{label}\b[^:{{}}]*:[^{{}}]*?" for label in labels[1:-1].split(":") if label]
        kind = rf"\b(?:func|case|init) {member}\b(?:<[^(]*>)?\(" + "".join(names)
        if not names:
            kind += r"\s*\)"
    else:
        kind = rf"\b(?:func|var|let|case|lazy var|typealias) (?:\w+, )*{member}\b|, {member}\b"
    return any(re.search(pattern, text) and re.search(kind, text, re.DOTALL) for text in swift().values())


def test_members_are_of_their_types():
    lacking = []
    for span in spans(TEXT):
        match = MEMBER.fullmatch(span)
        if match is None or FILE.fullmatch(span) or match.group(1) == "Task":
            continue
        if not declared(match.group(1).split(".")[-1], match.group(2), match.group(3)):
            lacking.append(span)
    assert not lacking, f"no such member: {lacking}"


def test_nested_types_are_in_their_types():
    """Such as `Initiator.Carrier`: a file that declares or extends the first also declares the second."""
    lacking = []
    for span in spans(TEXT):
        if not re.fullmatch(r"[A-Z]\w*\.[A-Z]\w*", span):
            continue
        outer, inner = span.split(".")
        holds = rf"\b(?:struct|class|enum|protocol|actor|extension) (?:\w+\.)*{outer}\b"
        nested = rf"\b(?:struct|class|enum|protocol|actor|typealias) {inner}\b"
        if not any(re.search(holds, text) and re.search(nested, text) for text in swift().values()):
            lacking.append(span)
    assert not lacking, f"no such type: {lacking}"

"""The targets of Package.swift, what each declares that it depends on, and what its sources import."""

import functools
import re

from documents import ROOT

SOURCES = ROOT / "Sources"
# They come with the toolchain or the system, and are declared nowhere.
UNDECLARED = {"Darwin", "Foundation", "FoundationEssentials", "Glibc", "Musl", "Synchronization", "Testing"}

IMPORT = re.compile(
    r"^[ \t]*(?:@\w+[ \t]+)*(?:(?:public|package|internal|fileprivate|private)[ \t]+)?"
    r"import[ \t]+(?:(?:typealias|struct|class|enum|protocol|let|var|func)[ \t]+)?(\w+)",
    re.MULTILINE,
)
# The longer ones first, so that three quotes aren't taken for an empty text and another one's beginning.
NOT_CODE = re.compile(
    r'(#+)".*?"\1' r'|""".*?"""' r'|"(?:\\.|[^"\\\n])*"' r"|//[^\n]*" r"|/\*.*?\*/",
    re.DOTALL,
)


def code(text):
    """Swift without its comments and texts."""
    return NOT_CODE.sub(" ", text)


class Target:
    def __init__(self, kind, name, dependencies, path):
        self.kind = kind
        self.name = name
        # A program's name may have a dash; its module's hasn't.
        self.module = name.replace("-", "_")
        self.dependencies = dependencies
        self.folder = ROOT / (path or f"{'Tests' if kind == 'testTarget' else 'Sources'}/{name}")

    @functools.cached_property
    def files(self):
        """The code of each of its Swift files."""
        return {path: code(path.read_text()) for path in sorted(self.folder.rglob("*.swift"))}

    @functools.cached_property
    def imports(self):
        return {module: path for path, text in self.files.items() for module in IMPORT.findall(text)}

    def __repr__(self):
        return self.name


@functools.cache
def targets():
    """By their names. The manifest is read as text: to run it takes the toolchain, and is slower."""
    manifest = (ROOT / "Package.swift").read_text()
    manifest = re.sub(r"^\s*//.*$", "", manifest, flags=re.MULTILINE)
    products = dict(re.findall(r'^let (\w+) = Target\.Dependency\.product\(name: "(\w+)"', manifest, re.MULTILINE))
    found = {}
    listed = manifest[manifest.index("    targets: [\n") :]
    for call in re.finditer(r"\.(systemLibrary|target|executableTarget|testTarget)\(", listed):
        body = arguments(listed, call.end())
        name = re.search(r'\bname: "([^"]+)"', body).group(1)
        path = re.search(r'\bpath: "([^"]+)"', body)
        declared = re.search(r"\bdependencies: \[(.*?)\]", body, re.DOTALL)
        dependencies = set()
        for word in re.findall(r'\.product\([^)]*\)|"[^"]+"|[^\s,]+', declared.group(1) if declared else ""):
            if word.startswith('"'):
                dependencies.add(word.strip('"'))
            elif word.startswith(".product"):
                dependencies.add(re.search(r'name: "(\w+)"', word).group(1))
            else:
                dependencies.add(products[word])
        found[name] = Target(call.group(1), name, dependencies, path and path.group(1))
    assert found, "no target was found in Package.swift"
    return found


def arguments(text, start):
    """What stands in a call's parentheses."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    raise ValueError("a target of Package.swift has no end")


def in_sources():
    """The targets in Sources, by their names."""
    return {name: target for name, target in targets().items() if target.folder.is_relative_to(SOURCES)}


def reachable(graph, name):
    """All that is below a module."""
    found = set()
    waiting = [name]
    while waiting:
        for below in graph[waiting.pop()] - found:
            found.add(below)
            waiting.append(below)
    return found

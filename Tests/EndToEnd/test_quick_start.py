"""What the documents tell a newcomer to type: every command is run, and prints what the document says."""

import re

import pytest
from harness.documents import Reader, blocks, pattern
from harness.ports import free_port

# Document and heading; the ports that it speaks of.
SECTIONS = [
    ("README.md", "## Quick start", (8080, 21090, 3000)),
    ("docs/OPERATIONS.md", "## By hand", (8080, 21090, 3000, 51820)),
]
# Done before the tests, for all of them.
BUILD = re.compile(r"^agent/(install|build)\b", re.MULTILINE)


@pytest.fixture
def reader(binaries, folder):
    made = []

    def make(ports):
        made.append(Reader(binaries, folder, {port: free_port() for port in ports}))
        return made[-1]

    yield make
    for reader in made:
        reader.end()


@pytest.mark.parametrize("document, heading, ports", SECTIONS, ids=lambda value: str(value))
def test_commands_do_what_the_document_says(reader, document, heading, ports):
    newcomer = reader(ports)
    wanted = [block for block in blocks(document, heading) if not BUILD.search(block.commands)]
    said = newcomer.run(wanted)
    for block, printed in zip(wanted, said, strict=True):
        if block.expected is not None:
            expected = newcomer.with_ports(block.expected)
            assert pattern(expected).fullmatch(printed), f"{block.commands}\nprinted:\n{printed}\nnot:\n{expected}"
    assert not newcomer.left(), "these still run after the last block"

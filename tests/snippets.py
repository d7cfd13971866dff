"""The code blocks of the README, and what each of them says it is."""

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"

_BLOCK = re.compile(
    r"^```(?P<language>\w*)(?: (?P<kind>\w+)(?:=(?P<path>\S+))?)?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

KINDS = {
    "file": "a copy of the file that it names",
    "run": "is executed against a running mesh",
    "output": "what the block before it prints",
    "project": "a file of, or a command in, a project made in an empty folder",
    "manual": "what a test cannot do",
}


@dataclass(frozen=True)
class Snippet:
    """One fenced block. `kind` is one of KINDS, `path` stands for files, `output` is what it is to print."""

    line: int
    language: str
    kind: str
    path: str | None
    text: str
    output: str | None = None

    def __str__(self) -> str:
        return f"README.md:{self.line}"


def snippets(kind: str | None = None) -> list[Snippet]:
    """All code blocks of the README in order, or those of one kind. An `output` block belongs to the one before it."""
    markdown = README.read_text()
    found: list[Snippet] = []
    for match in _BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, match.start()) + 1
        if match["kind"] == "output":
            before = found.pop()
            found.append(Snippet(before.line, before.language, before.kind, before.path, before.text, match["text"]))
        else:
            found.append(Snippet(line, match["language"], match["kind"] or "", match["path"], match["text"]))
    return [snippet for snippet in found if kind in (None, snippet.kind)]

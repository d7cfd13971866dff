"""The code blocks of the README and of other pages, and what each of them says it is."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"

_BLOCK = re.compile(
    r"^```(?P<language>\w*)(?: (?P<kind>\w+)(?:=(?P<path>\S+))?)?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

KINDS = {
    "file": "a copy of the file that it names",
    "part": "lines of the file that it names",
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
    page: str = README.name

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(kind: str | None = None, page: Path = README) -> list[Snippet]:
    """All code blocks of a page in order, or those of one kind. An `output` block belongs to the one before it."""
    markdown = page.read_text()
    found: list[Snippet] = []
    for match in _BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, match.start()) + 1
        if match["kind"] == "output":
            before = found.pop()
            found.append(replace(before, output=match["text"]))
        else:
            kind_of_it = match["kind"] or ""
            found.append(Snippet(line, match["language"], kind_of_it, match["path"], match["text"], page=page.name))
    return [snippet for snippet in found if kind in (None, snippet.kind)]

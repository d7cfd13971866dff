"""Path templates of ``google.api.http`` as paths of OpenAPI, whose variables take one segment each.

``/v1/{name=shelves/*/books/*}`` becomes ``/v1/shelves/{shelvesId}/books/{booksId}``, named as Google's discovery
documents name them (``flatPath``). A variable that takes any number of segments stays one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.path_template import ONE, REST, PathTemplate, Variable

_WORD = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class PathParameter:
    """One variable of an OpenAPI path."""

    name: str
    variable: Variable | None
    """The template's variable that it is a part of, or the whole; None for a wildcard without a name."""

    whole: bool
    """Whether it is all of the variable's value."""

    many: bool
    """Whether it may hold several segments, with the slashes between them as they are."""


@dataclass(frozen=True, slots=True)
class Path:
    """A path with its variables, in order."""

    text: str
    shape: str
    """The path without the names of its variables: OpenAPI takes paths for the same that differ in names only."""

    parameters: tuple[PathParameter, ...]

    def named_as(self, other: Path) -> Path:
        """Return this path with the parameters' names of another one of the same shape."""
        renamed = tuple(
            PathParameter(theirs.name, ours.variable, ours.whole, ours.many)
            for ours, theirs in zip(self.parameters, other.parameters, strict=True)
        )
        return Path(other.text, self.shape, renamed)


def openapi_path(template: PathTemplate) -> Path:
    """Return a template as OpenAPI writes it."""
    text: list[str] = []
    shape: list[str] = []
    parameters: list[PathParameter] = []
    names: set[str] = set()
    before = ""
    for index, segment in enumerate(template.segments):
        if segment not in {ONE, REST}:
            text.append(segment)
            shape.append(segment)
            before = segment
            continue
        variable = next((each for each in template.variables if _covers(each, index)), None)
        whole = variable is not None and _length(variable, template) == 1
        wanted = variable.name if variable is not None and whole else _invented(before, len(parameters) + 1)
        name = wanted
        while name in names:
            name = f"{wanted}{len(names) + 1}"
        names.add(name)
        parameters.append(PathParameter(name, variable, whole, segment == REST))
        text.append(f"{{{name}}}")
        shape.append("{}")
        before = ""
    verb = f":{template.verb}" if template.verb else ""
    return Path(f"/{'/'.join(text)}{verb}", f"/{'/'.join(shape)}{verb}", tuple(parameters))


def _covers(variable: Variable, index: int) -> bool:
    return variable.start <= index and (variable.end is None or index < variable.end)


def _length(variable: Variable, template: PathTemplate) -> int:
    return (len(template.segments) if variable.end is None else variable.end) - variable.start


def _invented(before: str, number: int) -> str:
    """Return the name of a wildcard after a literal: ``shelvesId``."""
    words: list[str] = _WORD.findall(before)
    if not words:
        return f"segment{number}"
    head, *others = words
    return head + "".join(word.capitalize() for word in others) + "Id"

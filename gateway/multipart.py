"""``multipart/form-data`` taken apart: what HTML forms and ``curl -F`` send. Source: RFC 7578."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.errors import BadRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MULTIPART: Final = "multipart/form-data"

MAX_PARTS: Final = 1000
MAX_HEADERS: Final = 16
"""Headers of one part."""

MAX_HEADER_BYTES: Final = 4096
"""One line of them."""

MAX_TEXT_BYTES: Final = 1024 * 1024
"""A part that is no file. (Files may have what the whole body may have.)"""

# It warns of what is wrong with a body: that is the client's business, who hears of it.
logging.getLogger("python_multipart.multipart").setLevel(logging.CRITICAL)


class Part:
    """One part, as it came."""

    __slots__ = ("content_type", "data", "is_file", "name")

    def __init__(self, name: str, content_type: str, data: bytes, *, is_file: bool) -> None:
        self.name = name
        self.content_type = content_type
        self.data = data
        self.is_file = is_file


def is_form(content_type: str) -> bool:
    """Tell whether a body says that it is a form."""
    return content_type[: len(MULTIPART)].lower() == MULTIPART


def parse_form(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a form. Raises ``BadRequest``."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise BadRequest(f"content-type {MULTIPART}: the boundary is missing")
    gatherer = _Gatherer()
    try:
        parser = MultipartParser(
            boundary, gatherer.callbacks, max_header_count=MAX_HEADERS, max_header_size=MAX_HEADER_BYTES
        )
        parser.write(body)
    except FormParserError as error:
        raise BadRequest(f"the form is malformed{gatherer.where}: {str(error)[:200]}") from error
    if not gatherer.complete:
        raise BadRequest(f"the form is cut off{gatherer.where}: its last boundary is missing")
    return gatherer.parts


class _Gatherer:
    """Puts parts together from what the parser finds."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.complete = False
        self._count = 0
        self._header_name = self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._data: list[bytes] = []
        self._name: str | None = None
        self._is_file = self._is_unnamed = False

    @property
    def callbacks(self) -> MultipartCallbacks:
        """What the parser is to call."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_to_name,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    @property
    def where(self) -> str:
        """Where the parser is, for whoever reads an error."""
        if self._name is not None:
            return f" in part {self._name[:100]!r}"
        return f" after part {self.parts[-1].name[:100]!r}" if self.parts else ""

    def _begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise BadRequest(f"the form has more than {MAX_PARTS} parts")
        self._headers = {}
        self._data = []

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        number = self._count
        if disposition != b"form-data" or b"name" not in options:
            raise BadRequest(f"part {number} of the form has no content-disposition: form-data with a name")
        try:
            self._name = options[b"name"].decode()
        except UnicodeDecodeError:
            raise BadRequest(f"part {number} of the form: its name is not UTF-8") from None
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):  # RFC 7578, 4.7: deprecated
            raise bad_part(self._name, "a content-transfer-encoding is not supported: send the bytes as they are")
        self._is_file = b"filename" in options
        self._is_unnamed = self._is_file and not options[b"filename"]

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        assert self._name is not None  # noqa: S101 - a part has headers before it ends
        data = b"".join(self._data)
        if not self._is_file and len(data) > MAX_TEXT_BYTES:
            raise bad_part(self._name, f"a text may have {MAX_TEXT_BYTES} bytes: send it as a file")
        if data or not self._is_unnamed:  # That is how browsers send an input without a file chosen.
            content_type = self._headers.get(b"content-type", b"").decode("latin-1")
            self.parts.append(Part(self._name, content_type, data, is_file=self._is_file))
        self._name = None

    def _complete(self) -> None:
        self.complete = True


def bad_part(name: str, reason: str) -> BadRequest:
    """Return the error that names a part."""
    return BadRequest(f"part {name[:100]!r}: {reason}", field=name[:100])

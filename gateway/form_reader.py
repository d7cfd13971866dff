"""Forms as messages: parts are named like query parameters, and set the fields of those names.

A file is the value of a ``bytes`` or ``google.api.HttpBody`` field; text becomes what it would become in a query
string. A message can be given as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from protobuf import (
    DescField,
    DescFieldValueList,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescMessage,
    Message,
    Registry,
    ScalarType,
)

from gateway.errors import BadRequest
from gateway.fields import HTTP_BODY, FieldPathError, resolve, submessage, text_field
from gateway.json_codec import Decoder, json_decoder
from gateway.multipart import Part, bad_part, parse_form
from gateway.scalars import parse_base64

_MAX_CACHED: Final = 512

Maker = Callable[[Part], Any]
"""Makes a value of a part. Raises ``ValueError`` with a reason."""

Setter = Callable[[Message, Part], None]
"""Sets the field that a part is named after. Raises ``ValueError`` with a reason."""


class _Target:
    """A field that parts can set."""

    __slots__ = ("path", "repeated", "set")

    def __init__(self, path: tuple[str, ...], setter: Setter, *, repeated: bool) -> None:
        self.path = path
        self.set = setter
        self.repeated = repeated


class FormReader:
    """Makes messages of one type of forms. ``bound`` are the field paths that the URL's path covers."""

    def __init__(
        self,
        message_type: type[Message],
        registry: Registry,
        bound: tuple[tuple[str, ...], ...],
        *,
        ignore_unknown: bool,
    ) -> None:
        self._type = message_type
        self._registry = registry
        self._bound = bound
        self._ignore_unknown = ignore_unknown
        # Only names that exist are kept, and not without bound: recursive messages have endlessly many.
        self._targets: dict[str, _Target] = {}

    def __call__(self, body: bytes, content_type: str) -> Message:
        """Return the message that a whole body makes. Raises ``BadRequest`` that names the part."""
        message = self._type()
        seen: set[tuple[str, ...]] = set()
        for part in parse_form(body, content_type):
            target = self._targets.get(part.name) or self._find(part.name)
            if target is None:
                continue
            if not target.repeated:
                if target.path in seen:
                    raise bad_part(part.name, "stands twice, but the field is not repeated")
                seen.add(target.path)
            try:
                target.set(message, part)
            except ValueError as error:
                raise bad_part(part.name, str(error)) from error
            except BadRequest as error:
                raise bad_part(part.name, error.message) from error
        return message

    def _find(self, name: str) -> _Target | None:
        try:
            target = self._target(tuple(name.split(".")))
        except FieldPathError as error:
            if self._ignore_unknown:
                return None
            raise bad_part(name, str(error)) from error
        for path in self._bound:
            if target.path[: len(path)] == path or path[: len(target.path)] == target.path:
                raise bad_part(name, f"{'.'.join(path)!r} is taken from the path")
        if len(self._targets) < _MAX_CACHED:
            self._targets[name] = target
        return target

    def _target(self, names: tuple[str, ...]) -> _Target:
        descriptor = self._type.desc()
        fields = resolve(descriptor, names)
        last = fields[-1]
        make = self._maker(last)
        setter = _text_setter(text_field(descriptor, names).set) if make is None else _value_setter(fields, make)
        return _Target(
            tuple(field.name for field in fields), setter, repeated=isinstance(last.value, DescFieldValueList)
        )

    def _maker(self, field: DescField) -> Maker | None:
        """Return what makes the value of a field that takes more than text, else None."""
        match field.value:
            case DescFieldValueScalar(scalar=ScalarType.BYTES) | DescFieldValueList(element=ScalarType.BYTES):
                return _bytes
            case (
                DescFieldValueMessage(message=DescMessage() as message)
                | DescFieldValueList(element=DescMessage() as message)
            ):
                if message.type_name == HTTP_BODY:
                    return _http_body(message)
                if not message.type_name.startswith("google.protobuf."):
                    return _json(json_decoder(message.type, self._registry, ignore_unknown=self._ignore_unknown))
        return None


def _text_setter(set_text: Callable[[Message, str], None]) -> Setter:
    def set_part(message: Message, part: Part) -> None:
        if part.is_file:
            raise ValueError("the field takes a text: send it without a filename")
        set_text(message, _text(part))

    return set_part


def _value_setter(fields: tuple[DescField, ...], make: Maker) -> Setter:
    *parents, last = fields
    repeated = isinstance(last.value, DescFieldValueList)

    def set_part(message: Message, part: Part) -> None:
        value = make(part)
        for parent in parents:
            message = submessage(message, parent)
        if repeated:
            values: list[Any] = message[last]
            values.append(value)
        else:
            message[last] = value

    return set_part


def _text(part: Part) -> str:
    try:
        return part.data.decode()
    except UnicodeDecodeError:
        raise ValueError("the text is not UTF-8") from None


def _bytes(part: Part) -> Any:
    """A file is the bytes themselves; a text is what it would be in a query string."""
    return part.data if part.is_file else parse_base64(_text(part))


def _http_body(http_body: DescMessage) -> Maker:
    (content_type_field,), (data_field,) = (resolve(http_body, (name,)) for name in ("content_type", "data"))

    def make(part: Part) -> Message:
        message = http_body.type()
        message[content_type_field] = part.content_type
        message[data_field] = part.data
        return message

    return make


def _json(decode: Decoder) -> Maker:
    def make(part: Part) -> Message:
        if part.content_type.partition(";")[0].strip().lower() != "application/json":
            raise ValueError("the field is a message: name one of its fields, or send it as application/json")
        return decode(part.data)

    return make

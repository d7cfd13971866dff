"""Reading what a gateway answers, as strictly as a client would."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpack import Decoder
from hpack.exceptions import HPACKError

from tests.gateway.hostile.http2 import CONTINUATION, DATA, END_HEADERS, HEADERS, PADDED, PRIORITISED

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([ -~\t]*)")


class GarbledError(Exception):
    """What came is not HTTP."""


@dataclass(slots=True)
class Answer:
    """One response; ``complete`` is False when the connection ended within it."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes = b""
    complete: bool = True


def http1(data: bytes) -> list[Answer]:
    """Return the responses that a connection has sent; to no HEAD. Raises ``GarbledError``."""
    answers: list[Answer] = []
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        if not found:
            if not head.startswith(b"HTTP/1.1 "[: len(head)]):
                raise GarbledError(f"no response: {head[:200]!r}")
            break
        line, *lines = head.split(b"\r\n")
        status = _STATUS_LINE.fullmatch(line)
        if status is None:
            raise GarbledError(f"no status line: {line[:200]!r}")
        headers: dict[bytes, bytes] = {}
        for each in lines:
            field = _FIELD.fullmatch(each)
            if field is None:
                raise GarbledError(f"no header: {each[:200]!r}")
            headers[field[1].lower()] = field[2]
        answer = Answer(int(status[1]), headers)
        if answer.status >= 200:
            data = _body(answer, data)
            answers.append(answer)
    return answers


def _body(answer: Answer, data: bytes) -> bytes:
    if answer.status in (204, 304):
        return data
    if answer.headers.get(b"transfer-encoding") == b"chunked":
        return _chunks(answer, data)
    length = answer.headers.get(b"content-length")
    if length is None or not length.isdigit():
        raise GarbledError(f"a response without a length: {answer}")
    size = int(length)
    answer.body, data = data[:size], data[size:]
    answer.complete = len(answer.body) == size
    return data


def _chunks(answer: Answer, data: bytes) -> bytes:
    parts: list[bytes] = []
    while True:
        line, found, rest = data.partition(b"\r\n")
        if not found:
            answer.complete = False
            break
        size = int(line, 16)
        parts.append(rest[:size])
        if rest[size : size + 2] != b"\r\n":
            answer.complete = False
            if len(rest) > size + 2:
                raise GarbledError(f"a chunk without an end: {rest[:50]!r}")
            break
        data = rest[size + 2 :]
        if not size:
            answer.body = b"".join(parts)
            return data
    answer.body = b"".join(parts)
    return b""


def http2(data: bytes) -> list[Answer]:
    """Return the responses of a connection, trailers among their headers. Raises ``GarbledError``."""
    decoder = Decoder()
    answers: dict[int, Answer] = {}
    block = b""
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        kind, flags, stream = data[3], data[4], int.from_bytes(data[5:9], "big")
        payload, data = data[9 : 9 + size], data[9 + size :]
        if len(payload) < size:
            break
        if kind == HEADERS and flags & (PADDED | PRIORITISED):
            raise GarbledError("a frame that our server does not send")
        if kind in (HEADERS, CONTINUATION):
            block += payload
            if flags & END_HEADERS:
                _headers(answers, stream, decoder, block)
                block = b""
        elif kind == DATA and stream in answers:
            answers[stream].body += payload
    return list(answers.values())


def _headers(answers: dict[int, Answer], stream: int, decoder: Decoder, block: bytes) -> None:
    try:
        pairs = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except HPACKError as error:
        raise GarbledError(f"no headers: {error!r}") from error
    headers = dict(pairs)
    status = headers.pop(b":status", None)
    if status is None and stream in answers:
        answers[stream].headers.update(headers)
    elif status is None:
        raise GarbledError("a response without a status")
    else:
        answers[stream] = Answer(int(status), headers)

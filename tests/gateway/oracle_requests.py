"""Requests for test_envoy_oracle.py: what a seed makes, good and bad, for the routes of oracle.proto."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    """Path and query as they are sent."""

    body: str = ""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


# What can stand in one segment of a path. The plain ones are most, or nothing would match.
PLAIN = ["a", "Ada", "42", "a-b_c.d~e", "fixed", "literal", "x"]
ODD = [
    "a%20b",
    "a%2Fb",
    "a%2fb%2F",
    "%C3%A4",
    "%c3%a4",
    "a+b",
    "a:b",
    "x:y:z",
    "a:archive",
    ":archive",
    "a%3Aarchive",
    "%25",
    "%2525",
    "%252F",
    "%61%2D",
    "..",
    ".",
    "!$&'()*,;=@",
    "%zz",
    "",
    "%7Bx%7D",
    "%00",
]
INTEGERS = ["0", "7", "-7", "2147483647", "2147483648", "-2147483648", "01", "1.5", "1e3", "x", "", "+1", "%207"]
UNSIGNED = ["0", "7", "18446744073709551615", "18446744073709551616", "-1", "x"]
BOOLEANS = ["true", "false", "True", "1", "yes", ""]
DOUBLES = ["0", "1.5", "-1e3", "1e400", "NaN", "Infinity", "-Infinity", "inf", "x", "1,5", ".5", "5."]
COLOURS = ["RED", "GREEN", "2", "77", "-1", "red", "PINK", ""]
BYTES = ["YQ==", "YQ", "_-8", "/%2B8", "_-8%3D", "a", "%25", ""]
TEXTS = ["", "a", "a+b", "a%20b", "a%26b", "%C3%A4", "%2B", "true", "a=b", "a,b", "%FF", "%zz", "%"]
TIMES = ["2024-02-29T12:00:00Z", "2024-02-29T12:00:00.5Z", "2024-02-29T12:00:00%2B02:00", "yesterday", "0"]
DURATIONS = ["1s", "1.5s", "-1s", "5", "x"]
MASKS = ["a", "a,bC.d", "twoWords", ""]

PARAMETERS: dict[str, list[str]] = {
    "double": DOUBLES,
    "float": [*DOUBLES, "1e39"],
    "int32": INTEGERS,
    "int64": [*INTEGERS, "9223372036854775807", "9223372036854775808"],
    "uint32": [*UNSIGNED, "4294967295", "4294967296"],
    "uint64": UNSIGNED,
    "sint32": INTEGERS,
    "fixed64": UNSIGNED,
    "bool": BOOLEANS,
    "string": TEXTS,
    "bytes": BYTES,
    "colour": COLOURS,
    "time": TIMES,
    "duration": DURATIONS,
    "field_mask": MASKS,
    "fieldMask": MASKS,
    "wrapped_int64": INTEGERS,
    "wrappedInt64": INTEGERS,
    "wrapped_string": TEXTS,
    "wrapped_bool": BOOLEANS,
    "nested": ["x", ""],
    "nested.text": TEXTS,
    "nested.deeper.text": TEXTS,
    "nested.deeper.deeper.numbers": INTEGERS,
    "nested.numbers": INTEGERS,
    "numbers": INTEGERS,
    "strings": TEXTS,
    "colours": COLOURS,
    "nesteds": ["x"],
    "nesteds.text": ["x"],
    "counts": ["x"],
    "counts.a": ["1"],
    "maybe": INTEGERS,
    "left": TEXTS,
    "right": INTEGERS,
    "two_words": TEXTS,
    "twoWords": TEXTS,
    "nope": ["1"],
    "nested.nope": ["1"],
    "string.nope": ["1"],
    "": ["1", ""],
}

BAD_BODIES = ["", "{", "[]", "null", '"x"', "1", "{}x", '{"nope": 1}', '{"string": 1}', '{"int32": "x"}', "{'a': 1}"]


class Generator:
    """The requests of one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def requests(self, count: int) -> Iterator[Request]:
        routes: list[Callable[[], Request]] = [
            lambda: self._get(f"/v1/one/{self._segment()}"),
            lambda: self._get(f"/v1/one/{self._segment()}/of/{self._segment()}"),
            lambda: Request("DELETE", f"/v1/one/{self._segment()}{self._query()}"),
            lambda: Request("POST", f"/v1/one/{self._segment()}:archive{self._rare_query()}", self._body()),
            lambda: self._get(f"/v1/one/{self._segment()}:archive"),
            lambda: self._get(f"/v1/rest{self._segments(0, 4)}"),
            lambda: self._get(f"/v1/rest{self._segments(0, 3)}:archive"),
            lambda: self._get(f"/v1/below/x{self._segments(0, 3)}"),
            lambda: self._get(f"/v1/shelves/{self._segment()}/books/{self._segment()}"),
            lambda: self._get(f"/v1/a/{self._segment()}/b/{self._segment()}"),
            lambda: self._get(f"/v1/star/{self._segment()}/end"),
            lambda: self._get(f"/v1/stars{self._segments(0, 3)}"),
            self._typed,
            lambda: self._get(f"/v1/wide/{self._one_of(UNSIGNED)}/{self._one_of(BYTES)}"),
            self._only_query,
            self._only_query,
            self._only_query,
            lambda: Request("POST", f"/v1/whole{self._rare_query()}", self._body()),
            lambda: Request("PUT", f"/v1/whole/{self._segment()}{self._rare_query()}", self._body()),
            lambda: Request("PATCH", f"/v1/whole/{self._segment()}/nested", self._body()),
            lambda: Request("POST", f"/v1/field/{self._segment()}{self._query()}", self._body(nested=True)),
            lambda: Request("PUT", f"/v1/field/{self._segment()}/nested{self._query()}", self._body(nested=True)),
            lambda: Request(self._one_of(["GET", "PUT", "DELETE", "PATCH"]), f"/v1/any/{self._segment()}"),
        ]
        for number in range(count):
            yield routes[number % len(routes)]()

    def _one_of(self, values: list[str]) -> str:
        return self._random.choice(values)

    def _segment(self) -> str:
        return self._one_of(ODD if self._random.random() < 0.4 else PLAIN)

    def _segments(self, least: int, most: int) -> str:
        return "".join(f"/{self._segment()}" for _ in range(self._random.randint(least, most)))

    def _get(self, path: str) -> Request:
        return Request("GET", path + self._rare_query())

    def _rare_query(self) -> str:
        return self._query() if self._random.random() < 0.2 else ""

    def _query(self) -> str:
        chosen = self._random.choices(list(PARAMETERS), k=self._random.randint(0, 3))
        pairs = [f"{name}={self._one_of(PARAMETERS[name])}" for name in chosen]
        return f"?{'&'.join(pairs)}" if pairs else ""

    def _only_query(self) -> Request:
        return Request("GET", f"/v1/query{self._query()}")

    def _typed(self) -> Request:
        values = [self._one_of(values[:3] if self._random.random() < 0.7 else values) for values in _TYPED]
        return Request("GET", f"/v1/typed/{'/'.join(values)}")

    def _body(self, *, nested: bool = False) -> str:
        if self._random.random() < 0.25:
            return self._one_of(BAD_BODIES)
        return json.dumps(self._nested(2) if nested else self._all())

    def _nested(self, depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {"text": self._one_of(["a", "", "ä"])}
        if self._random.random() < 0.5:
            value["numbers"] = self._random.choices([0, 1, -5, 2**31 - 1], k=2)
        if depth and self._random.random() < 0.5:
            value["deeper"] = self._nested(depth - 1)
        return value

    def _all(self) -> dict[str, Any]:
        every: dict[str, list[Any]] = {
            "double": [1.5, "NaN", 0, "1.5", None, "inf", "nan", "1_0", " 1", "0x1", ""],
            "float": [1.5, 1e39, "-Infinity", "1e39"],
            "int32": [7, "7", 7.0, 7.5, 2**31, None, "1_0", "+7", " 7", "\u0667", "7.0", "1e2", "", "0x7", True],
            "int64": ["7", 7, 2**53 + 1, "x", "9223372036854775807", 2**63, -(2**63), "-0"],
            "uint64": [7, -1, str(2**64 - 1), 2**64, "1_0"],
            "bool": [True, False, "true", 1],
            "string": ["a", "", 1, None],
            "bytes": ["YQ==", "_-8", "%", "YQ", "a", "", "Y Q", None],
            "colour": ["RED", 2, 77, "PINK", None, "2", 1.0, 1.5, ""],
            "time": [
                "2024-02-29T12:00:00Z",
                "x",
                None,
                "2024-02-29T12:00:00",
                "0000-01-01T00:00:00Z",
                "2024-02-30T12:00:00Z",
            ],
            "duration": ["1.5s", 1, "1s ", "-0.000000001s", "315576000001s", "1.0000000001s", ".5s"],
            "fieldMask": ["a,bC", "", "a_b", "a,", None],
            "wrappedInt64": ["7", 0, None],
            "wrappedString": ["", "a", None],
            "nested": [{"text": "a"}, {}, None, [], {"nope": 1}],
            "numbers": [[1, 2], [], None, [None], 1],
            "colours": [["RED", 2], ["PINK"]],
            "nesteds": [[{"text": "a"}, {}], [None]],
            "counts": [{"a": 1}, {}, {"a": "1"}, {"a": None}, {"": 1}],
            "maybe": [0, 1, None],
            "left": ["", "a", None],
            "right": [0, 1],
            "two_words": ["a"],
            "twoWords": ["a"],
        }
        chosen = self._random.sample(list(every), k=self._random.randint(0, 4))
        return {
            name: every[name][0] if self._random.random() < 0.6 else self._random.choice(every[name]) for name in chosen
        }


_TYPED = [INTEGERS, BOOLEANS, DOUBLES, COLOURS]

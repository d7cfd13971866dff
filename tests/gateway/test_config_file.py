"""The configuration file: what it may say, and what is said about its mistakes."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import pytest

from gateway.config import Config, ConfigError
from gateway.config_file import ConfigFileError, load_config, with_values
from gateway.option_types import Bytes, Seconds, parse_bytes, parse_seconds
from gateway.toml_lines import lines_of
from natsmesh.commands.gateway import command
from natsmesh.gateway_flags import Flag

EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "gateway.example.toml"


def load(folder: Path, text: str, kind: Any = Config) -> Any:
    path = folder / "gateway.toml"
    path.write_text(text)
    return load_config(path, kind)


def mistakes(folder: Path, text: str, kind: Any = Config) -> list[tuple[int, str]]:
    with pytest.raises(ConfigFileError) as caught:
        load(folder, text, kind)
    lines = str(caught.value).splitlines()
    assert lines == [f"{folder / 'gateway.toml'}:{line}: {text}" for line, text in caught.value.mistakes]
    return caught.value.mistakes


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()


def test_options_sections_and_units(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        port = 9000
        timeout = "500ms"
        max_timeout = 30
        stream_timeout = "1.5h"
        max_body = "4 MiB"
        max_response = 1000
        ignore_unknown = true
        forward_headers = ["user-agent", "x-forwarded-for"]
        access_log = "combined"
        access_log_file = "logs/access.log"

        [cors]
        origins = ["https://app.example.com"]
        max_age = "10m"

        [response_headers.add]
        "Strict-Transport-Security" = "max-age=1"
        """,
    )
    assert (config.port, config.timeout, config.max_timeout, config.stream_timeout) == (9000, 0.5, 30.0, 5400.0)
    assert (config.max_body, config.max_response) == (4 * 1024 * 1024, 1000)
    assert config.forward_headers == ("user-agent", "x-forwarded-for")
    assert config.access_log_file == tmp_path / "logs" / "access.log", "relative to the file"
    assert config.cors is not None
    assert (config.cors.origins, config.cors.max_age) == (("https://app.example.com",), 600.0)
    assert config.response_headers is not None
    assert config.response_headers.add == {"Strict-Transport-Security": "max-age=1"}


def test_none_takes_a_limit_away(tmp_path: Path) -> None:
    assert load(tmp_path, 'timeout = "none"').timeout is None
    assert mistakes(tmp_path, 'max_timeout = "none"')[0][1].startswith("max_timeout: 'none': expected a time")


def test_all_mistakes_at_once_with_their_lines(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        """\
port = 70000
timout = 3           # a slip
workers = "two"
timeout = -1
max_body = "16 mib"
metrics = 1
forward_headers = ["user-agent", 7,
  "nats-x"]
worker_directory = "/tmp"

[cors]
origins = ["https://ok.example.com",
  "nonsense"]
credentials = "yes"
methods = "GET"

[corse]
[chache]
ttl = 1
[unheard-of]
""",
    )
    assert [line for line, _ in found] == [1, 2, 3, 4, 5, 6, 7, 9, 12, 14, 15, 17, 18, 20]
    texts = dict(found)
    assert texts[1] == "port: 70000: choose one from 1 to 65535, or 0 for a free one"
    assert texts[2] == "timout: there is no such option; did you mean timeout?"
    assert texts[3] == "workers: expected a whole number, got text"
    assert texts[4] == "timeout: -1.0: must be more than 0 seconds, or None"
    assert texts[5] == "max_body: '16 mib': expected a size such as 512 B, 100 kB, 16 MiB or 1 GiB"
    assert texts[6] == "metrics: expected true or false, got a number"
    assert texts[7] == "forward_headers[2]: expected text in quotes, got a number"
    assert texts[9] == "worker_directory: there is no such option here"
    assert texts[12].startswith("cors.origins: 'nonsense' is none")
    assert texts[14] == "cors.credentials: expected true or false, got text"
    assert texts[15] == "cors.methods: expected a list in [brackets], got text"
    assert texts[17] == "corse: there is no such option; did you mean cors?"
    assert texts[18] == "chache: there is no such option; did you mean cache?"
    assert "there are docs, compression, auth, " in texts[20]


def test_values_that_an_option_refuses_come_one_after_the_other(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "grace = -1\nport = -1\nkeep_alive = 0\n[cache]\nttl = -1\nmax_entries = -1\n")
    assert [line for line, _ in found] == [1, 2, 3, 5, 6]


@pytest.mark.parametrize(
    "text",
    [
        'host = ""',
        'host = "a b"',
        'prefix = "a b"',
        'prefix = "a..b"',
        'prefix = "a.*"',
        'nats_url = "http://x"',
        'nats_url = "nats://a:b"',
        'nats_url = "nats://a,,nats://b"',
    ],
)
def test_where_it_cannot_be(tmp_path: Path, text: str) -> None:
    ((line, said),) = mistakes(tmp_path, f"\n{text}\n")
    assert line == 2
    assert said.startswith(text.partition(" ")[0] + ": expected")


def test_where_it_can_be(tmp_path: Path) -> None:
    for url in ("nats://a:4222,tls://b", "127.0.0.1:4222", "wss://user:word@a/path", "nats://[::1]:4222"):
        assert load(tmp_path, f'nats_url = "{url}"\nprefix = "a.b-c"').nats_url == url


def test_what_has_no_default_must_be_there(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "port = 1\n\n[cors]\n") == [(3, "cors: origins is missing: it has no default")]


def test_mistakes_never_show_what_may_be_secret(tmp_path: Path) -> None:
    for text in ('port = "hunter2"', "[response_headers]\nadd = { x = 1 }\nremove = 'hunter2'", 'cors = "hunter2"'):
        assert "hunter2" not in str(mistakes(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("port = 1\nport = 2\n", 2, "no valid TOML: Cannot overwrite a value"),
        ("port =\n", 1, "no valid TOML: Invalid value"),
        ('a = 1\nb = "', 2, "no valid TOML: "),
        ("x = " + "[" * 5000, 1, "no valid TOML: "),
    ],
)
def test_broken_toml(tmp_path: Path, text: str, line: int, what: str) -> None:
    ((number, said),) = mistakes(tmp_path, text)
    assert number == line
    assert said.startswith(what)


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(b'# caf\xe9\r\n"x" = 1\n')
    with pytest.raises(ConfigFileError, match=r"gateway.toml:1: this is not UTF-8"):
        load_config(path, Config)
    path.write_bytes(b"\xef\xbb\xbfport = 7\r\ntimeout = 3\r\n")
    assert load_config(path, Config).port == 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    name: str
    rate: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Others:
    """Kinds of options that features may have."""

    rules: tuple[Rule, ...] = ()
    by_name: dict[str, Rule] = dataclasses.field(default_factory=dict)
    window: Seconds = 1.0
    window_or_not: Seconds | None = 1.0
    room: Bytes | None = None
    file: Path | None = None
    files: tuple[Path, ...] = ()
    names: frozenset[str] = frozenset()
    either: bool | str = False


def test_arrays_of_tables_and_tables_of_tables(tmp_path: Path) -> None:
    text = """
    room = "1 kB"
    window_or_not = "none"
    file = "a/b"
    files = ["/absolute", "c"]
    names = ["x", "y"]
    either = "text"
    [[rules]]
    name = "a"
    [[rules]]
    name = "b"
    rate = 2
    [by_name."x/*"]
    name = "c"
    """
    expected = Others(
        rules=(Rule(name="a"), Rule(name="b", rate=2.0)),
        by_name={"x/*": Rule(name="c")},
        window_or_not=None,
        room=1000,
        file=tmp_path / "a/b",
        files=(Path("/absolute"), tmp_path / "c"),
        names=frozenset({"x", "y"}),
        either="text",
    )
    assert load(tmp_path, text, Others) == expected


def test_mistakes_in_arrays_of_tables(tmp_path: Path) -> None:
    text = """\
either = 3
window = nan
room = true
[[rules]]
name = "a"
[[rules]]
rate = 2
[[rules]]
name = 3
nome = 3
[by_name.x]
name = "b"
rate = inf
"""
    assert mistakes(tmp_path, text, Others) == [
        (1, "either: expected true or false, got a number; or expected text in quotes, got a number"),
        (2, 'window: expected a finite number of seconds, or a time like "30s", got a number'),
        (3, 'room: expected a whole number of bytes, or a size like "16 MiB", got true or false'),
        (6, "rules[2]: name is missing: it has no default"),
        (9, "rules[3].name: expected text in quotes, got a number"),
        (10, "rules[3].nome: there is no such option; did you mean name?"),
        (13, "by_name.x.rate: expected a finite number, got a number"),
    ]


def test_lines_of_everything_that_toml_can_say() -> None:
    text = r'''# comment = 1
a = 1
"q\"k" . b = """x # [no]
\""" y"""""  # five quotes end it
s = 'lit # "'
d = 1979-05-27T07:32:00Z  # then
m = """
[table]
x = 1
"""
arr = [ 1, # one
  "b]", { k = 1, l.m = [2,
   3] },
]
[x.y] # t
z = {}
[[k]]
n = 1
[[k]]
n = 2
[k.sub]
o = [[1], [2,
 3]]
[[k.subs]]
'p.q' = true
[[k.subs]]
  p  =  true
e = []
"" = 1
'''
    lines = lines_of(text)

    def paths(value: Any, path: tuple[Any, ...] = ()) -> Any:
        yield path
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, each in items:
            yield from paths(each, (*path, key))

    assert set(lines) == set(paths(tomllib.loads(text)))
    assert lines['q"k', "b"] == 3
    assert lines["m",] == 7
    assert lines["arr", 2, "l", "m", 1] == 13
    assert lines["k", 1, "n"] == 20
    assert lines["k", 1, "subs", 0, "p.q"] == 25
    assert lines["k", 1, "subs", 1, ""] == 29


def test_the_example_is_loaded_and_shows_every_option() -> None:
    text = EXAMPLE.read_text()
    load_config(EXAMPLE, Config)
    shown = tomllib.loads("".join(f"{line.removeprefix('#:').lstrip()}\n" for line in text.splitlines()))

    def check(kind: Any, table: dict[str, Any], where: str) -> None:
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if not field.metadata.get("file", True):
                continue
            if where == "auth.jwt." and field.name == "jwks_file":
                continue  # It stands for ``jwks_url``, which is there.
            assert field.name in table, f"{where}{field.name} is not in the example"
            for hint in (hints[field.name], *get_args(hints[field.name])):
                if dataclasses.is_dataclass(hint):
                    inner = table[field.name]
                    check(hint, inner[0] if isinstance(inner, list) else inner, f"{where}{field.name}.")

    check(Config, shown, "")


def test_quantities() -> None:
    assert [parse_seconds(text) for text in ("250ms", "30s", "1.5m", "2 h", "1d")] == [0.25, 30, 90, 7200, 86400]
    assert [parse_bytes(text) for text in ("1B", "2 kB", "1.5KiB", "1MiB", "1 GB")] == [1, 2000, 1536, 2**20, 10**9]
    for text in ("", "30", "s", "-1s", "1e3s", "1 week", "1  s", "1s2", "½s"):
        with pytest.raises(ValueError, match="expected a time"):
            parse_seconds(text)
    for text in ("16", "16M", "16mib", "0.5B"):
        with pytest.raises(ValueError, match=r"size|whole number"):
            parse_bytes(text)


def test_values_of_flags_win() -> None:
    config = Config(port=1, timeout=2.0)
    changed = with_values(config, {("port",): 3, ("cors", "origins"): ("*",), ("docs", "title"): "T"})
    assert (changed.port, changed.timeout, changed.docs.title) == (3, 2.0, "T")
    assert changed.cors is not None
    assert with_values(changed, {("cors", "max_age"): 1.0}).cors == dataclasses.replace(changed.cors, max_age=1.0)
    with pytest.raises(ConfigError, match="cors: origins is missing"):
        with_values(config, {("cors", "max_age"): 1.0})


def test_what_help_says_of_defaults_is_true() -> None:
    flags = [parameter for parameter in command.params if isinstance(parameter, Flag)]
    assert len(flags) > 20
    for flag in flags:
        kind: Any = Config
        *sections, name = str(flag.name).split("__")
        for section in sections:
            hint = get_type_hints(kind)[section]
            kind = next(each for each in (hint, *get_args(hint)) if dataclasses.is_dataclass(each))
        options = next(field.default for field in dataclasses.fields(kind) if field.name == name)
        shown = str(flag.help).partition("[default: ")[2].rstrip("]")
        if isinstance(flag.type, click.types.BoolParamType):
            assert not shown or options == (shown == flag.opts[0].removeprefix("--")), flag.name
        elif shown:
            assert flag.type.convert(shown, flag, None) == options, flag.name


def test_the_documentation_names_every_option() -> None:
    page = EXAMPLE.with_name("gateway-config.md").read_text()
    for field in dataclasses.fields(Config):
        if field.metadata.get("file", True):
            assert f"`{field.name}`" in page or f"`[{field.name}]`" in page, field.name
    pages = EXAMPLE.with_name("cli.md").read_text() + page
    for flag in command.params:
        assert any(f"`{name}" in pages for name in (*flag.opts, *flag.secondary_opts)), flag.opts

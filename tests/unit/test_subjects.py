"""Subjects: built from names that may stand in them, and from nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.subjects import Subjects, check_name, srv_name

TOKENS = st.text("abcXYZ019_-", min_size=1, max_size=12)
NAMES = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)


def test_the_subjects_of_the_specification() -> None:
    subjects = Subjects()
    assert subjects.method("greeter.v1.Greeter", "SayHello") == "rpc.greeter.v1.Greeter.SayHello"
    assert subjects.service("greeter.v1.Greeter") == "rpc.greeter.v1.Greeter.*"
    assert subjects.instance("abc") == "inst.abc.>"
    assert subjects.schema("00ff") == "schema.00ff"
    assert srv_name("greeter.v1.Greeter") == "greeter_v1_Greeter"


@given(NAMES, TOKENS)
def test_a_prefix_stands_before_everything(prefix: str, method: str) -> None:
    with_prefix, without = Subjects(prefix), Subjects()
    assert with_prefix.method("a.B", method) == f"{prefix}.{without.method('a.B', method)}"
    assert with_prefix.instance("i") == f"{prefix}.{without.instance('i')}"
    assert with_prefix.schema("0") == f"{prefix}.{without.schema('0')}"
    assert with_prefix.announcement("up").startswith(f"{prefix}.")


@given(NAMES)
def test_names_of_tokens_are_kept(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a.*",
        ">",
        "a.>",
        "a\r\nPUB x 0",
        "a\n",
        "a\0",
        "ä",
        "a/b",
        "$SRV",
        "\u0661",
        " a",
    ],
)
def test_whatever_else_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be part of a NATS subject"):
        check_name(name)


@given(st.text())
def test_no_text_breaks_out_of_its_tokens(text: str) -> None:
    try:
        subject = Subjects().method("a.B", text)
    except ValueError:
        return
    assert not set(subject) & set(" \r\n\t\0*>")
    assert all(subject.split("."))

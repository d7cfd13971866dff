"""``grpc-timeout``: eight ASCII digits and a unit; and nothing else, whatever peers send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.deadline import earliest, format_timeout, parse_timeout


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("5u", 5e-6), ("6n", 6e-9), ("0n", 0), ("00000001S", 1)],
)
def test_units(text: str, seconds: float) -> None:
    assert parse_timeout(text) == pytest.approx(seconds)


def test_the_longest_timeout_is_a_number() -> None:
    assert parse_timeout("99999999H") == 99999999 * 3600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "S",
        "123456789S",
        "-1S",
        "+1S",
        "1.5S",
        "1_0S",
        "1 S",
        " 1S",
        "1S ",
        "1S\n",
        "1s",
        "1h",
        "0x1S",
        "\u0661S",
        "\u00b2S",
    ],
)
def test_malformed_timeouts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="malformed grpc-timeout"):
        parse_timeout(text)


@given(st.text())
def test_any_text_is_a_number_or_refused(text: str) -> None:
    try:
        seconds = parse_timeout(text)
    except ValueError:
        return
    assert 0 <= seconds <= 99999999 * 3600


@given(st.floats(min_value=1e-6, max_value=3e11))
def test_what_is_formatted_is_read_back_and_never_longer(seconds: float) -> None:
    text = format_timeout(seconds)
    assert len(text) <= 9
    read = parse_timeout(text)
    assert read <= seconds * (1 + 1e-9)
    # The finest unit that eight digits hold: the loss is below a microsecond, or below a ten-thousandth.
    assert seconds - read <= max(1e-6, seconds * 1e-4) or text == "99999999S"


@given(st.floats(max_value=0, allow_nan=False))
def test_what_is_over_is_zero(seconds: float) -> None:
    assert parse_timeout(format_timeout(seconds)) == 0


@pytest.mark.parametrize("seconds", [1e9, 1e303, float("inf")])
def test_what_is_too_long_is_the_longest(seconds: float) -> None:
    assert format_timeout(seconds) == "99999999S"


def test_earliest() -> None:
    assert earliest(None, None) is None
    assert earliest(1.0, None) == earliest(None, 1.0) == earliest(1.0, 2.0) == earliest(2.0, 1.0) == 1.0

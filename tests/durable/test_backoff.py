"""How long a failed request waits."""

from dataclasses import replace

import pytest

from rpc.durable.backoff import delay
from rpc.durable.options import RetryOptions

STEADY = RetryOptions(initial_backoff=1.0, max_backoff=10.0, backoff_multiplier=2.0, jitter=0.0)


def test_it_grows_up_to_the_longest() -> None:
    assert [delay(STEADY, failures) for failures in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_a_multiplier_of_one_keeps_it() -> None:
    assert delay(replace(STEADY, backoff_multiplier=1.0), 1000) == 1.0


def test_any_number_of_failures_has_a_delay() -> None:
    assert delay(STEADY, 2**31) == 10.0


def test_jitter_goes_both_ways() -> None:
    shaky = replace(STEADY, jitter=0.25)
    assert [delay(shaky, 2, lambda part=part: part) for part in (0.0, 0.5, 1.0)] == [1.5, 2.0, 2.5]


def test_no_delay_is_longer_than_the_longest() -> None:
    shaky = replace(STEADY, jitter=0.25)
    assert [delay(shaky, 9, lambda part=part: part) for part in (0.0, 1.0)] == [7.5, 10.0]


def test_it_is_random() -> None:
    shaky = replace(STEADY, jitter=1.0)
    delays = {delay(shaky, 3) for _ in range(20)}
    assert len(delays) > 1
    assert 0 <= min(delays) <= max(delays) <= 8


@pytest.mark.parametrize("failures", [1, 5, 50])
def test_the_default_is_within_its_bounds(failures: int) -> None:
    retry = RetryOptions()
    assert 0.8 <= delay(retry, failures) <= 600

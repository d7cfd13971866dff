"""A few seconds of a hostile client, and what it found before."""

import gzip
import json
import time
from pathlib import Path

import pytest

from gateway.compression import CODINGS, Coding, MalformedError
from tests.gateway.conftest import CannedGateway
from tests.gateway.hostile.campaign import campaign
from tests.gateway.hostile.storm import ATTACKS, Report, Storm
from tests.gateway.hostile.target import Target

SECONDS = 2.5


@pytest.mark.timeout(90)
async def test_a_hostile_client(nats_url: str, tmp_path: Path) -> None:
    """No 5xx of ours, no traceback, no hang, no leak, nothing forged, and healthy calls meanwhile.

    ``python -m tests.gateway.hostile`` does the same for longer.
    """
    with Target(tmp_path, nats_url) as target:
        report = await campaign(target, seconds=SECONDS, seed=1, connections=64)
    assert not report.offences, str(report)
    assert len(report.inputs) == len(ATTACKS), "not everything was tried"
    assert report.inputs.total() > 500
    assert report.statuses["200"] > 10
    assert report.statuses["400"] > 50


def test_the_same_seed_makes_the_same_attacks() -> None:
    """Whatever was found can be found again."""
    made = [[attack.pieces for attack in Storm(1, seed, Report()).made(50)] for seed in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0] != made[2]


@pytest.mark.parametrize("coding", [coding for coding in CODINGS if coding.name != "br"], ids=lambda each: each.name)
def test_bodies_of_endless_nothing(coding: Coding) -> None:
    """Members, or frames, that hold nothing cost work without a bound, and no limit of size stopped it."""
    body = coding.compress(b"") * 100_000
    begun = time.process_time()
    with pytest.raises(MalformedError, match="more than 100 parts"):
        coding.decompress(body, 1000)
    assert time.process_time() - begun < 1
    assert coding.decompress(coding.compress(b"a") * 100, 1000) == b"a" * 100


async def test_compressed_nothing_is_a_bad_request(canned: CannedGateway) -> None:
    answer = await canned.client.request(
        "POST",
        "/v1/echo",
        gzip.compress(b"") * 1000,
        headers={"content-type": "application/json", "content-encoding": "gzip"},
    )
    assert answer.status == 400
    assert not canned.calls


@pytest.mark.parametrize(
    "body",
    [
        b'{"fieldMask": "a..b"}',
        b'{"value": 1e400}',
        b'{"struct": {"a": [-1e400]}}',
        b'{"nested": {}, "value": [{"a": 1e999}]}',
    ],
)
async def test_json_that_can_be_read_and_not_be_written(canned: CannedGateway, body: bytes) -> None:
    """Such a message came back as a response that could not be answered: a 500."""
    for path in ("/v1/echo", "/library.v1.Library/Echo"):
        answer = await canned.client.request("POST", path, body, headers={"content-type": "application/json"})
        assert answer.status == 400, answer
        assert json.loads(answer.body)["message"]
    assert not canned.calls


@pytest.mark.parametrize("body", [b'{"colour": 2147483648}', b'{"colours": [1, -9223372036854775809]}'])
async def test_numbers_of_enums_beyond_all_range(canned: CannedGateway, body: bytes) -> None:
    """Connect passes over numbers that it does not know; REST takes those that could be known to others."""
    answer = await canned.client.request("POST", "/v1/echo", body, headers={"content-type": "application/json"})
    assert answer.status == 400, answer
    assert not canned.calls


@pytest.mark.parametrize("value", [b'"\xff"', b"9" * 5000])
async def test_malformed_values_of_unknown_fields(canned: CannedGateway, value: bytes) -> None:
    """The parser passes over unknown fields without a look at their values; who looks again must not fail."""
    body = b'{"nope": %s, "left": "\\u0061", "right": 1}' % value
    answer = await canned.client.request(
        "POST", "/library.v1.Library/Echo", body, headers={"content-type": "application/json"}
    )
    assert answer.status == 400, answer
    assert "not valid JSON" in json.loads(answer.body)["message"]

"""What the OpenAPI document promises holds: schemathesis makes requests of it, against a gateway and a back-end."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from tests.gateway.orders import OrdersThread
from tests.gateway.processes import GatewayProcess

# Nothing is remembered, nothing depends on chance or on the machine's speed.
QUICKLY = settings(
    max_examples=12,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

# What cannot be made of a document: messages in envelopes, and the names of types that a service knows (for an Any).
WITHOUT = (".Sum", ".Chat", ".Watch.Connect", ".Attach.Connect", ".Upload.Connect")

OUT_OF_RANGE = re.compile(r"\d{19} is outside the range|out of range")


@pytest.fixture(scope="module")
def url(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    prefix = f"t{secrets.token_hex(4)}"
    backend = OrdersThread(nats_url, prefix)
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats_url, prefix)
    try:
        yield gateway.start().url
    finally:
        gateway.close()
        backend.close()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_made_of_the_document_are_answered_as_it_says(url: str, mode: GenerationMode) -> None:
    """What fits the document is not refused (positive), and what does not is no trouble (negative).

    The answers are those of the document: status, headers, content type and schema. That each request which does not
    fit is refused is not asked for: what is required is a service's affair, and ProtoJSON takes more than it writes.
    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json?connect=all")
    tried = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        name = operation.definition.raw["operationId"]
        if name.endswith(WITHOUT):
            continue

        @QUICKLY
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            response = case.call(timeout=10)
            # The patterns of 64-bit integers count digits.
            if response.status_code != 400 or not OUT_OF_RANGE.search(response.text):
                case.validate_response(response, excluded_checks=[negative_data_rejection])

        try:
            check()
        except Unsatisfiable:  # There is nothing wrong to say where any text will do.
            assert mode is GenerationMode.NEGATIVE
        else:
            tried.add(name)
    assert len(tried) >= (10 if mode is GenerationMode.NEGATIVE else 15)

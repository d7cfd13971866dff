"""Our names against those of the installed opentelemetry-semantic-conventions package."""

import importlib
import pkgutil

import pytest
from opentelemetry.semconv import attributes as stable
from opentelemetry.semconv._incubating import attributes as incubating
from opentelemetry.semconv._incubating import metrics as incubating_metrics
from opentelemetry.semconv.metrics import http_metrics
from opentelemetry.semconv.schemas import Schemas

from rpc import StatusCode
from rpc.telemetry import semconv


def _values(package: object) -> set[str]:
    values: set[str] = set()
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        values |= {value for name, value in vars(loaded).items() if name.isupper() and isinstance(value, str)}
    return values


NAMES = sorted(
    value
    for name, value in vars(semconv).items()
    if name.isupper() and isinstance(value, str) and "." in value and not value.startswith(("natsmesh", "https"))
)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_one_of_the_conventions(name: str) -> None:
    known = _values(stable) | _values(incubating) | _values(incubating_metrics)
    assert name in known | {http_metrics.HTTP_SERVER_REQUEST_DURATION}


def test_the_schema_is_a_published_one() -> None:
    assert semconv.SCHEMA_URL in {schema.value for schema in Schemas}


def test_server_errors_are_status_codes() -> None:
    assert {code.name for code in StatusCode} > semconv.SERVER_ERRORS

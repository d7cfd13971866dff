"""CORS as browsers see it (https://fetch.spec.whatwg.org/#http-cors-protocol), and rules for response headers."""

from collections.abc import Sequence
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.config import Config, ConfigError
from gateway.filters import application
from gateway.filters.auth_options import AuthOptions, JwtOptions
from gateway.filters.cors import Cors, CorsOptions
from gateway.filters.response_headers import ResponseHeaderRules
from rpc import Call, StatusCode, StatusError
from tests.gateway.asgi import Answer, Client
from tests.gateway.conftest import CannedGateway
from tests.gateway.contracts import library

APP = "https://app.example.com"
UNARY = "/library.v1.Library/GetBook"

# What a browser sends by itself, whoever asks (https://fetch.spec.whatwg.org/#cors-safelisted-method and -header).
SAFE_METHODS = {"GET", "HEAD", "POST"}
SAFE_RESPONSE_HEADERS = {
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
}


def start(*origins: str, **options: Any) -> CannedGateway:
    rules = options.pop("response_headers", None)
    config = Config(cors=CorsOptions(origins=origins, **options), response_headers=rules)
    return CannedGateway(library(), "library.v1.Library", config)


class BlockedError(Exception):
    """The browser does not let the page have the answer."""


class Browser:
    """What ``fetch`` does with ``mode: "cors"``, as far as pages can notice."""

    def __init__(self, gateway: CannedGateway, origin: str, *, credentials: bool = False) -> None:
        self._client = gateway.client
        self._origin = origin
        self._credentials = credentials

    async def fetch(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        """Return the answer with the headers that the page may read."""
        unsafe = sorted(name for name in headers if name != "accept")
        if method not in SAFE_METHODS or unsafe:
            await self._preflight(method, target, unsafe)
        answer = await self._client.request(method, target, body, headers={**headers, "origin": self._origin})
        self._check(answer)
        exposed = names(answer, "access-control-expose-headers")
        everything = exposed == {"*"} and not self._credentials
        answer.headers = [
            pair for pair in answer.headers if everything or pair[0] in SAFE_RESPONSE_HEADERS or pair[0] in exposed
        ]
        return answer

    async def _preflight(self, method: str, target: str, unsafe: Sequence[str]) -> None:
        asked = {"origin": self._origin, "access-control-request-method": method}
        if unsafe:
            asked["access-control-request-headers"] = ",".join(unsafe)
        answer = await self._client.request("OPTIONS", target, headers=asked)
        self._check(answer)
        if not 200 <= answer.status <= 299:
            raise BlockedError(f"preflight: {answer.status}")
        methods = names(answer, "access-control-allow-methods")
        if method.lower() not in methods and method not in SAFE_METHODS:
            raise BlockedError(f"method {method}")
        allowed = names(answer, "access-control-allow-headers")
        for name in unsafe:
            wildcard = "*" in allowed and not self._credentials and name != "authorization"
            if name not in allowed and not wildcard:
                raise BlockedError(f"header {name}")

    def _check(self, answer: Answer) -> None:
        origins = [value for name, value in answer.headers if name == "access-control-allow-origin"]
        if len(origins) != 1 or not (origins == [self._origin] or (origins == ["*"] and not self._credentials)):
            raise BlockedError(f"origin {origins}")
        if self._credentials and answer.header("access-control-allow-credentials") != "true":
            raise BlockedError("credentials")


def names(answer: Answer, header: str) -> set[str]:
    values = [value for name, value in answer.headers if name == header]
    return {part.strip().lower() for value in values for part in value.split(",") if part.strip()}


CONNECT = {"content-type": "application/json", "connect-protocol-version": "1", "connect-timeout-ms": "5000"}
GRPC_WEB = {
    "content-type": "application/grpc-web+proto",
    "x-grpc-web": "1",
    "x-user-agent": "grpc-web-javascript/0.1",
    "grpc-timeout": "5S",
    "authorization": "Bearer x",
}


async def test_a_connect_client_calls_from_a_page() -> None:
    gateway = start(APP)
    gateway.answer({"title": "Dune"})
    answer = await Browser(gateway, APP).fetch("POST", UNARY, CONNECT, b"{}")
    assert answer.json == {"title": "Dune"}
    assert answer.header("x-request-id"), "it can be told to whoever looks into it"


async def test_a_grpc_web_client_calls_from_a_page() -> None:
    gateway = start(APP)
    answer = await Browser(gateway, APP).fetch("POST", UNARY, GRPC_WEB, bytes(5))
    assert (answer.status, answer.body[0]) == (200, 0)
    gateway.fail(StatusError(StatusCode.NOT_FOUND, "no such book"))
    failed = await Browser(gateway, APP).fetch("POST", UNARY, GRPC_WEB, bytes(5))
    assert b"grpc-status: 5" in failed.body or failed.header("grpc-status") == "5"


async def test_rest_and_its_errors_can_be_read() -> None:
    gateway = start(APP)
    browser = Browser(gateway, APP)
    for target, status in (("/v1/books/2", 200), ("/nowhere", 404), ("/v1/books/2?nope=1", 400)):
        assert (await browser.fetch("GET", target, {})).status == status
    deleted = await browser.fetch("DELETE", "/v1/books/2", {})
    assert deleted.status == 405


async def test_an_api_key_can_be_sent_by_a_page() -> None:
    cors = CorsOptions(origins=(APP,))
    issuer = JwtOptions(issuer="them", audience=("us",), jwks_url="https://login.example.com/keys")
    auth = AuthOptions(jwt=issuer, api_key_header="x-shop-key")
    preflight = {
        "origin": APP,
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-shop-key",
    }
    client = Client(application(Gateway(Config()), Config(cors=cors, auth=auth)))
    answer = await client.request("OPTIONS", UNARY, headers=preflight)
    assert "x-shop-key" in names(answer, "access-control-allow-headers")


async def test_metadata_of_a_response_can_be_read() -> None:
    gateway = start(APP, exposed_headers=("X-Total",))

    def respond(call: Call) -> None:
        call.response = b""
        call.initial_metadata = (("x-total", "7"), ("x-hidden", "1"), ("access-control-allow-origin", "*"))
        call.trailing_metadata = (("x-cost", "3"),)

    gateway.respond = respond
    answer = await Browser(gateway, APP).fetch("POST", UNARY, CONNECT, b"{}")
    assert answer.header("x-total") == "7"
    assert answer.header("trailer-x-cost") == "3"
    assert answer.header("x-hidden") is None


@pytest.mark.parametrize("credentials", [False, True])
async def test_all_metadata_can_be_opened(credentials: bool) -> None:
    gateway = start(APP, exposed_headers=("*",), headers=("*",), credentials=credentials)

    def respond(call: Call) -> None:
        call.response = b""
        call.initial_metadata = (("x-any", "1"),)

    gateway.respond = respond
    headers = {"x-something": "1", "authorization": "x"}
    answer = await Browser(gateway, APP, credentials=credentials).fetch("POST", UNARY, CONNECT | headers, b"{}")
    assert answer.header("x-any") == "1"


ORIGINS = [
    ((APP,), APP, True),
    ((APP,), "https://evil.example.com", False),
    ((APP,), "http://app.example.com", False),
    ((APP,), "https://app.example.com:8443", False),
    ((APP,), "https://app.example.com.evil.org", False),
    (("HTTPS://App.Example.com",), APP, True),
    (("https://*.example.com",), APP, True),
    (("https://*.example.com",), "https://a.b.example.com", True),
    (("https://*.example.com",), "https://example.com", False),
    (("https://*.example.com",), "https://evilexample.com", False),
    (("https://*.example.com",), "https://evil.org/.example.com", False),
    (("https://*.example.com",), "https://x.example.com.evil.org", False),
    (("https://*.example.com",), "null", False),
    (("http://localhost:*",), "http://localhost:5173", True),
    (("http://localhost:*",), "http://localhost", True),
    (("http://localhost:*",), "http://localhost.evil.org", False),
    (("http://[::1]:3000", APP), "http://[::1]:3000", True),
    (("*",), "https://anything", True),
    (("*",), "null", True),
]


@pytest.mark.parametrize(("origins", "origin", "allowed"), ORIGINS)
async def test_which_origins_may(origins: tuple[str, ...], origin: str, allowed: bool) -> None:
    browser = Browser(start(*origins), origin)
    for headers in ({}, CONNECT):
        if allowed:
            await browser.fetch("POST", UNARY, headers, b"{}")
        else:
            with pytest.raises(BlockedError):
                await browser.fetch("POST", UNARY, headers, b"{}")


async def test_credentials_need_leave() -> None:
    with pytest.raises(BlockedError):
        await Browser(start(APP), APP, credentials=True).fetch("POST", UNARY, CONNECT, b"{}")
    with pytest.raises(BlockedError):
        await Browser(start("*"), APP, credentials=True).fetch("POST", UNARY, CONNECT, b"{}")
    answer = await Browser(start(APP, credentials=True), APP, credentials=True).fetch("POST", UNARY, CONNECT, b"{}")
    assert answer.status == 200


async def test_headers_and_methods_that_were_not_named_are_blocked() -> None:
    gateway = start(APP, methods=("GET", "POST"), headers=("X-Mine",))
    browser = Browser(gateway, APP)
    await browser.fetch("POST", UNARY, CONNECT | {"x-mine": "1"}, b"{}")
    with pytest.raises(BlockedError, match="x-other"):
        await browser.fetch("POST", UNARY, CONNECT | {"x-other": "1"}, b"{}")
    with pytest.raises(BlockedError, match="PATCH"):
        await browser.fetch("PATCH", "/v1/books/1", {})


async def test_a_preflight_needs_no_route_and_makes_no_call() -> None:
    gateway = start(APP, max_age=600)
    asked = {"origin": APP, "access-control-request-method": "PUT"}
    answer = await gateway.client.request("OPTIONS", "/not/there/yet", headers=asked)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("access-control-max-age") == "600"
    assert names(answer, "vary") == {"origin"}
    assert not gateway.calls
    refused = await gateway.client.request("OPTIONS", UNARY, headers=asked | {"origin": "https://\xffevil"})
    assert refused.status == 403
    assert b"cors.origins" in refused.body
    assert refused.body.isascii()


async def test_caches_on_the_way_learn_that_origins_differ() -> None:
    gateway = start(APP)
    for headers in ({}, {"origin": APP}, {"origin": "https://evil.org"}):
        answer = await gateway.client.post(UNARY, json={}, headers=headers)
        assert answer.status == 200
        assert "origin" in names(answer, "vary")
    everybody = await start("*").client.post(UNARY, json={}, headers={"origin": APP})
    assert names(everybody, "vary") == set()


async def test_options_without_a_preflight_are_the_gateways_own() -> None:
    answer = await start(APP).client.request("OPTIONS", UNARY, headers={"origin": APP})
    assert answer.header("allow") is not None


async def test_what_is_no_http_request_passes() -> None:
    passed: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    cors = Cors(application, CorsOptions(origins=(APP,)))
    for kind in ("lifespan", "websocket"):
        await cors({"type": kind, "headers": [(b"origin", b"https://evil.org")]}, None, None)  # type: ignore[arg-type]
    assert passed == ["lifespan", "websocket"]


WRONG = [
    {"origins": ()},
    {"origins": ("app.example.com",)},
    {"origins": ("https://app.example.com/",)},
    {"origins": ("https://app.example.com/path",)},
    {"origins": ("https://*",)},
    {"origins": ("https://a*.example.com",)},
    {"origins": ("null",)},
    {"origins": ("*", APP)},
    {"origins": ("*",), "credentials": True},
    {"origins": (APP,), "methods": ("GET POST",)},
    {"origins": (APP,), "methods": ("*",), "credentials": True},
    {"origins": (APP,), "headers": ("x: y",)},
    {"origins": (APP,), "exposed_headers": ("a\r\nb",)},
    {"origins": (APP,), "max_age": -1},
]


@pytest.mark.parametrize("options", WRONG)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^({'|'.join(options)})"):
        CorsOptions(**options)


async def test_rules_for_response_headers() -> None:
    rules = ResponseHeaderRules(
        add={"Strict-Transport-Security": "max-age=63072000", "X-Content-Type-Options": "nosniff", "x-mode": "default"},
        remove=("X-Powered-By",),
    )
    gateway = start(APP, response_headers=rules)

    def respond(call: Call) -> None:
        call.response = b""
        call.initial_metadata = (("x-powered-by", "something"), ("x-mode", "of the service"))

    gateway.respond = respond
    for answer in (
        await gateway.client.post(UNARY, json={}),
        await gateway.client.get("/nowhere"),
        await gateway.client.request("OPTIONS", "/", headers={"origin": APP, "access-control-request-method": "PUT"}),
    ):
        assert answer.header("strict-transport-security") == "max-age=63072000"
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("x-powered-by") is None
    answer = await gateway.client.post(UNARY, json={})
    assert answer.header("x-mode") == "of the service"


@pytest.mark.parametrize(
    "options",
    [
        {"add": {"x y": "1"}},
        {"add": {"x": "1\r\nset-cookie: a"}},
        {"add": {"x": "é"}},
        {"add": {"content-length": "1"}},
        {"remove": ("grpc-status",)},
        {"remove": ("X-Request-Id",)},
    ],
)
def test_wrong_rules_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        ResponseHeaderRules(**options)

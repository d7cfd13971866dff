"""Streams in a real browser: WebSocket and EventSource as pages use them. Needs Chromium and its driver."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from grpc import StatusCode
from selenium import webdriver

from tests.gateway.processes import GatewayProcess
from tests.gateway.sockets import SERVICE, Context, Note, Notes, Sockets

pytestmark = pytest.mark.browser

TALK = f"/{SERVICE}/Talk"

SOCKET = """
const [url, subprotocols, messages, done] = arguments
const socket = new WebSocket(url, subprotocols)
const received = []
socket.binaryType = "arraybuffer"
socket.onopen = () => messages.forEach((each) => socket.send(Array.isArray(each) ? new Uint8Array(each) : each))
socket.onmessage = ({data}) => received.push(typeof data === "string" ? data : Array.from(new Uint8Array(data)))
socket.onclose = ({code, reason}) => done([socket.protocol, received, code, reason])
"""

EVENTS = """
const [url, enough, done] = arguments
const source = new EventSource(url)
const seen = []
source.onmessage = ({lastEventId, data}) => {
  seen.push([lastEventId, JSON.parse(data)])
  if (seen.length === enough) { source.close(); done(seen) }
}
"""


class Page:
    """A page of the gateway's own origin, and what scripts on it find."""

    def __init__(self, driver: webdriver.Chrome, gateway: GatewayProcess) -> None:
        self.driver = driver
        self.gateway = gateway

    async def run(self, script: str, *arguments: Any, host: str = "127.0.0.1") -> Any:
        def run() -> Any:
            self.driver.get(f"http://{host}:{self.gateway.port}/healthz")
            self.driver.set_script_timeout(15)
            return self.driver.execute_async_script(script, *arguments)

        return await asyncio.to_thread(run)

    async def socket(self, path: str, subprotocols: list[str], *messages: Any, host: str = "127.0.0.1") -> Any:
        url = f"ws://127.0.0.1:{self.gateway.port}{path}"
        return await self.run(SOCKET, url, subprotocols, messages, host=host)


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    # Named, so that selenium does not look for one to download.
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver") or "chromedriver")
    )
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, nats_url: str) -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats_url, "browser")
    yield gateway
    gateway.close()


@pytest.fixture
async def sockets(gateway: GatewayProcess, nats_url: str) -> AsyncIterator[Sockets]:
    sockets = Sockets(gateway, nats_url, "browser")
    yield sockets
    await sockets.stop()


@pytest.fixture
def page(driver: webdriver.Chrome, gateway: GatewayProcess) -> Page:
    return Page(driver, gateway)


async def echo(requests: Notes, context: Context) -> Notes:
    async for note in requests:
        yield note


async def test_websocket(sockets: Sockets, page: Page) -> None:
    async def tell(request: Any, context: Context) -> Notes:
        yield Note(text=dict(context.invocation_metadata() or ())["authorization"])
        await context.abort(StatusCode.NOT_FOUND, "no such thing ä")

    await sockets.start(talk=echo, tell=tell)
    assert await page.socket(TALK, [], '{"text": "ä"}', "{}", "") == ["", ['{"text":"ä"}', "{}"], 1000, ""]
    note = list(Note(text="ä").SerializeToString())
    assert await page.socket(TALK, ["natsmesh.v1+proto"], note, [], "") == ["natsmesh.v1+proto", [note, []], 1000, ""]
    subprotocols = ["natsmesh.v1+json", "natsmesh.bearer.a.b-c_d"]
    error = '{"error":{"code":5,"message":"no such thing ä"}}'
    assert await page.socket("/v1/rooms/7/notes", subprotocols) == [
        *("natsmesh.v1+json", ['{"text":"Bearer a.b-c_d"}', error], 4005, "no such thing ä")
    ]


async def test_pages_of_other_origins_get_no_websocket(sockets: Sockets, page: Page) -> None:
    await sockets.start(talk=echo)
    assert await page.socket(TALK, [], "", host="localhost") == ["", [], 1006, ""]


async def test_an_event_source_comes_back_and_says_where_it_was(sockets: Sockets, page: Page) -> None:
    async def tell(request: Any, context: Context) -> Notes:
        last = int(dict(context.invocation_metadata() or ()).get("last-event-id", 0))
        yield Note(text=request.room, number=last + 1)

    await sockets.start(talk=echo, tell=tell)
    assert await page.run(EVENTS, "/v1/rooms/ä/notes", 2) == [
        ["1", {"text": "ä", "number": "1"}],
        ["2", {"text": "ä", "number": "2"}],
    ]

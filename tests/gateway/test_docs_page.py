"""/docs in a real browser: find a method, try it, see the answer. Needs Chromium and its driver."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.gateway.orders import SERVICE, OrdersThread
from tests.gateway.processes import GatewayProcess

pytestmark = pytest.mark.browser

FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000")


class Page:
    """The page in a browser."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, method: str = "") -> None:
        """Open the page anew, at a method."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/docs" + (f"#/{SERVICE}/{method}" if method else ""))
        self.until("nav a")

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def until(self, selector: str, text: str = "") -> str:
        """Wait until something with this text is there; return its whole text."""

        def found(_: webdriver.Chrome) -> str | None:
            # A text of its own, lest one that is empty counts as none.
            return next((f" {shown}" for each in self.all(selector) if text in (shown := each.text)), None)

        # What was found may be gone again: the page is made anew when another method is chosen.
        wait = WebDriverWait(self.driver, 10, poll_frequency=0.02, ignored_exceptions=[StaleElementReferenceException])
        return str(wait.until(found, f"no {selector} with {text!r}")).removeprefix(" ")

    def type(self, selector: str, text: str) -> None:
        field = self.one(selector)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)

    def choose(self, path: str) -> None:
        """Choose one of the ways to call a method."""
        next(each for each in self.all(".ways button") if path in each.text).click()

    def send(self, state: str = "done") -> str:
        """Send, wait for the end, and return what is shown of the answer."""
        self.one("#send").click()
        self.until(f'#result[data-state="{state}"]')
        return self.one("#result").text

    @property
    def curl(self) -> str:
        return self.one("#curl").text


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


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Named, so that selenium does not look for one to download.
    service = webdriver.ChromeService(shutil.which("chromedriver") or "chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def page(driver: webdriver.Chrome, url: str) -> Iterator[Page]:
    """The page; whatever a test does with it, it complains of nothing and asks no other host."""
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    yield Page(driver, url)
    # The browser itself notes each answer that is an error, and so it should.
    complaints = [each for each in driver.get_log("browser") if each["source"] != "network"]
    assert complaints == []
    hosts = set()
    for entry in driver.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            asked = urlsplit(event["params"]["request"]["url"])
            if asked.scheme not in {"data", "blob", "about", "chrome"}:
                hosts.add(asked.netloc)
    assert hosts <= {urlsplit(url).netloc}


def test_what_there_is(page: Page) -> None:
    page.open()
    assert [each.text for each in page.all("nav a span:last-child")] == [
        *("GetOrder", "ListOrders", "CreateOrder", "CancelOrder", "Watch", "Picture", "Attach", "Upload", "Check"),
        *("Count", "Sum", "Chat"),
    ]  # fmt: skip
    assert "Orders keeps what customers have ordered." in page.one("main").text
    assert "Unlike in the old system" not in page.one("main").text
    page.type("#search", "watch stream")
    assert page.all("nav a") == []
    page.type("#search", "v1/watch")
    page.one("nav a").click()
    assert page.until("main h1", "Watch") == "Watch server stream"
    assert "Watch tells of each change of an order, as it happens." in page.one("main").text


def test_a_call_and_its_answer(page: Page) -> None:
    page.open("GetOrder")
    page.type("#field-path-customersId", "ä/1")
    page.type("#field-path-ordersId", "7")
    assert page.curl == f"curl {page.url}/v1/customers/%C3%A4%2F1/orders/7"
    shown = page.send()
    assert "200 OK" in shown
    assert '"name": "customers/ä%2F1/orders/7"' in shown, "a slash within a segment stays what it is"
    assert '"EUR": "1290"' in shown
    page.one("#result details summary").click()
    assert "x-request-id" in page.one("#result").text


def test_a_body_begins_with_an_example(page: Page) -> None:
    page.open("CreateOrder")
    body = json.loads(str(page.one("#body").get_property("value")))
    assert body["items"] == [{"article": "article", "count": 1}]
    assert "name" not in body, "the service gives it"
    Select(page.one("#field-query-validateOnly")).select_by_value("true")
    page.type("#body", '{"items": [{"article": "it\'s tea"}]}')
    shown = page.send()
    assert '"article": "it\'s tea"' in shown
    assert page.curl.replace(" \\\n  ", " ") == (
        f"curl '{page.url}/v1/customers/1/orders?validateOnly=true' -H 'content-type: application/json' "
        """--data-binary '{"items":[{"article":"it'\\''s tea"}]}'"""
    )
    page.type("#body", '{"items": ')
    assert "No valid JSON" in page.one(".problem").text
    assert "No valid JSON" in page.send("failed")


def test_errors_read_well(page: Page) -> None:
    page.open("GetOrder")
    page.type("#field-path-ordersId", "0")
    shown = page.send()
    assert "404 Not Found" in shown
    assert "NOT_FOUND\nthere is no order 'customers/1/orders/0'" in shown
    page.choose(f"/{SERVICE}/GetOrder")
    page.type("#body", '{"name": "/0"}')
    assert "NOT_FOUND\nthere is no order '/0'" in page.send()
    page.open("Check")
    page.type("#body", '{"int32": "x"}')
    shown = page.send()
    assert "INVALID_ARGUMENT" in shown
    assert "fieldViolations" in shown
    page.open("ListOrders")
    page.type("#field-path-customersId", Keys.DELETE)
    assert "customersId is needed" in page.send("failed")


def test_a_stream_is_shown_as_it_comes(page: Page) -> None:
    page.open("Watch")
    page.type("#field-path-name", "endless")
    page.type("#field-query-count", "2")
    assert page.curl.startswith("curl -N ")
    page.one("#send").click()
    page.until("#result", "2 messages")
    page.until("#result", "stream is open")
    assert [each.text.split("\n", 1)[1] for each in page.all(".messages li")] == [
        f'{{\n  "number": {number},\n  "state": "OPEN"\n}}' for number in (1, 2)
    ]
    page.one("#cancel").click()
    page.until('#result[data-state="cancelled"]', "cancelled")
    page.type("#field-path-name", "broken")
    shown = page.send()
    assert "2 messages" in shown
    assert "DATA_LOSS\nthe rest is lost" in shown


def test_streams_without_a_path_of_their_own(page: Page) -> None:
    page.open("Watch")
    page.choose(f"/{SERVICE}/Watch")
    page.type("#body", '{"name": "broken", "count": 3}')
    shown = page.send()
    assert "3 messages" in shown
    assert "DATA_LOSS\nthe rest is lost" in shown
    page.open("Sum")
    page.type("#body", '[{"count": 40}, {"count": 2}]')
    assert '"count": "42"' in page.send()
    page.open("Chat")
    page.type("#body", '[{"count": 40}, {"count": 2}]')
    assert "2 messages" in page.send()
    assert page.curl.startswith("buf curl ")


def test_bytes_both_ways(page: Page, tmp_path: Path) -> None:
    page.open("Picture")
    assert "image/png" in page.send()
    assert page.one("#result img").get_property("naturalWidth") == 32
    page.open("Attach")
    page.type("#field-path-name", "a/b")
    file = tmp_path / "note.bin"
    file.write_bytes(b"x" * 3000)
    page.one("#file").send_keys(str(file))
    assert '"3000"' in page.send()
    assert f"curl -X PUT {page.url}/v1/attachments/a/b" in page.curl
    assert "--data-binary @note.bin" in page.curl
    page.open("Upload")
    page.one("#file").send_keys(str(file))
    assert '"count": "3000"' in page.send()


def test_headers_are_sent_with_every_call(page: Page) -> None:
    page.open("GetOrder")
    page.all(".form details summary")[-1].click()
    page.type("#headers", "x-request-id: mine\nauthorization: Bearer x")
    assert "-H 'authorization: Bearer x'" in page.curl
    page.send()
    page.one("#result details summary").click()
    assert "mine" in page.one("#result table").text
    page.all("nav a")[1].click()
    page.until("main h1", "ListOrders")
    assert "-H 'authorization: Bearer x'" in page.curl


def test_it_cannot_do_more_than_it_should(url: str) -> None:
    answer = httpx.get(f"{url}/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    again = httpx.get(f"{url}/docs", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = httpx.head(f"{url}/docs")
    assert (head.status_code, head.content) == (200, b"")
    folder = Path(__file__).parents[2] / "gateway" / "openapi" / "assets"
    for asset in folder.iterdir():
        if asset.suffix != ".html":
            assert httpx.get(f"{url}/docs/{asset.name}").content == asset.read_bytes()
    assert sum(asset.stat().st_size for asset in folder.iterdir()) < 100_000

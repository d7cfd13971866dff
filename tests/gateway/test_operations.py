"""Durable jobs over REST: asked for while no worker is up, looked at, cancelled; on a real broker."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

import rpc
from gateway.app import Gateway
from gateway.config import Config
from gateway.filters import application
from gateway.filters.auth_options import AuthOptions
from gateway.filters.cors import CorsOptions
from gateway.mesh_services import contracts
from mesh.v1 import job_pb2
from rpc.jetstream.api import JetStream
from rpc.jobs.names import JobName
from rpc.jobs.records import Record, Records
from rpc.subjects import Subjects
from tests.gateway.asgi import Client
from tests.gateway.backends import RawBackend
from tests.gateway.contracts import library
from tests.gateway.credentials import write_keys
from tests.gateway.works import SERVICE, Works, serve

UNKNOWN = f"operations/{SERVICE}/Print/0123456789abcdef0123456789abcdef"


class Site:
    """A broker's mesh on which a worker has been, and gateways that have never seen it."""

    def __init__(self, nats_url: str, prefix: str) -> None:
        self.url = nats_url
        self.prefix = prefix
        self.works = Works("one")
        self._gateways: list[Gateway] = []
        self._servers: list[rpc.Server] = []
        self._connections: list[rpc.Connection] = []

    async def worker(self) -> rpc.Server:
        server = await serve(self.url, self.prefix, self.works)
        self._servers.append(server)
        return server

    async def gateway(self, **options: Any) -> Client:
        config = Config(nats_url=self.url, prefix=self.prefix, **options)
        gateway = Gateway(config)
        await gateway.start()
        self._gateways.append(gateway)
        await asyncio.wait_for(gateway.ready(), 10)
        return Client(application(gateway, config))

    async def backend(self, schema: bytes, service: str) -> RawBackend:
        self._connections.append(await rpc.connect(self.url))
        backend = RawBackend(self._connections[-1], service, schema, prefix=self.prefix)
        await backend.start()
        return backend

    async def close(self) -> None:
        for gateway in self._gateways:
            await gateway.close()
        for server in self._servers:
            await server.stop(None)
        for connection in self._connections:
            await connection.close()


@pytest.fixture
async def site(nats_url: str) -> AsyncIterator[Site]:
    site = Site(nats_url, f"t{secrets.token_hex(4)}")
    await (await site.worker()).stop(None)
    yield site
    await site.close()


@pytest.fixture
async def client(site: Site) -> Client:
    return await site.gateway()


async def ask(client: Client, text: str = "a", *, headers: dict[str, str] | None = None, **fields: str) -> str:
    answer = await client.post("/v1/prints", json={"text": text, **fields}, headers=headers)
    assert answer.status == 200, answer
    name: str = answer.json["name"]
    return name


async def wait(client: Client, name: str, **options: Any) -> Any:
    answer = await client.post(f"/v1/{name}:wait", json=options)
    assert answer.status == 200, answer
    return answer.json


async def until(client: Client, name: str, reached: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(10):
        while not reached(shown := (await client.get(f"/v1/{name}")).json):
            await asyncio.sleep(0.02)
    return shown


# ------------------------------------------------------------------------------------------------------- asking for it


async def test_a_job_is_accepted_while_no_worker_is_up_and_done_by_the_next_one(client: Client, site: Site) -> None:
    name = await ask(client, "hello")
    assert name.startswith(f"operations/{SERVICE}/Print/")
    assert (await client.get(f"/v1/{name}")).json == {"name": name}
    assert await wait(client, name, timeout="0.1s") == {"name": name}
    health = await client.post("/grpc.health.v1.Health/Check", json={"service": SERVICE})
    assert health.json == {"status": "NOT_SERVING"}
    await site.worker()
    done = {
        "name": name,
        "done": True,
        "response": {
            "@type": "type.googleapis.com/works.v1.PrintResponse",
            "printed": "hello",
            "attempt": 1,
            "printer": "one",
        },
    }
    assert await wait(client, name) == done
    assert (await client.get(f"/v1/{name}")).json == done
    assert (await client.request("HEAD", f"/v1/{name}")).status == 200


async def test_a_wait_ends_before_its_call_does(client: Client) -> None:
    name = await ask(client)
    answer = await client.post(f"/v1/{name}:wait", headers={"grpc-timeout": "300m"})
    assert (answer.status, answer.json) == (200, {"name": name})


async def test_requests_of_one_id_are_one_job(client: Client) -> None:
    one = await ask(client, headers={"idempotency-key": "k"})
    assert await ask(client, headers={"Idempotency-Key": "k"}) == one
    assert await ask(client, headers={"idempotency-key": "other"}) != one
    by_field = await ask(client, requestId="r")
    assert await ask(client, requestId="r", headers={"idempotency-key": "k"}) == by_field
    assert len({one, by_field, await ask(client), await ask(client)}) == 4
    answer = await client.post("/v1/prints", json={}, headers={"idempotency-key": "x" * 257})
    assert (answer.status, answer.json["message"]) == (400, "a request id has 256 characters at most")


async def test_a_job_that_was_done_is_answered_as_it_ended(client: Client, site: Site) -> None:
    await site.worker()
    name = await ask(client, requestId="r")
    done = await wait(client, name)
    again = await client.post("/v1/prints", json={"text": "another", "requestId": "r"})
    assert again.json == done


async def test_a_job_for_later(client: Client) -> None:
    name = await ask(client, headers={"natsmesh-run-at": (datetime.now(UTC) + timedelta(days=1)).isoformat()})
    scheduled = await client.get("/v1/operations?filter=state=SCHEDULED")
    assert scheduled.json == {"operations": [{"name": name}]}
    answer = await client.post("/v1/prints", json={}, headers={"natsmesh-run-at": "tomorrow"})
    assert answer.status == 400
    assert "2030-01-31T06:00:00Z" in answer.json["message"]


async def test_a_request_that_does_not_fit_is_no_job(client: Client) -> None:
    answer = await client.post("/v1/prints", json={"text": 1})
    assert answer.status == 400
    assert (await client.get("/v1/operations")).json == {}


async def test_events_are_not_handed_in_over_http(client: Client) -> None:
    for path in ("/v1/printed", f"/{SERVICE}/OnPrinted"):
        assert (await client.post(path, json={"text": "a"})).status == 404


# -------------------------------------------------------------------------------------------------- what became of it


async def test_a_job_that_fails(client: Client, site: Site) -> None:
    await site.worker()
    name = await ask(client, fate="fail")
    assert await wait(client, name) == {"name": name, "done": True, "error": {"code": 3, "message": "no ink"}}


async def test_a_job_that_runs_is_cancelled(client: Client, site: Site) -> None:
    await site.worker()
    name = await ask(client, fate="hold")
    progress = {"@type": "type.googleapis.com/works.v1.PrintProgress", "pages": 1}
    assert await until(client, name, lambda shown: "metadata" in shown) == {"name": name, "metadata": progress}
    assert (await client.request("DELETE", f"/v1/{name}")).status == 400
    answer = await client.post(f"/v1/{name}:cancel")
    assert (answer.status, answer.json) == (200, {})
    await asyncio.wait_for(site.works.cancelled.wait(), 10)
    cancelled = {"code": 1, "message": "the operation was cancelled"}
    assert (await client.get(f"/v1/{name}")).json == {
        "name": name,
        "metadata": progress,
        "done": True,
        "error": cancelled,
    }
    assert (await client.request("DELETE", f"/v1/{name}")).json == {}
    assert (await client.get(f"/v1/{name}")).status == 404


async def test_a_job_that_waits_is_cancelled_and_never_run(client: Client, site: Site) -> None:
    name, other = await ask(client), await ask(client, "other")
    assert (await client.post(f"/v1/{name}:cancel", json={})).status == 200
    await site.worker()
    assert (await wait(client, other))["response"]["printed"] == "other"
    assert (await client.get(f"/v1/{name}")).json["error"]["code"] == 1


async def test_pages_and_filters(client: Client, site: Site) -> None:
    server = await site.worker()
    done = [await ask(client, str(number)) for number in range(3)]
    for name in done:
        await wait(client, name)
    await server.stop(None)
    waiting = [await ask(client, str(number)) for number in range(4)]

    async def pages(query: str) -> list[list[str]]:
        found, token = [], ""
        while True:
            answer = await client.get(f"/v1/operations?{query}&pageToken={token}")
            assert answer.status == 200, answer
            found.append([each["name"] for each in answer.json.get("operations", [])])
            token = answer.json.get("nextPageToken", "")
            if not token:
                return found

    everything = await pages("pageSize=3")
    assert [name for page in everything for name in page] == [*waiting, *done]
    assert max(map(len, everything)) == 3
    for query, expected in {
        "filter=done%3Dtrue": done,
        "filter=done=false": waiting,
        "filter=state=QUEUED": waiting,
        "filter=state!=QUEUED AND method=Print".replace(" ", "%20"): done,
        f"filter=service%3D{SERVICE}&page_size=100": [*waiting, *done],
        "filter=service=some.Other": [],
    }.items():
        assert [name for page in await pages(query) for name in page] == expected, query
    listed = (await client.get("/v1/operations?filter=done=true&pageSize=1")).json["operations"]
    assert [each["response"]["printed"] for each in listed] == ["0"]


async def test_pages_are_bounded_in_bytes_as_well(client: Client, site: Site) -> None:
    await site.worker()
    for name in [await ask(client, "x" * 900_000) for _ in range(4)]:
        await wait(client, name)
    page = (await client.get("/v1/operations?filter=done=true")).json
    assert len(page["operations"]) == 3
    page = (await client.get(f"/v1/operations?filter=done=true&pageToken={page['nextPageToken']}")).json
    assert len(page["operations"]) == 1
    assert "nextPageToken" not in page


WRONG = [
    ("GET", UNKNOWN, 404, "there is no operation"),
    ("POST", f"{UNKNOWN}:cancel", 404, "there is no operation"),
    ("POST", f"{UNKNOWN}:wait", 404, "there is no operation"),
    ("DELETE", UNKNOWN, 404, "there is no operation"),
    ("GET", "operations/some.Other/Print/1", 404, "there is no operation"),
    ("GET", "operations/1", 400, "names no operation"),
    ("GET", f"operations/{SERVICE}/Print/*", 400, "names no operation"),
    ("GET", f"operations/{SERVICE}/Print/%3E", 400, "names no operation"),
    ("GET", f"operations/{SERVICE}%2FPrint/1", 400, "names no operation"),
    ("GET", "operations?filter=state", 400, "filter"),
    ("GET", "operations?filter=state=NO", 400, "filter"),
    ("GET", "operations?pageSize=-1", 400, "page_size"),
    ("GET", "operations?pageToken=*", 400, "page_token"),
    ("GET", "operations?nonsense=1", 400, "nonsense"),
    ("PUT", "operations", 405, "does not take PUT"),
]


async def test_what_is_asked_wrongly(client: Client) -> None:
    for method, path, status, message in WRONG:
        answer = await client.request(method, f"/v1/{path}")
        assert answer.status == status, (method, path, answer)
        assert message in answer.json["message"]


# ------------------------------------------------------------------------------------------------- types nobody knows


def packed(type_name: str, value: bytes = b"") -> dict[str, Any]:
    return {"type_url": f"type.googleapis.com/{type_name}", "value": value}


# A service, what its job answered, and how that is shown.
UNKNOWN_TYPES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (SERVICE, packed("works.v1.Newer", b"\x08\x01"), {"@type": "type.googleapis.com/works.v1.Newer"}),
    (SERVICE, packed("works.v1.PrintResponse", b"\xff"), {"@type": "type.googleapis.com/works.v1.PrintResponse"}),
    ("not.Served", packed("works.v1.PrintResponse"), {"@type": "type.googleapis.com/works.v1.PrintResponse"}),
    (SERVICE, packed("no type"), {"@type": "type.googleapis.com/no type"}),
    (SERVICE, {}, {}),
]


async def write_record(site: Site, name: JobName, **fields: Any) -> None:
    """Write a record as a worker of another version would."""
    connection = await rpc.connect(site.url)
    js = JetStream(connection)
    await js.start()
    job = job_pb2.Job(name=str(name), **fields)
    await Records(js, Subjects(site.prefix)).put(name, Record(job))
    await js.close()
    await connection.close()


async def test_what_has_an_unknown_type_is_shown_by_that(client: Client, site: Site) -> None:
    for number, (service, response, shown) in enumerate(UNKNOWN_TYPES):
        name = JobName(service, "Print", str(number))
        await write_record(site, name, state=job_pb2.Job.STATE_SUCCEEDED, response=response, progress=packed("a.B"))
        expected = {
            "name": str(name),
            "metadata": {"@type": "type.googleapis.com/a.B"},
            "done": True,
            "response": shown,
        }
        assert (await client.get(f"/v1/{name}")).json == expected
        assert expected in (await client.get("/v1/operations")).json["operations"]
        answer = await client.post("/google.longrunning.Operations/GetOperation", json={"name": str(name)})
        assert (answer.status, answer.json) == (200, expected)


async def test_details_of_an_error(client: Client, site: Site) -> None:
    name = JobName(SERVICE, "Print", "1")
    details = [packed("google.rpc.ErrorInfo", b"\x0a\x01x"), packed("works.v1.PrintProgress", b"\x08\x02")]
    await write_record(
        site, name, state=job_pb2.Job.STATE_FAILED, error={"code": 9, "message": "jam", "details": details}
    )
    assert (await client.get(f"/v1/{name}")).json["error"] == {
        "code": 9,
        "message": "jam",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "x"},
            {"@type": "type.googleapis.com/works.v1.PrintProgress", "pages": 2},
        ],
    }


# ------------------------------------------------------------------------------------------------ like any other route


async def test_who_may_call_may_ask_and_only_those(site: Site, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", ada={}, bob={})
    client = await site.gateway(auth=AuthOptions(api_keys=keys), cors=CorsOptions(origins=("https://a.test",)))
    ada, bob = {"x-api-key": "ada"}, {"x-api-key": "bob"}
    assert (await client.get("/v1/operations")).status == 401
    assert (await client.post(f"/v1/{UNKNOWN}:cancel")).status == 401
    name = await ask(client, headers={**ada, "idempotency-key": "1"})
    # What one of them calls "1" is not what the other one does.
    assert await ask(client, headers={**bob, "idempotency-key": "1"}) != name
    assert await ask(client, headers={**ada, "idempotency-key": "1"}) == name
    answer = await client.get(f"/v1/{name}", headers={**ada, "origin": "https://a.test"})
    assert (answer.status, answer.header("access-control-allow-origin")) == (200, "https://a.test")


async def test_it_can_be_switched_off(site: Site) -> None:
    client = await site.gateway(operations=False)
    name = await ask(client)
    assert (await client.get(f"/v1/{name}")).status == 404


async def openapi(client: Client) -> Any:
    return (await client.get("/openapi.json")).json


async def test_it_is_documented_where_there_are_jobs(client: Client, site: Site) -> None:
    document = await openapi(client)
    assert {"/v1/prints", "/v1/operations", "/v1/operations/{operationsId}:wait"} <= {*document["paths"]}
    listing = document["paths"]["/v1/operations"]["get"]
    assert listing["summary"].startswith("Lists operations")
    assert {each["name"] for each in listing["parameters"]} >= {"filter", "pageSize", "pageToken"}
    assert "google.longrunning.Operation" in document["components"]["schemas"]
    job = document["paths"]["/v1/prints"]["post"]
    assert [each["name"] for each in job["parameters"]] == ["Idempotency-Key", "natsmesh-run-at"]
    answer = job["responses"]["200"]["content"]["application/json"]
    properties = answer["schema"]["properties"]
    assert {*properties["response"]["properties"]} == {"@type", "printed", "attempt", "printer"}
    assert {*properties["metadata"]["properties"]} == {"@type", "pages"}
    assert answer["example"]["response"]["@type"] == "type.googleapis.com/works.v1.PrintResponse"
    OpenAPIV31SpecValidator(document).validate()
    components = {"components": document["components"]}
    await site.worker()
    done = await wait(client, await ask(client))
    for shown in (done, answer["example"]):
        Draft202012Validator({**answer["schema"], **components}).validate(shown)
    elsewhere = Site(site.url, f"t{secrets.token_hex(4)}")
    document = await openapi(await elsewhere.gateway())
    await elsewhere.close()
    assert "/v1/operations" not in document["paths"]


async def test_a_back_end_of_that_name_does_not_disturb(client: Client, site: Site) -> None:
    theirs = await site.backend(contracts.operations(), contracts.OPERATIONS)
    name = await ask(client)
    health = "/grpc.health.v1.Health/List"
    async with asyncio.timeout(10):
        # It is known here, by the one that comes after it.
        await site.backend(library(), "library.v1.Library")
        while "library.v1.Library" not in (await client.post(health, json={})).json["statuses"]:
            await asyncio.sleep(0.02)
    assert (await client.get(f"/v1/{name}")).json == {"name": name}
    assert theirs.requests == []

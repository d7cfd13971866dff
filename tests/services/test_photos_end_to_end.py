"""Photos over HTTP while thumbnailers and the broker are killed and replaced: a ledger of all photos."""

import asyncio
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from PIL import Image

import rpc
from mesh.v1 import job_pb2
from rpc.embedded import Broker
from tests.cli.commands import Command, Commands, closing, free_port
from tests.services import images

ROOT = Path(__file__).parents[2]
SIZES = (64, 256, 1024)
READY = r"^\d\d:.* serving"
QUEUE = "operations/photos.v1.Thumbnailer/CreateThumbnails"


def make_photo(number: int) -> tuple[bytes, str, tuple[int, int]]:
    """A photo of its own: the file, its content type, its size in pixels."""
    width, height = 1200 + 10 * number, 900 + 20 * (number % 3)
    noise = Image.effect_noise((width // 8, height // 8), 60).resize((width, height))
    name = "PNG" if number % 4 == 3 else "JPEG"
    picture = Image.merge("RGB", [noise, noise.rotate(180), noise])
    return images.encode(picture, name), f"image/{name.lower()}", (width, height)


class Ledger:
    """Posts photos to the gateway and remembers each that was taken."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._files = [make_photo(number) for number in range(10)]
        self.photos: dict[str, tuple[str, tuple[int, int]]] = {}
        """By id: content type and size in pixels."""
        self.jobs: list[str] = []
        self.repeated = 0
        self.enough = False

    async def post(self) -> None:
        """Post one photo, repeatedly while it is not answered: it is one photo all the same."""
        data, content_type, size = self._files[len(self.photos) % len(self._files)]
        request_id = secrets.token_hex(16)
        limit = time.monotonic() + 20
        while True:
            try:
                answer = await self._client.post(
                    "/v1/photos",
                    params={"request_id": request_id},
                    content=data,
                    headers={"content-type": content_type},
                )
                if answer.status_code == 200:
                    break
                assert answer.status_code in {502, 503, 504}, answer.text
            except httpx.TransportError:
                pass
            assert time.monotonic() < limit
            self.repeated += 1
            await asyncio.sleep(0.1)
        photo = answer.json()
        assert photo["sizes"] == list(SIZES)
        assert photo["id"] not in self.photos
        self.photos[photo["id"]] = content_type, size
        self.jobs.append(photo["operation"])

    async def keep_posting(self) -> None:
        while not self.enough:
            await self.post()
            await asyncio.sleep(0.15)

    async def check_all(self, seconds: float) -> None:
        """Wait until every photo is ready, and look at every thumbnail."""
        limit = time.monotonic() + seconds
        for photo_id, (content_type, size) in self.photos.items():
            while (photo := (await self._client.get(f"/v1/photos/{photo_id}")).json())["state"] == "STATE_PENDING":
                assert time.monotonic() < limit, photo
                await asyncio.sleep(0.05)
            assert photo["state"] == "STATE_READY", photo
            for side in SIZES:
                answer = await self._client.get(f"/v1/photos/{photo_id}/thumbnails/{side}")
                assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
                made = images.decode(answer.content)
                scale = min(side / size[0], side / size[1])
                assert made.size == (round(size[0] * scale), round(size[1] * scale))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker(port=free_port(), store_dir=tmp_path / "broker") as broker:
        yield broker


async def attempts(url: str, operations: list[str]) -> list[int]:
    """How often each of these jobs was begun."""
    connection = await rpc.connect(url)
    records = rpc.KeyValue(connection, "operations")
    found = []
    for operation in operations:
        entry = await records.get(operation.removeprefix("operations/").replace("/", "."))
        assert entry is not None
        found.append(job_pb2.Job.FromString(entry.value).attempt)
    await connection.close()
    return found


async def queued(url: str) -> int:
    """How many jobs are not done."""
    async with rpc.Channel(url) as channel:
        operations = operations_pb2_grpc.OperationsStub(channel)
        request = operations_pb2.ListOperationsRequest(name=QUEUE, filter="done=false", page_size=1000)
        return len((await operations.ListOperations(request, timeout=5)).operations)


@pytest.mark.timeout(120)
async def test_every_photo_gets_all_its_thumbnails(broker: Broker, tmp_path: Path) -> None:
    chance = random.Random(4)
    port = free_port()
    with closing(Commands(ROOT, NATS_URL=broker.url)) as commands:

        def start_thumbnailer(version: str = "1.0.0") -> Command:
            return commands.start("serve", "services.photo_thumbnails", "--service-version", version)

        front, gateway = commands.start("serve", "services.photos"), commands.start("gateway", "--port", str(port))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            await asyncio.to_thread(front.says, READY)
            await asyncio.to_thread(gateway.says, READY)
            ledger = Ledger(client)

            # No thumbnailer runs: photos are taken all the same, and the queue grows.
            for number in range(1, 31):
                await ledger.post()
                if number % 10 == 0:
                    assert await queued(broker.url) == number
            photo = next(iter(ledger.photos))
            waiting = await client.get(f"/v1/photos/{photo}/thumbnails/64")
            assert (waiting.status_code, waiting.json()["message"]) == (
                404,
                "the thumbnail is not ready yet; ask again",
            )

            # Thumbnailers come, and are killed at random while it drains and further photos arrive.
            posting = asyncio.create_task(ledger.keep_posting())
            workers = [start_thumbnailer() for _ in range(2)]
            for _ in range(3):
                victim = workers.pop(chance.randrange(2))
                await asyncio.to_thread(victim.says, READY)
                await asyncio.sleep(chance.uniform(0.1, 0.7))
                victim.kill()
                workers.append(start_thumbnailer())

            # A new version: the new ones first, then the old ones are told to go, and go in good order.
            old, workers = workers, [start_thumbnailer("1.1.0") for _ in range(2)]
            for worker in workers:
                await asyncio.to_thread(worker.says, READY)
            for worker in old:
                assert await asyncio.to_thread(worker.stop, signal.SIGTERM) == 0, worker.output

            # The broker is killed, and comes back with what it had confirmed.
            await asyncio.to_thread(broker.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(broker.start)
            await asyncio.sleep(1)
            ledger.enough = True
            await posting

            await ledger.check_all(seconds=60)
            assert await queued(broker.url) == 0
            begun = await attempts(broker.url, ledger.jobs)
            assert max(begun) > 1, "nobody was killed in the middle of it"
            print(
                len(begun),
                "photos,",
                sum(begun) - len(begun),
                "attempts too many,",
                ledger.repeated,
                "requests too many",
            )

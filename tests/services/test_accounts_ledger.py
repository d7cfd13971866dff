"""Many sign-ups while accounts, mailers, counters and the broker are killed: a ledger of all of them."""

import asyncio
import random
import secrets
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from rpc.embedded import Broker
from tests.cli.commands import free_port
from tests.services.sign_up_mesh import SignUpMesh, sign_up_mesh, until

SERVICES = ("services.accounts", "services.mailer", "services.signups")
AT_ONCE = 4
MAILS_AT_ONCE = 8  # of one mailer: proto/mailer/v1/mailer.proto


async def keep_signing_up(mesh: SignUpMesh, ledger: list[str], enough: asyncio.Event) -> None:
    """Sign people up, one after the other; whoever stands in the ledger has an account."""
    while not enough.is_set():
        address = f"{secrets.token_hex(6)}@example.com"
        await mesh.sign_up(address)
        ledger.append(address)
        await asyncio.sleep(0.1)


@pytest.mark.timeout(120)
async def test_everybody_gets_one_account_and_one_mail(tmp_path: Path) -> None:
    chance = random.Random(5)
    victims = ["services.accounts", "services.mailer"] * 2 + ["services.signups", "broker"]
    chance.shuffle(victims)
    async with (
        Broker(port=free_port(), store_dir=tmp_path / "broker") as broker,
        sign_up_mesh(broker.url, f"t{secrets.token_hex(4)}", *SERVICES) as mesh,
    ):
        running = {target: await mesh.serve(target) for target in SERVICES}
        await until(mesh.accounts_are_served)
        mesh.server.replies["RCPT"].extend(chance.choices(["250 OK", "451 later"], weights=[9, 1], k=10_000))
        mesh.server.slowness = 0.2  # so that mailers are killed when a mail has arrived, and nobody has said so
        ledger: list[str] = []
        enough = asyncio.Event()
        posting = [asyncio.create_task(keep_signing_up(mesh, ledger, enough)) for _ in range(AT_ONCE)]
        for victim in victims:
            await asyncio.sleep(chance.uniform(0.3, 0.7))
            if victim == "broker":
                await asyncio.to_thread(broker.kill)
                await asyncio.to_thread(broker.start)
            else:
                running[victim].pop().kill()
                running[victim] += await mesh.serve(victim)
        enough.set()
        await asyncio.gather(*posting)

        await until(lambda: mesh.mails_done(len(ledger)), "all jobs have ended", seconds=60)
        assert [job for job in await mesh.jobs() if job.HasField("error")] == []
        await until(lambda: mesh.has_counted(len(ledger)), "all are counted")
        assert await mesh.counted() == len(ledger)

        arrived = Counter(mesh.recipients())
        assert set(arrived) == set(ledger)
        again = arrived.total() - len(ledger)
        assert again <= MAILS_AT_ONCE * victims.count("services.mailer")
        ids = defaultdict[str, set[str]](set)
        for mail in mesh.server.mails:
            ids[mail.recipients[0]].add(mail.message["Message-ID"])
        assert {len(each) for each in ids.values()} == {1}
        print(f"{len(ledger)} sign-ups, {arrived.total()} mails, {again} of them a second time; killed: {victims}")

"""Accounts and mailers that are killed at chosen points: what is sent once, and what twice."""

import asyncio
import secrets
import signal
import uuid
from collections import Counter

import pytest

from tests.services.halting import AFTER_NOTE, BEFORE_NOTE, QUEUED, STORED
from tests.services.mail_server import HOLD
from tests.services.sign_up_mesh import sign_up_mesh, until

pytestmark = pytest.mark.timeout(120)

DATA = "data@example.com"


@pytest.fixture
def prefix() -> str:
    """A mesh of its own for each test: they share a broker."""
    return f"t{secrets.token_hex(4)}"


async def test_a_mailer_is_killed_around_the_handing_over(nats_url: str, prefix: str) -> None:
    """Both sides of the window that SMTP leaves open.

    Before the server's word: the mail is sent anew, and arrives once. After our note: it is not sent again. Between the
    two: it is sent again, and both have one Message-ID.
    """
    async with sign_up_mesh(nats_url, prefix, "services.accounts") as mesh:
        server = mesh.server
        server.stall(DATA)
        (mailer,) = await mesh.serve("tests.services.halting:HaltingMailer")
        for address in (DATA, BEFORE_NOTE, AFTER_NOTE):
            await mesh.sign_up(address)
        await asyncio.to_thread(mailer.says, "halted before the note")
        await asyncio.to_thread(mailer.says, "halted after the note")
        await until(server.stalling.is_set, "the server has the whole mail, and says nothing")
        assert Counter(mesh.recipients()) == {BEFORE_NOTE: 1, AFTER_NOTE: 1}
        assert await mesh.jobs(done=True) == []
        await asyncio.to_thread(mailer.kill)

        await mesh.serve("services.mailer")
        await until(lambda: mesh.mails_done(3), "all jobs have ended")
        assert Counter(mesh.recipients()) == {DATA: 1, BEFORE_NOTE: 2, AFTER_NOTE: 1}
        assert [job for job in await mesh.jobs() if job.HasField("error")] == []
        ids = {mail.recipients[0]: set[str]() for mail in server.mails}
        for mail in server.mails:
            ids[mail.recipients[0]].add(mail.message["Message-ID"])
        assert {len(each) for each in ids.values()} == {1}
        assert len(set.union(*ids.values())) == 3


async def test_a_mailer_that_wakes_up_sees_that_another_one_was_faster(nats_url: str, prefix: str) -> None:
    """It was stopped while it talked to the mail server, so long that the broker gave its mail to another one."""
    async with sign_up_mesh(nats_url, prefix, "services.accounts") as mesh:
        server = mesh.server
        server.replies["RCPT"].append(HOLD)
        (sleeper,) = await mesh.serve("services.mailer")
        await mesh.sign_up(DATA)
        await until(server.stalling.is_set, "the mailer waits for the server")
        sleeper.process.send_signal(signal.SIGSTOP)
        await mesh.serve("services.mailer")
        await until(lambda: mesh.mails_done(1), "the other one has sent it")
        server.release()
        sleeper.process.send_signal(signal.SIGCONT)
        await until(lambda: not server.stalling.is_set())
        assert await asyncio.to_thread(sleeper.stop) == 0, sleeper.output  # it ends what it does
        assert len(server.attempts) == 2
        assert mesh.recipients() == [DATA]


async def test_accounts_are_killed_in_the_middle_of_a_sign_up(nats_url: str, prefix: str) -> None:
    """The sign-up completes by itself: the account is there, the mail comes, and whoever repeats it is told so."""
    async with sign_up_mesh(nats_url, prefix, "services.mailer", "services.signups") as mesh:
        (accounts,) = await mesh.serve("tests.services.halting:HaltingAccounts")
        await until(mesh.accounts_are_served)
        ids = {address: str(uuid.uuid4()) for address in (QUEUED, STORED)}
        posts = [asyncio.create_task(mesh.post(address, requestId=ids[address])) for address in ids]
        await asyncio.to_thread(accounts.says, "halted before the account is stored")
        await asyncio.to_thread(accounts.says, "halted after the account is stored")
        await asyncio.to_thread(accounts.kill)
        assert {answer.status_code for answer in await asyncio.gather(*posts)} == {503}
        await mesh.serve("services.accounts")
        await until(lambda: mesh.mails_done(2), "both mails are sent")
        assert Counter(mesh.recipients()) == {QUEUED: 1, STORED: 1}
        for address, request_id in ids.items():
            assert (await mesh.post(address, requestId=request_id)).status_code == 200
            assert (await mesh.post(address)).status_code == 409
        await until(lambda: mesh.has_counted(2))
        assert await mesh.counted() == 2

"""Sign-ups over HTTP, as their users meet them: what is down, what refuses, and what becomes of the welcome mail."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest

from mailer.v1 import mailer_pb2
from mesh.v1 import job_pb2
from rpc.jetstream.api import JetStream
from rpc.subjects import Subjects
from tests.services.sign_up_mesh import SignUpMesh, sign_up_mesh, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def mesh(nats_url: str) -> AsyncIterator[SignUpMesh]:
    """A gateway and the accounts; all else is down."""
    async with sign_up_mesh(nats_url, f"t{secrets.token_hex(4)}", "services.accounts") as mesh:
        await until(mesh.accounts_are_served)
        yield mesh


async def dead_letter(mesh: SignUpMesh, job_id: str) -> tuple[bytes, dict[str, str]]:
    """The payload and headers of a job's dead letter."""
    js, subjects = JetStream(mesh.connection), Subjects(mesh.prefix)
    await js.start()
    subject = subjects.dead_letter("jobs", "mailer.v1.Mailer", "SendWelcomeMail", job_id)
    stored = await js.last(subjects.jetstream("DEAD-LETTERS"), subject)
    await js.close()
    assert stored is not None
    return stored.data, dict(stored.headers)


async def waits(mesh: SignUpMesh) -> bool:
    """Whether there is one job, and its mail could not be handed over yet."""
    waiting = await mesh.jobs(done=False)
    records = [await mesh.record(operation) for operation in waiting]
    return [record.state for record in records] == [job_pb2.Job.STATE_RETRYING]


async def test_all_that_follows_from_a_sign_up(mesh: SignUpMesh) -> None:
    # Neither mailer nor counter runs. The answer comes at once, and both hear of it when they come.
    started = time.monotonic()
    answer = await mesh.post("Ada@Example.com", displayName="Ada")
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - started < 3
    account = answer.json()
    assert (account["email"], account["displayName"]) == ("Ada@example.com", "Ada")
    again = await mesh.post("ada@example.com")
    assert (again.status_code, again.json()["message"]) == (409, "email: there is an account with this address")
    assert account["id"] not in again.text
    assert (await mesh.post("ada")).status_code == 400

    # A mail server that puts us off twice: the pauses grow.
    server = mesh.server
    server.replies["RCPT"].extend(["451 4.7.1 Greylisted", "450 4.2.0 Mailbox busy"])
    await mesh.serve("services.mailer", "services.signups")
    await until(lambda: server.mails, "the mail arrives")
    first, second, third = server.attempts
    assert second - first > 0.75  # 1 s, a fifth more or less, and what a busy machine adds
    assert third - second > 2.35  # three times as long
    assert mesh.recipients() == ["Ada@example.com"]
    (sent,) = server.mails
    assert sent.message["To"] == "Ada <Ada@example.com>"
    assert sent.message.get_content().startswith("Hello Ada,")
    await until(lambda: mesh.has_counted(1), "it is counted")

    # A server that is not there, and comes back.
    server.stop()
    await mesh.sign_up("grace@example.com")

    await until(lambda: waits(mesh), "the job waits")
    server.start()

    # A server that does not want a mail at all, meanwhile: nobody waits for that one.
    server.replies["RCPT"].append("550 5.1.1 No such user")
    attempts = len(server.attempts)
    await mesh.sign_up("nobody@example.com")
    await until(lambda: mesh.mails_done(2), "the mail is refused")
    await until(lambda: "grace@example.com" in mesh.recipients(), "the mail arrives")
    await until(lambda: mesh.mails_done(3), "all jobs have ended")
    assert mesh.recipients() == ["Ada@example.com", "grace@example.com"]
    assert len(server.attempts) == attempts + 2
    (refused,) = [job for job in await mesh.jobs() if job.HasField("error")]
    assert (refused.error.code, "550 5.1.1 No such user" in refused.error.message) == (3, True)
    data, headers = await dead_letter(mesh, refused.name.rpartition("/")[2])
    assert mailer_pb2.SendWelcomeMailRequest.FromString(data).email == "nobody@example.com"
    assert headers["natsmesh-error-code"] == "INVALID_ARGUMENT"
    assert "550 5.1.1 No such user" in headers["natsmesh-error-message"]
    assert headers["natsmesh-attempts"] == "1"
    await until(lambda: mesh.has_counted(3), "they are counted")


async def test_mailers_that_come_and_go(mesh: SignUpMesh) -> None:
    """The first one leaves in good order while its mail waits for the server; the second one sends it."""
    mesh.server.stop()
    (mailer,) = await mesh.serve("services.mailer")
    await mesh.sign_up("ada@example.com")
    await until(lambda: waits(mesh), "the job waits")
    assert await asyncio.to_thread(mailer.stop) == 0, mailer.output
    mesh.server.start()
    await mesh.serve("services.mailer")
    await until(lambda: mesh.mails_done(1), "the mail is sent")
    assert mesh.recipients() == ["ada@example.com"]

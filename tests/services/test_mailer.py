"""The mailer's job: one mail for each account, handed over to a real mail server."""

import datetime as dt
import logging
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2

import rpc
from accounts.v1 import accounts_pb2
from mailer.v1 import mailer_pb2
from services import mailer
from services.mailer import Mailer
from tests.services.mail_server import TAKE_AND_CUT, MailServer
from tests.services.signed_up import Mesh, serving
from tests.waiting import until


@pytest.fixture
def server() -> Iterator[MailServer]:
    server = MailServer().start()
    yield server
    server.stop()


@pytest.fixture
async def mesh(nats_url: str, server: MailServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    monkeypatch.setenv("NATSMESH_PREFIX", f"t{secrets.token_hex(4)}")
    monkeypatch.setenv("SMTP_URL", server.url)
    monkeypatch.setenv("MAIL_FROM", "Acme <hello@example.org>")
    async with serving(nats_url, Mailer()) as mesh:
        yield mesh


async def send(mesh: Mesh, email: str = "ada@example.com", **fields: str) -> operations_pb2.Operation:
    """Have a mail sent, and return the job's end."""
    request = mailer_pb2.SendWelcomeMailRequest(email=email, **fields)
    return await mesh.ended(await mesh.mailer.SendWelcomeMail(request, timeout=5))


def response(operation: operations_pb2.Operation) -> mailer_pb2.SendWelcomeMailResponse:
    found = mailer_pb2.SendWelcomeMailResponse()
    assert operation.response.Unpack(found), operation
    return found


async def test_a_mail_is_sent(mesh: Mesh, server: MailServer) -> None:
    operation = await send(mesh, display_name="Ada")
    (sent,) = server.mails
    job_id = operation.name.rpartition("/")[2]
    assert sent.message["Message-ID"] == f"<{job_id}@example.org>"
    assert (sent.sender, sent.recipients) == ("hello@example.org", ["ada@example.com"])
    found = response(operation)
    assert (found.message_id, found.reply) == (f"<{job_id}@example.org>", "2.0.0 OK queued as 1")
    assert abs(found.send_time.ToDatetime(dt.UTC) - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=10)


async def test_an_event_that_comes_twice_is_one_mail(mesh: Mesh, server: MailServer) -> None:
    account = secrets.token_hex(16)
    async with rpc.Publisher(mesh.connection) as publisher:
        for address in ("ada@example.com", "ada@example.com", "grace@example.com"):
            ids = account if address.startswith("ada") else secrets.token_hex(16)
            await publisher.publish(accounts_pb2.UserSignedUp(account_id=ids, email=address))

    async def everybody_is_served() -> bool:
        done = await mesh.jobs("mailer.v1.Mailer/SendWelcomeMail", done=True)
        return len(done) == 2 and len(server.mails) == 2

    await until(everybody_is_served)
    assert sorted(sent.recipients for sent in server.mails) == [["ada@example.com"], ["grace@example.com"]]


async def test_what_was_noted_is_not_sent_again(mesh: Mesh, server: MailServer) -> None:
    """The job was not acknowledged, although the mail was sent: its worker was killed between the two."""
    server.stop()  # so that the job has to come back; the mail server need not even be there then
    order = mailer_pb2.SendWelcomeMailRequest(email="ada@example.com")
    operation = await mesh.mailer.SendWelcomeMail(order, timeout=5)
    noted = mailer_pb2.SendWelcomeMailResponse(message_id="<1@example.org>", reply="OK queued as 17")
    notes = rpc.KeyValue(mesh.connection, f"{os.environ['NATSMESH_PREFIX']}_mails-sent")
    await notes.create(operation.name.rpartition("/")[2], noted.SerializeToString())
    assert response(await mesh.ended(operation)) == noted
    assert server.mails == []


async def test_another_process_has_sent_it_meanwhile(
    mesh: Mesh, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process was stopped for a while, between its first look and the mail."""
    noted = mailer_pb2.SendWelcomeMailResponse(message_id="<1@example.org>", reply="by another one")
    looks: list[str] = []

    async def find_note(self: Mailer, job_id: str) -> mailer_pb2.SendWelcomeMailResponse | None:
        looks.append(job_id)
        return noted if len(looks) > 1 else None

    monkeypatch.setattr(Mailer, "_find_note", find_note)
    assert response(await send(mesh)) == noted
    assert len(server.attempts) == 1
    assert server.mails == []


async def test_a_note_that_cannot_be_taken_at_once(
    mesh: Mesh, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is away for a moment, just when the mail was sent: it must not be sent again for that."""
    create, failures = rpc.KeyValue.create, 3

    async def fail_first(bucket: rpc.KeyValue, key: str, value: bytes) -> int:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ConnectionError("not connected")
        return await create(bucket, key, value)

    monkeypatch.setattr(rpc.KeyValue, "create", fail_first)
    assert response(await send(mesh)).reply == "2.0.0 OK queued as 1"
    assert failures < 0
    assert len(server.mails) == 1


async def test_a_note_that_cannot_be_taken_at_all(
    mesh: Mesh, server: MailServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(bucket: rpc.KeyValue, key: str, value: bytes) -> int:
        raise ConnectionError("not connected")

    monkeypatch.setattr(mailer, "NOTE_SECONDS", 0.3)
    monkeypatch.setattr(rpc.KeyValue, "create", fail)
    assert response(await send(mesh)).reply == "2.0.0 OK queued as 1"
    assert "could not be noted: it may be sent again" in caplog.text


async def test_the_bucket_is_away_before_the_mail(
    mesh: Mesh, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot look whether the mail was sent does not send it."""
    get, failures = rpc.KeyValue.get, 1

    async def fail_first(bucket: rpc.KeyValue, key: str) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ConnectionError("not connected")
        return await get(bucket, key)

    monkeypatch.setattr(rpc.KeyValue, "get", fail_first)
    operation = await send(mesh)
    assert response(operation).reply == "2.0.0 OK queued as 1"
    assert len(server.attempts) == 1


async def test_the_word_of_the_server_is_lost(mesh: Mesh, server: MailServer) -> None:
    """Nobody can know then whether it has the mail. It is sent again, and both are the same to whoever looks."""
    server.replies["DATA"].append(TAKE_AND_CUT)
    await send(mesh)
    first, second = server.mails
    assert first.message["Message-ID"] == second.message["Message-ID"]
    assert first.message.get_content() == second.message.get_content()


@pytest.mark.parametrize(
    ("replies", "code"),
    [
        ({"RCPT": "550 5.1.1 No such user"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"DATA": "554 5.7.1 Spam"}, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_a_refusal_for_good_is_not_tried_again(
    mesh: Mesh, server: MailServer, replies: dict[str, str], code: grpc.StatusCode
) -> None:
    for command, reply in replies.items():
        server.replies[command].append(reply)
    operation = await send(mesh)
    assert operation.error.code == code.value[0]
    assert all(reply in operation.error.message for reply in replies.values())
    assert (len(server.attempts), server.mails) == (1, [])


@pytest.mark.parametrize(
    ("email", "name"), [("nobody", ""), ("ada@example.com", "Ada\r\nBcc: eve@example.com"), ("a@example.com\n", "")]
)
async def test_what_no_mail_can_be_made_of(mesh: Mesh, server: MailServer, email: str, name: str) -> None:
    operation = await send(mesh, email, display_name=name)
    assert operation.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert server.attempts == []


async def test_without_a_server_mails_are_shown_in_the_log(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NATSMESH_PREFIX", f"t{secrets.token_hex(4)}")
    for name in ("SMTP_URL", "MAIL_FROM"):
        monkeypatch.delenv(name, raising=False)
    with caplog.at_level(logging.INFO, "services.mailer"):
        async with serving(nats_url, Mailer()) as mesh:
            assert response(await send(mesh, display_name="Ada")).reply == "not sent: SMTP_URL is not set"
    assert "To: Ada <ada@example.com>" in caplog.text
    assert "Hello Ada," in caplog.text

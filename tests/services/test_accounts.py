"""Sign-ups: one account an address, and one event an account, whatever happens in between."""

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator

import grpc
import pytest

import rpc
from accounts.v1 import accounts_pb2
from tests.services.signed_up import Mesh, serving
from tests.waiting import until

TAKEN = (grpc.StatusCode.ALREADY_EXISTS, "email: there is an account with this address")


@pytest.fixture
async def mesh(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    """All three services; mails are only shown in the log."""
    monkeypatch.setenv("NATSMESH_PREFIX", f"t{secrets.token_hex(4)}")
    monkeypatch.delenv("SMTP_URL", raising=False)
    async with serving(nats_url) as mesh:
        yield mesh


async def complete(mesh: Mesh, email: str, request_id: str) -> accounts_pb2.CompleteSignUpResponse:
    """What the job does that a CreateAccount has left behind which was killed after its first step."""
    sign_up = accounts_pb2.CreateAccountRequest(email=email, request_id=request_id)
    order = accounts_pb2.CompleteSignUpRequest(sign_up=sign_up, request_id=request_id)
    operation = await mesh.ended(await mesh.accounts.CompleteSignUp(order, timeout=5))
    response = accounts_pb2.CompleteSignUpResponse()
    assert operation.response.Unpack(response), operation
    return response


async def test_a_sign_up_is_answered_with_the_account(mesh: Mesh) -> None:
    account = await mesh.sign_up("Ada@Example.com", " Ada ")
    assert (account.email, account.display_name) == ("Ada@example.com", "Ada")
    assert len(account.id) == 32
    assert account.create_time.seconds > 1_700_000_000
    await until(lambda: mesh.counts(1))


async def test_an_address_signs_up_once(mesh: Mesh) -> None:
    account = await mesh.sign_up("ada@example.com")
    for again in ("ada@example.com", "ADA@EXAMPLE.COM", "ada@Example.com"):
        code, said = await mesh.refusal(again, "Eve")
        assert (code, said) == TAKEN
        assert account.id not in said
    await until(lambda: mesh.counts(1))
    await mesh.sign_up("ada+2@example.com")
    await until(lambda: mesh.counts(2))


async def test_of_many_at_once_one_gets_the_address(mesh: Mesh) -> None:
    answers = await asyncio.gather(*(mesh.sign_up("ada@example.com") for _ in range(20)), return_exceptions=True)
    accounts = [answer for answer in answers if isinstance(answer, accounts_pb2.Account)]
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert (len(accounts), len(refused)) == (1, 19)
    assert {error.code() for error in refused} == {grpc.StatusCode.ALREADY_EXISTS}
    await mesh.sign_up("grace@example.com")
    await until(lambda: mesh.counts(2))
    await until(lambda: _all_done(mesh))
    assert await mesh.counted() == 2


async def _all_done(mesh: Mesh) -> bool:
    return await mesh.jobs("accounts.v1.Accounts/CompleteSignUp", done=False) == []


async def test_a_sign_up_may_be_repeated_by_whoever_knows_its_id(mesh: Mesh) -> None:
    request_id = str(uuid.uuid4())
    account = await mesh.sign_up("ada@example.com", "Ada", request_id)
    assert await mesh.sign_up("ada@example.com", "Ada", request_id.upper()) == account
    assert await mesh.sign_up("ADA@example.com", "Somebody", request_id) == account
    assert await mesh.refusal("ada@example.com", "Ada", str(uuid.uuid4())) == TAKEN
    # The same id with another address is another sign-up.
    assert (await mesh.sign_up("grace@example.com", "Grace", request_id)).id != account.id
    await until(lambda: mesh.counts(2))
    await until(lambda: _all_done(mesh))
    assert await mesh.counted() == 2


@pytest.mark.parametrize(
    ("email", "name", "request_id", "said"),
    [
        ("", "", "", "email: it is missing"),
        ("ada", "", "", "email: An email address must have an @-sign"),
        ("ada@example.com\r\nBcc: eve@example.com", "", "", "email: "),
        ("ada@example.com", "Ada\r\nBcc: eve@example.com", "", "display_name: it has characters"),
        ("ada@example.com", "x" * 65, "", "display_name: it is longer"),
        ("ada@example.com", "", "1", "request_id: it is not a UUID"),
    ],
)
async def test_what_cannot_be(mesh: Mesh, email: str, name: str, request_id: str, said: str) -> None:
    code, text = await mesh.refusal(email, name, request_id)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith(said)
    assert await mesh.jobs("accounts.v1.Accounts/CompleteSignUp", done=False) == []


async def test_a_sign_up_that_was_cut_short_completes_by_itself(mesh: Mesh) -> None:
    """CreateAccount was killed after it had put the job into the queue: the caller saw no answer."""
    request_id = str(uuid.uuid4())
    response = await complete(mesh, "ada@example.com", request_id)
    assert response.account_id
    await until(lambda: mesh.counts(1))
    assert await mesh.refusal("ada@example.com") == TAKEN
    assert (await mesh.sign_up("ada@example.com", "", request_id)).id == response.account_id


async def test_the_job_of_a_sign_up_that_came_second_tells_nobody(mesh: Mesh) -> None:
    await mesh.sign_up("ada@example.com")
    assert not (await complete(mesh, "ada@example.com", str(uuid.uuid4()))).account_id
    await mesh.sign_up("grace@example.com")
    await until(lambda: mesh.counts(2))
    assert await mesh.counted() == 2


async def test_an_event_that_could_not_be_published_is_published_later(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, failures = rpc.publish, 1

    async def fail_first(event: object, id: str = "") -> None:  # noqa: A002 - its name
        nonlocal failures
        if failures:
            failures -= 1
            raise rpc.StatusError(grpc.StatusCode.UNAVAILABLE, "no answer from JetStream")
        await publish(event, id=id)

    monkeypatch.setattr(rpc, "publish", fail_first)
    account = await mesh.sign_up("ada@example.com")
    assert account.id
    assert await mesh.counted() == 0
    await until(lambda: mesh.counts(1))
    (operation,) = await mesh.jobs("accounts.v1.Accounts/CompleteSignUp", done=True)
    assert not operation.HasField("error")


async def test_the_job_trusts_nobody(mesh: Mesh) -> None:
    sign_up = accounts_pb2.CreateAccountRequest(email="nobody", request_id=str(uuid.uuid4()))
    order = accounts_pb2.CompleteSignUpRequest(sign_up=sign_up)
    operation = await mesh.ended(await mesh.accounts.CompleteSignUp(order, timeout=5))
    assert operation.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]

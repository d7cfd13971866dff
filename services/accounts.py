"""Accounts: one for each e-mail address, and an event that tells of it.

Two things have to happen, the account stored and the event published, and a crash between them must not leave one
without the other. Publishing first could tell of an account that nobody gets, as the address is taken; storing first
could lose the event. So a durable job that does both is there before either (others call it an outbox):

1. `CreateAccount` puts the job `CompleteSignUp` into the queue. If that fails nothing has happened: UNAVAILABLE.
2. It stores the account, and answers.
3. The job stores the account if 2 was not reached, and publishes `UserSignedUp` until the broker has it.

The account's id follows from the address and the request id, so all who store it store the same. Who comes second to an
address finds another id there: ALREADY_EXISTS, and its job, if there is one by then, finds nothing to do.
"""

import hashlib
import uuid

import grpc

import rpc
from accounts.v1 import accounts_pb2, accounts_pb2_grpc
from services.addresses import check_address, check_name
from services.buckets import open_bucket

ENQUEUE_SECONDS = 5.0


class Accounts(accounts_pb2_grpc.AccountsServicer):
    """Keeps accounts in a bucket, each under the hash of its address: what is created twice there fails."""

    def __init__(self) -> None:
        self._jobs: accounts_pb2_grpc.AccountsAsyncStub | None = None
        self._bucket: rpc.KeyValue | None = None

    async def CreateAccount(
        self, request: accounts_pb2.CreateAccountRequest, context: grpc.aio.ServicerContext
    ) -> accounts_pb2.Account:
        sign_up = accounts_pb2.CreateAccountRequest()
        sign_up.CopyFrom(request)
        sign_up.request_id = request.request_id or str(uuid.uuid4())
        try:
            account = account_of(sign_up)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        try:
            stored = await self._find(account.email)
            if stored is None:
                await self._enqueue(accounts_pb2.CompleteSignUpRequest(sign_up=sign_up, request_id=account.id))
                stored = await self._store(account)
        except (ConnectionError, grpc.aio.AioRpcError) as error:
            reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"the sign-up may not be complete, repeat it: {reason}")
        if stored.id != account.id:
            # No word about that account: whoever asks may be anybody.
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "email: there is an account with this address")
        return stored

    async def CompleteSignUp(
        self, request: accounts_pb2.CompleteSignUpRequest, context: rpc.JobContext
    ) -> accounts_pb2.CompleteSignUpResponse:
        try:
            # Anybody may call this method, so nothing in the request is more than a wish.
            account = account_of(request.sign_up)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        try:
            stored = await self._find(account.email) or await self._store(account)
            if stored.id != account.id:
                return accounts_pb2.CompleteSignUpResponse()
            event = accounts_pb2.UserSignedUp(
                account_id=stored.id,
                email=stored.email,
                display_name=stored.display_name,
                create_time=stored.create_time,
            )
            await rpc.publish(event, id=stored.id)
        except ConnectionError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return accounts_pb2.CompleteSignUpResponse(account_id=stored.id)

    async def _find(self, email: str) -> accounts_pb2.Account | None:
        """The account of an address. Raises ConnectionError when that cannot be found out."""
        entry = await self._accounts().get(key_of(email))
        return None if entry is None else accounts_pb2.Account.FromString(entry.value)

    async def _store(self, account: accounts_pb2.Account) -> accounts_pb2.Account:
        """Store an account, and return the one that its address now has: another one, if that was there before."""
        try:
            await self._accounts().create(key_of(account.email), account.SerializeToString())
        except rpc.RevisionError:
            return await self._find(account.email) or account
        return account

    async def _enqueue(self, request: accounts_pb2.CompleteSignUpRequest) -> None:
        if self._jobs is None:
            self._jobs = accounts_pb2_grpc.AccountsStub(rpc.Channel(rpc.current_connection()))
        await self._jobs.CompleteSignUp(request, timeout=ENQUEUE_SECONDS)

    def _accounts(self) -> rpc.KeyValue:
        if self._bucket is None:
            self._bucket = open_bucket("accounts")
        return self._bucket


def account_of(sign_up: accounts_pb2.CreateAccountRequest) -> accounts_pb2.Account:
    """The account that a sign-up asks for, made now. Raises ValueError that says what to change."""
    try:
        request_id = uuid.UUID(sign_up.request_id)
    except ValueError:
        raise ValueError("request_id: it is not a UUID; make a random one, or leave it out") from None
    email, name = check_address(sign_up.email), check_name(sign_up.display_name)
    account_id = hashlib.sha256(f"{request_id.hex} {email.lower()}".encode()).hexdigest()[:32]
    account = accounts_pb2.Account(id=account_id, email=email, display_name=name)
    account.create_time.GetCurrentTime()
    return account


def key_of(email: str) -> str:
    """Where the account of an address is kept: subjects of a broker are no place for addresses."""
    return hashlib.sha256(email.lower().encode()).hexdigest()

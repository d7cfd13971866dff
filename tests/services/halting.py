"""The services as they are, save that they halt at a point, for some people: so that a test can kill them there.

`natsmesh serve tests.services.halting:HaltingMailer`.
"""

import asyncio
from email.message import EmailMessage
from typing import Any, NoReturn

from accounts.v1 import accounts_pb2
from mailer.v1 import mailer_pb2
from services.accounts import Accounts
from services.mailer import Mailer

BEFORE_NOTE = "before-note@example.com"
AFTER_NOTE = "after-note@example.com"
QUEUED = "queued@example.com"
STORED = "stored@example.com"


async def halt(where: str) -> NoReturn:
    print(f"halted {where}", flush=True)
    await asyncio.Event().wait()
    raise AssertionError


class HaltingMailer(Mailer):
    """Halts when the mail server has taken a mail over: before that is noted, or after."""

    async def _take_note(self, job_id: str, mail: EmailMessage, reply: str) -> mailer_pb2.SendWelcomeMailResponse:
        if BEFORE_NOTE in mail["To"]:
            await halt("before the note")
        note = await super()._take_note(job_id, mail, reply)
        if AFTER_NOTE in mail["To"]:
            await halt("after the note")
        return note


class HaltingAccounts(Accounts):
    """Halts in CreateAccount when the job is in the queue: before the account is stored, or after. It does no jobs."""

    async def _enqueue(self, request: accounts_pb2.CompleteSignUpRequest) -> None:
        await super()._enqueue(request)
        if request.sign_up.email == QUEUED:
            await halt("before the account is stored")

    async def CreateAccount(self, request: accounts_pb2.CreateAccountRequest, context: Any) -> accounts_pb2.Account:
        account = await super().CreateAccount(request, context)
        if account.email == STORED:
            await halt("after the account is stored")
        return account

    async def CompleteSignUp(
        self, request: accounts_pb2.CompleteSignUpRequest, context: Any
    ) -> accounts_pb2.CompleteSignUpResponse:
        await halt("in the job")
        return await super().CompleteSignUp(request, context)

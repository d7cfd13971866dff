"""Welcome mails, over SMTP: once each, as far as SMTP allows.

`SMTP_URL` says where mails are handed over (see `SmtpServer.from_url`), `MAIL_FROM` who writes them. Without `SMTP_URL`
mails are not sent, but shown in the log.

SMTP and the queue know nothing of each other: no transaction holds "the server has the mail" and "the job is done"
together. Whoever wants each mail to arrive must send one again that may not have arrived, so it may arrive twice. What
can be done is to make that rare, and the copies recognisable:

- As soon as the server has taken the mail over, that is noted in a bucket; before a mail is sent, the note is looked
  for. So a mail is sent twice only if the mailer is killed between the server's word and the note, which is one write
  later, if the broker is away then for longer than `NOTE_SECONDS`, or if the server's word itself is lost.
- All copies have one Message-ID, made of the job's id, by which mail servers recognise them (RFC 7352).
"""

import asyncio
import datetime as dt
import logging
import os
from email.headerregistry import Address
from email.message import EmailMessage

import grpc
from google.protobuf import empty_pb2
from google.protobuf.timestamp_pb2 import Timestamp

import rpc
from accounts.v1 import accounts_pb2
from mailer.v1 import mailer_pb2, mailer_pb2_grpc
from services.addresses import check_address, check_name
from services.buckets import open_bucket
from services.smtp import SmtpError, SmtpServer
from services.welcome_mail import sender_address, welcome_mail

logger = logging.getLogger(__name__)

ENQUEUE_SECONDS = 10.0

NOTES_KEPT = 30 * 86400.0
"""Seconds that it is known which mails were sent: longer than any job lives."""

NOTE_SECONDS = 60.0
"""How long a broker that is away is waited for with the note that a mail was sent."""


class Mailer(mailer_pb2_grpc.MailerServicer):
    """Sends mails to a server by SMTP."""

    def __init__(self) -> None:
        """Reads the environment. Raises ValueError if it says what cannot be."""
        url, sender = os.environ.get("SMTP_URL", ""), os.environ.get("MAIL_FROM", "")
        if url and not sender:
            raise ValueError("MAIL_FROM: it is missing; with SMTP_URL, say who writes: Acme <hello@example.com>")
        self._server = SmtpServer.from_url(url) if url else None
        self._sender = sender_address(sender) if sender else Address("natsmesh", "welcome", "example.com")
        self._jobs: mailer_pb2_grpc.MailerAsyncStub | None = None
        self._notes: rpc.KeyValue | None = None

    async def WelcomeUser(
        self, request: accounts_pb2.UserSignedUp, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        if self._jobs is None:
            self._jobs = mailer_pb2_grpc.MailerStub(rpc.Channel(rpc.current_connection()))
        # An event may come twice. The request id makes one job of both.
        order = mailer_pb2.SendWelcomeMailRequest(
            email=request.email, display_name=request.display_name, request_id=f"welcome-{request.account_id}"
        )
        try:
            await self._jobs.SendWelcomeMail(order, timeout=ENQUEUE_SECONDS)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), f"the mail is not in the queue: {error.details()}")
        return empty_pb2.Empty()

    async def SendWelcomeMail(
        self, request: mailer_pb2.SendWelcomeMailRequest, context: rpc.JobContext
    ) -> mailer_pb2.SendWelcomeMailResponse:
        message_id = f"<{context.job_id}@{self._sender.domain}>"
        try:
            email, name = check_address(request.email), check_name(request.display_name)
            mail = welcome_mail(self._sender, email, name, message_id, dt.datetime.now(dt.UTC))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        try:
            return await self._find_note(context.job_id) or await self._send(context.job_id, mail, email)
        except SmtpError as error:
            logger.info("%s, attempt %d: %s", context.operation, context.attempt, error)
            await context.abort(error.code, str(error))
        except ConnectionError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"it is not known whether the mail was sent: {error}")

    async def _send(self, job_id: str, mail: EmailMessage, email: str) -> mailer_pb2.SendWelcomeMailResponse:
        if self._server is None:
            logger.info("SMTP_URL is not set, so this mail is not sent:\n%s", mail)
            return await self._take_note(job_id, mail, "not sent: SMTP_URL is not set")
        async with self._server.deliver(self._sender.addr_spec, email) as delivery:
            # Getting here may have taken long, and if this process was stopped meanwhile, another one has the job too.
            if noted := await self._find_note(job_id):
                return noted
            reply = await delivery.hand_over(mail)
            note = await self._take_note(job_id, mail, reply)
            logger.info("mail %s was handed over: %s", note.message_id, reply)
            return note

    async def _find_note(self, job_id: str) -> mailer_pb2.SendWelcomeMailResponse | None:
        """What is noted of a mail that was sent. Raises ConnectionError when that cannot be found out."""
        entry = await self._bucket().get(job_id)
        return None if entry is None else mailer_pb2.SendWelcomeMailResponse.FromString(entry.value)

    async def _take_note(self, job_id: str, mail: EmailMessage, reply: str) -> mailer_pb2.SendWelcomeMailResponse:
        """Note that a mail was sent. If that fails it is still true: the job must not fail with it."""
        sent = Timestamp()
        sent.GetCurrentTime()
        note = mailer_pb2.SendWelcomeMailResponse(message_id=mail["Message-ID"], reply=reply, send_time=sent)
        try:
            async with asyncio.timeout(NOTE_SECONDS):
                while True:
                    try:
                        await self._bucket().create(job_id, note.SerializeToString())
                        break
                    except ConnectionError:
                        await asyncio.sleep(0.2)
        except rpc.RevisionError:
            pass  # It is noted: by a try whose answer was lost, or by another process.
        except TimeoutError:
            logger.exception("that the mail %s was sent could not be noted: it may be sent again", mail["Message-ID"])
        return note

    def _bucket(self) -> rpc.KeyValue:
        if self._notes is None:
            self._notes = open_bucket("mails-sent", ttl=NOTES_KEPT)
        return self._notes

"""Sign-ups by day and domain: it follows the events of accounts, which do not know of it.

Events come at least once. So the record of a day says not only how many accounts were counted, but which; and as
several processes may count at the same time, records change by compare-and-set only.
"""

import asyncio
import datetime as dt
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator

import grpc
from google.protobuf import empty_pb2

import rpc
from accounts.v1 import accounts_pb2
from services.buckets import open_bucket
from signups.v1 import signups_pb2, signups_pb2_grpc

MAX_DAYS = 31
KEPT = 400 * 86400.0
"""Seconds that the record of a day is kept."""

SHARDS = "0123456789abcdef"
"""A day has one record for each first digit of account ids: one alone would hold 50,000 accounts, in the megabyte that
a message may have."""

MAX_DOMAINS = 500
"""In one record; further ones are counted together."""

OTHERS = ""

_ACCOUNT_ID = re.compile(r"[0-9a-f]{32}")


class Signups(signups_pb2_grpc.SignupsServicer):
    """Counts in a bucket, so that it does not matter which process counted, and which one is asked."""

    def __init__(self) -> None:
        self._bucket: rpc.KeyValue | None = None

    async def CountSignups(
        self, request_iterator: AsyncIterator[accounts_pb2.UserSignedUp], context: rpc.EventContext
    ) -> empty_pb2.Empty:
        parts: dict[str, dict[str, str]] = defaultdict(dict)
        async for event in request_iterator:
            if not _ACCOUNT_ID.fullmatch(event.account_id) or not event.HasField("create_time"):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no event of ours: account_id, create_time")
            day = event.create_time.ToDatetime().date().isoformat()
            domain = event.email.rpartition("@")[2].lower()
            parts[f"{day}.{event.account_id[0]}"][event.account_id] = domain
        for key, domains in parts.items():
            try:
                await self._add(key, domains)
            except ConnectionError as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return empty_pb2.Empty()

    async def GetSignups(
        self, request: signups_pb2.GetSignupsRequest, context: grpc.aio.ServicerContext
    ) -> signups_pb2.GetSignupsResponse:
        days = request.days if request.HasField("days") else 7
        if not 1 <= days <= MAX_DAYS:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"days: {days} is not from 1 to {MAX_DAYS}")
        today = dt.datetime.now(dt.UTC).date()
        dates = [(today - dt.timedelta(days=ago)).isoformat() for ago in range(days)]
        try:
            counted = await asyncio.gather(*(self._day(date) for date in dates))
        except ConnectionError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        found = [day for day in counted if day.total]
        return signups_pb2.GetSignupsResponse(days=found, total=sum(day.total for day in found))

    async def _add(self, key: str, domains: dict[str, str]) -> None:
        """Count accounts, given with their domains, that are not counted yet. Raises ConnectionError."""
        while True:
            entry = await self._records().get(key)
            record = signups_pb2.DayRecord.FromString(entry.value if entry is not None else b"")
            known = set(record.accounts)
            new = {account: domain for account, domain in domains.items() if bytes.fromhex(account) not in known}
            if not new:
                return
            for account, domain in new.items():
                is_told_apart = domain in record.domains or len(record.domains) < MAX_DOMAINS
                record.domains[domain if is_told_apart else OTHERS] += 1
                record.accounts.append(bytes.fromhex(account))
            try:
                if entry is None:
                    await self._records().create(key, record.SerializeToString())
                else:
                    await self._records().update(key, record.SerializeToString(), entry.revision)
                return
            except rpc.RevisionError:
                continue  # Another process was faster: what it has counted may be among ours.

    async def _day(self, date: str) -> signups_pb2.Day:
        entries = await asyncio.gather(*(self._records().get(f"{date}.{shard}") for shard in SHARDS))
        counts: Counter[str] = Counter()
        for entry in entries:
            if entry is not None:
                counts.update(signups_pb2.DayRecord.FromString(entry.value).domains)
        domains = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return signups_pb2.Day(
            date=date,
            total=counts.total(),
            domains=[signups_pb2.Domain(name=name, count=count) for name, count in domains],
        )

    def _records(self) -> rpc.KeyValue:
        if self._bucket is None:
            self._bucket = open_bucket("signups", ttl=KEPT)
        return self._bucket

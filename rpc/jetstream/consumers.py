"""Durable consumers: made when missing, brought up to date, and never so that messages are skipped."""

from __future__ import annotations

import logging
from typing import Any, Final

from rpc._version import __version__
from rpc.jetstream.api import CONSUMER_NOT_FOUND, JetStreamError
from rpc.jetstream.migration import stored_subjects
from rpc.jetstream.patience import Requests, is_passing, patiently
from rpc.jetstream.specs import (
    VERSION,
    ConsumerInfo,
    ConsumerSpec,
    MigrationError,
    StreamError,
    any_covers,
    covers,
    own_metadata,
)

logger = logging.getLogger(__name__)

_EXISTS: Final = frozenset({10013, 10148})
"""JetStream's codes for a consumer of this name that is another."""

_FILTERS: Final = frozenset({"filter_subject", "filter_subjects"})

_NOT_UNIQUE: Final = frozenset({10099, 10100})
"""JetStream's codes for two consumers of one message in a work queue."""


async def ensure_consumer(
    js: Requests, stream: str, spec: ConsumerSpec, *, migrate: bool, timeout: float = 10.0
) -> ConsumerInfo:
    """Have a durable pull consumer, and return it as it is then.

    One that is missing is made. One that exists is left as it is with ``migrate=False``, and with ``migrate=True`` is
    given what the mesh manages of it (``ConsumerSpec.managed``); where it began, its replicas, a pause and whatever
    else operators have set stay.

    Raises ``MigrationError`` when it cannot be used as it is or be changed without skipping messages (nothing was
    changed then), ``StreamError`` when the broker refuses it or there is no such stream, ``ConnectionError`` when
    JetStream cannot be reached within ``timeout`` seconds.
    """

    async def ensure() -> ConsumerInfo:
        info = await _find(js, stream, spec)
        if info is None:
            info = await _create(js, stream, spec)
        if info.created:
            return info
        reasons = _unfit(info, stream, spec)
        missing = [one for one in spec.filters if not any_covers(_filters(info), one)]
        if not reasons and not migrate and missing:
            takes, wanted = ", ".join(_filters(info)), ", ".join(missing)
            why = f"it takes {takes} and not {wanted}: start a server of this .proto, which brings it up to date"
            reasons = [why]
        if reasons:
            raise MigrationError(_what(stream, spec), reasons)
        return await _migrate(js, stream, info, spec) if migrate else info

    return await patiently(_what(stream, spec), ensure, timeout)


def _what(stream: str, spec: ConsumerSpec) -> str:
    return f"consumer {spec.name!r} of stream {stream!r}"


async def _find(js: Requests, stream: str, spec: ConsumerSpec) -> ConsumerInfo | None:
    try:
        return _info(await js.request(f"CONSUMER.INFO.{stream}.{spec.name}"))
    except JetStreamError as error:
        if error.err_code == CONSUMER_NOT_FOUND:
            return None
        raise _refused(stream, spec, error) from error


def _info(reply: dict[str, Any], *, created: bool = False) -> ConsumerInfo:
    return ConsumerInfo(
        name=str(reply.get("name", "")),
        config=reply.get("config", {}),
        unread=int(reply.get("num_pending", 0)) + int(reply.get("num_ack_pending", 0)),
        position=int((reply.get("delivered") or {}).get("stream_seq", 0)),
        created=created,
    )


async def _create(js: Requests, stream: str, spec: ConsumerSpec) -> ConsumerInfo:
    body = {"stream_name": stream, "config": spec.new(), "action": "create"}
    try:
        reply = await js.request(f"CONSUMER.CREATE.{stream}.{spec.name}", body)
    except JetStreamError as error:
        if error.err_code in _NOT_UNIQUE:
            raise MigrationError(_what(stream, spec), [await _taken(js, stream, spec)]) from error
        if error.err_code not in _EXISTS:
            raise _refused(stream, spec, error) from error
        # Somebody else has made it meanwhile, otherwise than we would have.
        info = await _find(js, stream, spec)
        if info is None:
            raise ConnectionError("somebody makes it just now") from error
        return info
    logger.info("made consumer %s of stream %s", spec.name, stream)
    return _info(reply, created=True)


def _refused(stream: str, spec: ConsumerSpec, error: JetStreamError) -> Exception:
    return error if is_passing(error) else StreamError(f"{_what(stream, spec)} is refused by the broker: {error}")


async def _taken(js: Requests, stream: str, spec: ConsumerSpec) -> str:
    """Return whose messages it would take, of a stream that gives each message to one consumer."""
    reply = await js.request(f"CONSUMER.LIST.{stream}", {})
    others = [
        one.name
        for one in map(_info, reply.get("consumers") or [])
        if any(covers(known, wanted) or covers(wanted, known) for known in _filters(one) for wanted in spec.filters)
    ]
    who = ", ".join(repr(name) for name in others) or "another consumer"
    what = ", ".join(map(repr, spec.filters))
    return (
        f"{who} takes messages of {what} already, and each goes to one consumer only: if that is a method that was "
        f"renamed, remove it when it is done (`nats consumer rm {stream} {others[0] if others else 'NAME'}`)"
    )


def _filters(info: ConsumerInfo) -> list[str]:
    one = info.config.get("filter_subject")
    return [one] if one else list(info.config.get("filter_subjects") or [">"])


def _unfit(info: ConsumerInfo, stream: str, spec: ConsumerSpec) -> list[str]:
    """Return why a consumer can never be what the mesh needs."""
    config, reasons = info.config, []
    if subject := config.get("deliver_subject"):
        reasons.append(f"it pushes to {subject!r}, and the mesh pulls")
    if (policy := config.get("ack_policy")) != "explicit":
        reasons.append(f"its acknowledgements are {policy!r}, and have to be 'explicit'")
    if config.get("headers_only"):
        reasons.append("it delivers headers without their messages")
    if config.get("backoff"):
        reasons.append("it has a backoff, which takes the place of ack_wait")
    if config.get("mem_storage"):
        reasons.append("it is kept in memory: with the broker, its place would be lost")
    remove = f"it is another program's, or was changed by hand; remove it (`nats consumer rm {stream} {spec.name}`)"
    return [f"{reason}: {remove}: what it has handled is handled again then" for reason in reasons]


async def _migrate(js: Requests, stream: str, info: ConsumerInfo, spec: ConsumerSpec) -> ConsumerInfo:
    began = info.config.get("deliver_policy", "all")
    if began != spec.deliver_policy:
        logger.info(
            "consumer %s of stream %s began with %r and goes on from where it is: %r is for new ones",
            spec.name,
            stream,
            began,
            spec.deliver_policy,
        )
    managed = spec.managed()
    changed = sorted(
        key
        for key, value in managed.items()
        if key not in _FILTERS and value != (info.config.get(key) or type(value)())
    )
    if sorted(_filters(info)) != sorted(spec.filters):
        changed.append("filter_subject")
    metadata = own_metadata(info.config)
    if not changed and VERSION in metadata:
        return info
    if reason := await _would_skip(js, stream, info, spec):
        raise MigrationError(_what(stream, spec), [reason])
    kept = {key: value for key, value in info.config.items() if key not in _FILTERS}
    config = {**kept, **managed, "metadata": {**metadata, VERSION: __version__}}
    body = {"stream_name": stream, "config": config, "action": "update"}
    try:
        reply = await js.request(f"CONSUMER.CREATE.{stream}.{spec.name}", body)
    except JetStreamError as error:
        raise _refused(stream, spec, error) from error
    logger.info("changed consumer %s of stream %s: %s", spec.name, stream, ", ".join(changed))
    return _info(reply)


async def _would_skip(js: Requests, stream: str, info: ConsumerInfo, spec: ConsumerSpec) -> str:
    """Return what nobody would be given any more if the consumer took other subjects; empty if nothing."""
    wanted, known = spec.filters, _filters(info)
    change = f"it would take {', '.join(map(repr, wanted))} instead of {', '.join(map(repr, known))}"
    if info.unread and not all(any_covers(wanted, one) for one in known):
        return (
            f"{change}, and {info.unread} messages are not handled yet, which could be skipped: keep the old "
            f"server running until `nats consumer info {stream} {spec.name}` shows none"
        )
    for one in wanted if info.position else ():
        if any_covers(known, one):
            continue
        async for subject, _ in stored_subjects(js, stream, one):
            if not any_covers(known, subject):
                return (
                    f"{change}, and messages of {subject!r} are stored, of which it would skip those that it has "
                    f"passed: remove it (`nats consumer rm {stream} {spec.name}`), and all are handled (again)"
                )
    return ""

"""Streams and consumers as the .proto wants them: made when missing, brought up to date, and never at the cost of data.

Who publishes or calls needs them to be there (``migrate=False``: what exists stays as it is, if it can serve); who
serves declares them (``migrate=True``). Any number of processes may do that at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from rpc._version import __version__
from rpc.jetstream.api import STREAM_NOT_FOUND, JetStreamError
from rpc.jetstream.consumers import ensure_consumer
from rpc.jetstream.features import Feature, require
from rpc.jetstream.migration import cannot_serve, data_at_stake, parse_time, unfit
from rpc.jetstream.patience import Requests, is_passing, patiently
from rpc.jetstream.specs import (
    LIMITS,
    PARTITIONS,
    UNLIMITED_LIMITS,
    VERSION,
    ConsumerInfo,
    ConsumerSpec,
    MigrationError,
    StreamError,
    StreamInfo,
    StreamSpec,
    bucket,
    default_replicas,
    own_metadata,
)

__all__ = [
    "ConsumerInfo",
    "ConsumerSpec",
    "MigrationError",
    "StreamError",
    "StreamInfo",
    "StreamSpec",
    "bucket",
    "default_replicas",
    "ensure_consumer",
    "ensure_stream",
    "find_stream",
]

logger = logging.getLogger(__name__)

_NAME_IN_USE: Final = 10058
_OVERLAP: Final = 10065
_NO_CLUSTER: Final = 10074
_NO_PEERS: Final = 10005

_FEATURES: Final = {"allow_msg_ttl": Feature.MESSAGE_TTL, "allow_msg_schedules": Feature.SCHEDULES}
"""What a stream's options need of the broker."""


async def ensure_stream(js: Requests, spec: StreamSpec, *, migrate: bool, timeout: float = 10.0) -> StreamInfo:
    """Have a stream, and return it as it is then.

    One that is missing is made. One that exists is left as it is with ``migrate=False``, and with ``migrate=True`` is
    given what the mesh manages of it (subjects, description, discard, duplicate window, features, the limits that
    ``spec`` has); replicas, placement, storage, compression and all other limits stay what operators made of them.

    Raises ``MigrationError`` when it cannot be used as it is or be changed without losing data (nothing was changed
    then), ``StreamError`` when the broker cannot make it, ``ConnectionError`` when JetStream cannot be reached within
    ``timeout`` seconds.
    """

    async def ensure() -> StreamInfo:
        info = await find_stream(js, spec.name)
        if info is None:
            info = await _create(js, spec)
        if info.created:
            return info
        if reasons := unfit(info, spec):
            raise MigrationError(f"stream {spec.name!r}", reasons)
        if migrate:
            return await _migrate(js, info, spec)
        if reasons := cannot_serve(info, spec):
            raise MigrationError(f"stream {spec.name!r}", reasons)
        return info

    return await patiently(f"stream {spec.name!r}", ensure, timeout)


async def find_stream(js: Requests, name: str) -> StreamInfo | None:
    """Return a stream as it is, None when there is none of this name."""
    try:
        return _info(await js.request(f"STREAM.INFO.{name}"))
    except JetStreamError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return None
        raise


def _info(reply: dict[str, Any], *, created: bool = False) -> StreamInfo:
    try:
        time = parse_time(reply["ts"])
    except (KeyError, ValueError):
        time = datetime.now(UTC)
    config = reply.get("config", {})
    return StreamInfo(str(config.get("name", "")), config, reply.get("state", {}), time, created=created)


async def _create(js: Requests, spec: StreamSpec) -> StreamInfo:
    await _require(js, spec, spec.managed())
    try:
        config = spec.new()
    except ValueError as error:
        raise StreamError(f"stream {spec.name!r} cannot be made: {error}") from error
    try:
        reply = await js.request(f"STREAM.CREATE.{spec.name}", config)
    except JetStreamError as error:
        if error.err_code != _NAME_IN_USE:
            raise await _explained(js, spec, error) from error
        # Somebody else has made it meanwhile, otherwise than we would have.
        info = await find_stream(js, spec.name)
        if info is None:
            raise ConnectionError("somebody makes it just now") from error
        return info
    logger.info("made stream %s", spec.name)
    return _info(reply, created=True)


async def _require(js: Requests, spec: StreamSpec, options: Iterable[str]) -> None:
    await require(js, f"stream {spec.name!r}", *(_FEATURES[option] for option in options if option in _FEATURES))


async def _explained(js: Requests, spec: StreamSpec, error: JetStreamError) -> Exception:
    """Return what JetStream's refusal of a stream means, and what to do."""
    what = f"stream {spec.name!r}"
    if error.err_code == _OVERLAP:
        names = await _streams_with(js, spec)
        others = ", ".join(repr(name) for name in names) or "another stream"
        why = (
            f"its subjects ({', '.join(spec.subjects)}) overlap with those of {others}, which is another program's: "
            "change the subjects there, or give this mesh a prefix of its own ($NATSMESH_PREFIX)"
        )
        return MigrationError(what, [why])
    if error.err_code == _NO_CLUSTER:
        return StreamError(
            f"{what} cannot have {spec.replicas or default_replicas()} replicas: the broker is a single server; "
            "unset NATSMESH_REPLICAS, or use a cluster"
        )
    if error.err_code == _NO_PEERS:
        return StreamError(
            f"{what} cannot have {spec.replicas or default_replicas()} replicas: {error.description}; "
            "start more servers with JetStream in this cluster, or choose a smaller NATSMESH_REPLICAS"
        )
    return error if is_passing(error) else StreamError(f"{what} is refused by the broker: {error}")


async def _streams_with(js: Requests, spec: StreamSpec) -> list[str]:
    names: dict[str, None] = {}
    for subject in spec.subjects:
        reply = await js.request("STREAM.NAMES", {"subject": subject})
        names.update(dict.fromkeys(str(name) for name in reply.get("streams") or [] if name != spec.name))
    return list(names)


async def _migrate(js: Requests, info: StreamInfo, spec: StreamSpec) -> StreamInfo:
    config = _migrated(info, spec)
    changed = sorted(key for key in config if not _same(key, config[key], info.config.get(key)))
    if not changed:
        return info
    if reasons := await data_at_stake(js, info, spec):
        raise MigrationError(f"stream {spec.name!r}", reasons)
    await _require(js, spec, changed)
    if info.messages and 0 < info.partitions < spec.partitions:
        logger.warning(
            "stream %s: partitions become %d instead of %d, so events of one key that are stored now may be handled "
            "beside later ones; that order is kept again once they are handled",
            spec.name,
            spec.partitions,
            info.partitions,
        )
    config["metadata"] = {**config["metadata"], VERSION: __version__}
    try:
        reply = await js.request(f"STREAM.UPDATE.{spec.name}", config)
    except JetStreamError as error:
        raise await _explained(js, spec, error) from error
    logger.info("changed stream %s: %s", spec.name, ", ".join(changed))
    return _info(reply)


def _migrated(info: StreamInfo, spec: StreamSpec) -> dict[str, Any]:
    """Return the whole configuration that the stream should have: the operator's, and over it what the mesh manages."""
    config = {**info.config, **spec.managed()}
    metadata = own_metadata(info.config)
    # A limit that the mesh has set, and does not want any more, is lifted; one that it has not set is not its own.
    for name in metadata.get(LIMITS, "").split(","):
        if name in UNLIMITED_LIMITS and name not in spec.managed():
            config[name] = UNLIMITED_LIMITS[name]
    if config.get("max_age"):
        config["duplicate_window"] = min(config["duplicate_window"], config["max_age"])
    metadata.pop(PARTITIONS, None)
    config["metadata"] = {VERSION: __version__, **metadata, **spec.metadata()}
    return config


def _same(key: str, wanted: Any, found: Any) -> bool:
    if key == "subjects":
        return sorted(wanted) == sorted(found or [])
    if key == "metadata":
        known = {name: value for name, value in (found or {}).items() if not name.startswith("_nats.")}
        return bool(wanted == known)
    return bool(wanted == found) or (not wanted and not found)

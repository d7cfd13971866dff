"""Streams as the .proto wants them: made once, migrated, or refused with a reason that helps."""

import asyncio
import logging
import re
from dataclasses import replace
from typing import Any

import pytest

import rpc
from rpc.jetstream.api import JetStream
from rpc.jetstream.specs import VERSION
from rpc.jetstream.streams import MigrationError, StreamError, StreamSpec, bucket, ensure_stream, find_stream


def events(name: str, **values: Any) -> StreamSpec:
    return replace(StreamSpec(name=name, subjects=(f"{name}.>",), description="events of a test"), **values)


async def store(js: JetStream, subject: str, size: int = 10, headers: dict[str, str] | None = None) -> None:
    await js.publish(subject, bytes(size), headers or {})


async def edit(js: JetStream, name: str, **values: Any) -> dict[str, Any]:
    """Change a stream as an operator would."""
    info = await find_stream(js, name)
    assert info is not None
    reply = await js.request(f"STREAM.UPDATE.{name}", {**info.config, **values})
    config: dict[str, Any] = reply["config"]
    return config


async def refused(js: JetStream, spec: StreamSpec, *, migrate: bool = True) -> str:
    """Return why a stream is refused, after a look whether it was really left alone."""
    before = await find_stream(js, spec.name)
    with pytest.raises(MigrationError) as refusal:
        await ensure_stream(js, spec, migrate=migrate)
    after = await find_stream(js, spec.name)
    assert (before and (before.config, before.state)) == (after and (after.config, after.state))
    assert refusal.value.what == f"stream {spec.name!r}"
    assert refusal.value.reasons
    return str(refusal.value)


# --------------------------------------------------------------------------------------------------------- making


@pytest.mark.parametrize("migrate", [False, True])
async def test_a_missing_stream_is_made_and_people_see_whose_it_is(js: JetStream, name: str, migrate: bool) -> None:
    spec = events(name, max_age=3600, retention="workqueue", allow_msg_ttl=True, allow_msg_schedules=True)
    info = await ensure_stream(js, spec, migrate=migrate)
    assert info.created
    config = info.config
    assert config["description"] == "events of a test"
    assert info.metadata[VERSION]
    assert (config["subjects"], config["retention"], config["storage"]) == ([f"{name}.>"], "workqueue", "file")
    assert (config["max_age"], config["max_bytes"], config["num_replicas"]) == (3600 * 10**9, -1, 1)
    assert config["allow_direct"]
    assert config["allow_msg_ttl"]
    assert config["allow_msg_schedules"]
    assert config["duplicate_window"] == 120 * 10**9
    again = await ensure_stream(js, spec, migrate=migrate)
    assert not again.created
    assert again.config == config


async def test_a_short_life_shortens_the_duplicate_window(js: JetStream, name: str) -> None:
    info = await ensure_stream(js, events(name, max_age=10), migrate=True)
    assert info.config["duplicate_window"] == 10 * 10**9
    info = await ensure_stream(js, events(name, max_age=3600), migrate=True)
    assert info.config["duplicate_window"] == 120 * 10**9


async def test_many_make_it_at_once(js: JetStream, name: str) -> None:
    """Publishers and servers of two versions: one makes it, the others take it, and the servers' limits count."""
    old, new = events(name), events(name, max_bytes=10_000_000, description="newer")
    work = [ensure_stream(js, old, migrate=False) for _ in range(10)]
    work += [ensure_stream(js, new, migrate=True) for _ in range(10)]
    infos = await asyncio.gather(*work)
    assert sum(info.created for info in infos) >= 1
    info = await find_stream(js, name)
    assert info is not None
    assert info.config["description"] == "newer"
    assert info.config["max_bytes"] == 10_000_000


async def test_a_bucket_is_one_that_others_can_open(js: JetStream, name: str, nats_url: str) -> None:
    import nats

    await ensure_stream(js, bucket(name, "records", allow_msg_ttl=True), migrate=True)
    client = await nats.connect(nats_url)
    opened = await client.jetstream().key_value(name)
    assert await opened.create("a.b", b"value")
    assert (await opened.get("a.b")).value == b"value"
    await opened.delete("a.b")
    assert (await opened.status()).history == 1
    await client.close()
    assert not (await ensure_stream(js, bucket(name, "records", allow_msg_ttl=True), migrate=True)).created


@pytest.mark.parametrize("bad", ["", "a.b", "a b", ">", "x" * 256])
def test_names_that_could_be_more_than_that(bad: str) -> None:
    with pytest.raises(ValueError, match="names no stream"):
        StreamSpec(name=bad, subjects=("a",))


# ------------------------------------------------------------------------------------------------------- migrating


async def test_what_costs_no_data_is_done(js: JetStream, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rpc.jetstream")
    await ensure_stream(js, events(name, max_age=60, subjects=(f"{name}.a",)), migrate=True)
    await store(js, f"{name}.a")
    spec = events(
        name,
        max_age=7200,
        max_bytes=1_000_000,
        subjects=(f"{name}.a", f"{name}.b"),
        description="better",
        allow_msg_ttl=True,
        allow_msg_schedules=True,
    )
    info = await ensure_stream(js, spec, migrate=True)
    assert not info.created
    assert info.messages == 1
    for key, value in spec.managed().items():
        assert info.config[key] == value, key
    # Not with every start: whoever follows the broker's audit log would be told of a change that there is not.
    caplog.clear()
    await ensure_stream(js, spec, migrate=True)
    assert not caplog.messages
    # And back, as far as that costs nothing: features stay.
    info = await ensure_stream(js, events(name, max_age=3600, subjects=(f"{name}.a",)), migrate=True)
    assert info.config["subjects"] == [f"{name}.a"]
    assert info.config["max_age"] == 3600 * 10**9
    assert info.config["allow_msg_schedules"]


async def test_callers_and_publishers_leave_it_as_it_is(js: JetStream, name: str) -> None:
    made = await ensure_stream(js, events(name, max_age=60, max_bytes=1000), migrate=True)
    narrow = events(name, subjects=(f"{name}.a", f"{name}.b.*"), max_bytes=5, description="mine")
    info = await ensure_stream(js, narrow, migrate=False)
    assert info.config == made.config


async def test_what_operators_set_stays(js: JetStream, name: str) -> None:
    await ensure_stream(js, events(name, max_age=60), migrate=True)
    by_hand = {
        "max_bytes": 5_000_000,
        "max_msgs": 1000,
        "max_msg_size": 5000,
        "max_consumers": -1,
        "compression": "s2",
        "deny_purge": True,
        "republish": {"src": f"{name}.>", "dest": f"copy.{name}.>"},
    }
    config = await edit(js, name, **by_hand, metadata={"owner": "shop", VERSION: "0.0.1"})
    info = await ensure_stream(js, events(name, max_age=120), migrate=True)
    assert info.config["max_age"] == 120 * 10**9
    for key, value in by_hand.items():
        assert info.config[key] == config[key] == value, key
    assert info.metadata["owner"] == "shop"
    assert info.metadata[VERSION] != "0.0.1"


async def test_a_limit_is_lifted_by_whoever_set_it(js: JetStream, name: str) -> None:
    """max_bytes stood in the .proto and does not any more: no limit, the options say."""
    await ensure_stream(js, events(name, max_bytes=1000), migrate=True)
    info = await ensure_stream(js, events(name), migrate=True)
    assert info.config["max_bytes"] == -1
    await edit(js, name, max_bytes=2000)
    info = await ensure_stream(js, events(name, description="another"), migrate=True)
    assert info.config["max_bytes"] == 2000


async def test_a_stream_that_somebody_has_made_beforehand_is_taken_over(js: JetStream, name: str) -> None:
    """An operator's, who wanted it somewhere, or larger: what serves is kept."""
    await js.request(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.x"], "max_msgs": 7})
    info = await ensure_stream(js, events(name), migrate=True)
    assert not info.created
    assert info.config["subjects"] == [f"{name}.>"]
    assert info.config["max_msgs"] == 7
    assert info.metadata[VERSION]


# -------------------------------------------------------------------------------------------------------- refusing


async def test_what_can_never_be_changed(js: JetStream, name: str) -> None:
    await ensure_stream(js, events(name), migrate=True)
    for migrate in (False, True):
        why = await refused(js, events(name, retention="workqueue"), migrate=migrate)
        assert "retention is 'limits' and has to be 'workqueue'" in why
        assert f"`nats stream rm {name}`" in why


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"storage": "memory"}, "kept in memory and would be lost with the broker"),
        ({"no_ack": True}, "does not confirm what it stores: `nats stream edit NAME --ack`"),
        ({"sealed": True}, "it is sealed"),
        ({"mirror": {"name": "another"}, "subjects": None}, "it mirrors stream 'another'"),
    ],
)
async def test_streams_that_are_no_use(js: JetStream, name: str, config: dict[str, Any], reason: str) -> None:
    body = {"name": name, "subjects": [f"{name}.>"], **config}
    sealed = body.pop("sealed", False)
    await js.request(f"STREAM.CREATE.{name}", body)
    if sealed:
        await edit(js, name, sealed=True)
    for migrate in (False, True):
        assert reason.replace("NAME", name) in await refused(js, events(name), migrate=migrate)


async def test_memory_is_taken_where_memory_is_wanted(js: JetStream, name: str) -> None:
    await ensure_stream(js, events(name, storage="memory"), migrate=True)
    await ensure_stream(js, events(name, storage="memory", description="x"), migrate=True)
    kept = f"{name}-kept"
    await ensure_stream(js, events(kept), migrate=True)
    info = await ensure_stream(js, events(kept, storage="memory"), migrate=True)
    assert info.config["storage"] == "file"


async def test_what_publishers_cannot_use_as_it_is(js: JetStream, name: str) -> None:
    await ensure_stream(js, events(name, subjects=(f"{name}.a",)), migrate=True)
    wanted = events(name, allow_msg_ttl=True, allow_msg_schedules=True)
    why = await refused(js, wanted, migrate=False)
    assert f"it does not take '{name}.>'" in why
    assert "cannot end with a time of their own" in why
    assert "cannot wait for their time" in why
    assert "start a server of this .proto" in why
    await ensure_stream(js, wanted, migrate=True)
    await ensure_stream(js, wanted, migrate=False)


async def test_subjects_are_kept_while_they_have_messages(js: JetStream, name: str) -> None:
    await ensure_stream(js, events(name, subjects=(f"{name}.a.*", f"{name}.b.*")), migrate=True)
    for number in range(3):
        await store(js, f"{name}.b.{number}")
    less = events(name, subjects=(f"{name}.a.*", f"{name}.b.0"))
    why = await refused(js, less)
    assert f"would not take '{name}.b.*' any more" in why
    # What stays of it is no reason.
    await js.request(f"STREAM.PURGE.{name}", {"filter": f"{name}.b.1"})
    await js.request(f"STREAM.PURGE.{name}", {"filter": f"{name}.b.2"})
    info = await ensure_stream(js, less, migrate=True)
    assert info.messages == 1


async def test_a_shorter_life_for_messages_that_are_older(js: JetStream, name: str) -> None:
    await ensure_stream(js, events(name), migrate=True)
    await store(js, f"{name}.a")
    await ensure_stream(js, events(name, max_age=3600), migrate=True)
    # Wait until the message is older than the limit to come; the broker's clock counts.
    while (info := await find_stream(js, name)) and info.time.timestamp() < _first(info) + 0.3:
        await asyncio.sleep(0.02)
    why = await refused(js, events(name, max_age=0.2))
    assert re.search(r"max_age would become 0.2 s, and its oldest message is 0\.\d+ s old: keep the longer", why)
    await js.request(f"STREAM.PURGE.{name}")
    await ensure_stream(js, events(name, max_age=0.2), migrate=True)


def _first(info: Any) -> float:
    from rpc.jetstream.migration import parse_time

    return parse_time(info.state["first_ts"]).timestamp()


async def test_fewer_bytes_than_there_are(js: JetStream, name: str) -> None:
    await ensure_stream(js, events(name), migrate=True)
    await store(js, f"{name}.a", 5000)
    why = await refused(js, events(name, max_bytes=4000))
    assert re.search(r"max_bytes would become 4000, and its messages take 50\d\d bytes: choose a larger one", why)
    await ensure_stream(js, events(name, max_bytes=6000), migrate=True)


async def test_fewer_messages_of_a_subject_than_there_are(js: JetStream, name: str) -> None:
    await ensure_stream(js, events(name), migrate=True)
    for _ in range(2):
        await store(js, f"{name}.a")
    why = await refused(js, events(name, max_msgs_per_subject=1))
    assert f"only 1 messages of each subject would be kept, and there are 2 of '{name}.a'" in why
    await ensure_stream(js, events(name, max_msgs_per_subject=2), migrate=True)


async def test_a_full_stream_that_would_begin_to_forget(js: JetStream, name: str) -> None:
    await ensure_stream(js, events(name, discard="new", max_bytes=1000), migrate=True)
    await store(js, f"{name}.a")
    assert "would push out its oldest messages" in await refused(js, events(name, max_bytes=1000))
    # What is never full forgets nothing, and what is empty has nothing to forget.
    await ensure_stream(js, events(name, max_bytes=-1), migrate=True)
    await ensure_stream(js, events(name, discard="new", max_bytes=1000), migrate=True)
    await js.request(f"STREAM.PURGE.{name}")
    assert (await ensure_stream(js, events(name, max_bytes=1000), migrate=True)).config["discard"] == "old"


async def test_partitions(js: JetStream, name: str, caplog: pytest.LogCaptureFixture) -> None:
    def keyed(partitions: int) -> StreamSpec:
        return events(name, subjects=(f"{name}.*",), partitions=partitions)

    assert (await ensure_stream(js, keyed(4), migrate=True)).partitions == 4
    await store(js, f"{name}.2")
    assert (await ensure_stream(js, keyed(3), migrate=True)).partitions == 3, "none of them is in a partition that goes"
    why = await refused(js, keyed(2))
    assert "it has 3 partitions and would have 2, and there are events in number 2" in why
    # A publisher whose .proto says otherwise does as the stream says.
    assert (await ensure_stream(js, keyed(2), migrate=False)).partitions == 3
    assert (await ensure_stream(js, keyed(8), migrate=True)).partitions == 8
    assert "partitions become 8 instead of 3" in caplog.text
    await js.request(f"STREAM.PURGE.{name}")
    assert (await ensure_stream(js, keyed(2), migrate=True)).partitions == 2
    assert (await ensure_stream(js, events(name), migrate=True)).partitions == 0


async def test_what_the_broker_refuses(js: JetStream, name: str) -> None:
    impossible = events(name, discard="new", allow_msg_schedules=True)
    for _ in range(2):
        with pytest.raises(StreamError, match="is refused by the broker: message scheduling cannot use discard new"):
            await ensure_stream(js, impossible, migrate=True)
        await ensure_stream(js, events(name), migrate=True)


async def test_all_reasons_are_told_at_once(js: JetStream, name: str) -> None:
    await ensure_stream(js, events(name, subjects=(f"{name}.a",)), migrate=True)
    await store(js, f"{name}.a", 2000)
    why = await refused(js, events(name, subjects=(f"{name}.b",), max_bytes=100))
    assert "max_bytes would become" in why
    assert f"would not take '{name}.a'" in why


async def test_another_programs_stream_on_our_subjects_is_named(js: JetStream, name: str) -> None:
    theirs = f"{name}-theirs"
    await js.request(f"STREAM.CREATE.{theirs}", {"name": theirs, "subjects": [f"{name}.b", "unrelated." + name]})
    why = await refused(js, events(name))
    assert f"overlap with those of '{theirs}'" in why
    assert "NATSMESH_PREFIX" in why
    # Also when a stream that exists would grow into it.
    await ensure_stream(js, events(name, subjects=(f"{name}.a",)), migrate=True)
    assert f"overlap with those of '{theirs}'" in await refused(js, events(name))


# ---------------------------------------------------------------------------------------------------------- replicas


async def test_replicas_need_a_cluster(js: JetStream, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATSMESH_REPLICAS", "3")
    with pytest.raises(StreamError, match="cannot have 3 replicas: the broker is a single server; unset NATSMESH_REPL"):
        await ensure_stream(js, events(name), migrate=True)
    # What exists has the replicas that it has.
    await ensure_stream(js, events(name, replicas=1), migrate=True)
    await ensure_stream(js, events(name, description="more"), migrate=True)


@pytest.mark.parametrize("text", ["0", "6", "-1", "three", "3.0", "٣"])
async def test_replicas_that_cannot_be(js: JetStream, name: str, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NATSMESH_REPLICAS", text)
    with pytest.raises(StreamError, match="NATSMESH_REPLICAS must be a number from 1 to 5"):
        await ensure_stream(js, events(name), migrate=True)
    with pytest.raises(ValueError, match="NATSMESH_REPLICAS must be a number from 1 to 5"):
        rpc.KeyValue(js.connection, name)


async def test_buckets_have_as_many(js: JetStream, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATSMESH_REPLICAS", "3")
    with pytest.raises(ConnectionError, match="replicas > 1 not supported in non-clustered mode"):
        await rpc.KeyValue(js.connection, name).create("a", b"")
    await rpc.KeyValue(js.connection, name, replicas=1).create("a", b"")

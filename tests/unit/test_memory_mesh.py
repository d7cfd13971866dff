"""The bus in memory: the parts of NATS that the library relies on, and faults on demand."""

import asyncio
from collections import Counter

import pytest

from rpc.testing import MemoryConnection, MemoryMesh, MemoryMessage


async def connected(mesh: MemoryMesh) -> MemoryConnection:
    connection = mesh.connection()
    await connection.connect()
    return connection


class Inbox:
    """Collects what is received."""

    def __init__(self) -> None:
        self.messages: list[MemoryMessage] = []

    def __call__(self, message: object) -> None:
        assert isinstance(message, MemoryMessage)
        self.messages.append(message)

    @property
    def subjects(self) -> list[str]:
        return [message.subject for message in self.messages]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "a.c", "b.a"]),
        ("a.*", ["a.b", "a.c"], ["a", "a.b.c"]),
        ("*.b", ["a.b", "c.b"], ["b", "a.c"]),
        ("a.*.c", ["a.b.c"], ["a.c", "a.b.d", "a.b.b.c"]),
        ("a.>", ["a.b", "a.b.c"], ["a", "b.c"]),
        (">", ["a", "a.b"], []),
        ("a.*.>", ["a.b.c", "a.b.c.d"], ["a.b", "a"]),
    ],
)
async def test_wildcards(memory_mesh: MemoryMesh, pattern: str, matching: list[str], others: list[str]) -> None:
    connection, inbox = await connected(memory_mesh), Inbox()
    await connection.subscribe(pattern, inbox)
    for subject in [*matching, *others]:
        await connection.publish(subject, b"")
    await connection.flush()
    assert inbox.subjects == matching


async def test_a_queue_group_gives_each_message_to_one_member() -> None:
    mesh = MemoryMesh(seed=7)
    sender, plain = await connected(mesh), Inbox()
    members, others = [Inbox() for _ in range(4)], [Inbox() for _ in range(2)]
    for group, inboxes in (("q", members), ("other", others)):
        for inbox in inboxes:
            await (await connected(mesh)).subscribe("work", inbox, queue=group)
    await (await connected(mesh)).subscribe("work", plain)
    for number in range(400):
        await sender.publish("work", str(number).encode())
    await sender.flush()
    for inboxes in (members, others):
        counts = Counter(message.data for inbox in inboxes for message in inbox.messages)
        assert len(counts) == 400
        assert set(counts.values()) == {1}
    assert all(50 < len(inbox.messages) < 150 for inbox in members)
    assert len(plain.messages) == 400


async def test_messages_of_one_sender_keep_their_order(memory_mesh: MemoryMesh) -> None:
    sender, inbox = await connected(memory_mesh), Inbox()
    await (await connected(memory_mesh)).subscribe("a", inbox)
    for number in range(100):
        await sender.publish("a", str(number).encode())
    await sender.flush()
    assert [int(message.data) for message in inbox.messages] == list(range(100))


async def test_where_nobody_listens_the_sender_is_told(memory_mesh: MemoryMesh) -> None:
    connection, inbox = await connected(memory_mesh), Inbox()
    await connection.subscribe("reply", inbox)
    await connection.publish("nowhere", b"x", reply="reply")
    await connection.publish("nowhere", b"x")
    await connection.flush()
    (message,) = inbox.messages
    assert message.headers == {"Status": "503"}
    assert message.data == b""


async def test_messages_are_delivered_later_not_inside_publish(memory_mesh: MemoryMesh) -> None:
    connection, inbox = await connected(memory_mesh), Inbox()
    await connection.subscribe("a", inbox)
    await connection.publish("a", b"")
    assert inbox.messages == []
    await connection.flush()
    assert len(inbox.messages) == 1


async def test_messages_can_be_lost_and_doubled(memory_mesh: MemoryMesh) -> None:
    connection, inbox = await connected(memory_mesh), Inbox()
    await connection.subscribe(">", inbox)
    memory_mesh.fault = lambda message: {"lost": 0, "doubled": 2}.get(message.subject, 1)
    for subject in ("lost", "kept", "doubled"):
        await connection.publish(subject, b"")
    await connection.flush()
    assert inbox.subjects == ["kept", "doubled", "doubled"]


async def test_a_lost_message_is_not_told_to_its_sender(memory_mesh: MemoryMesh) -> None:
    connection, inbox = await connected(memory_mesh), Inbox()
    await connection.subscribe("work", inbox)
    replies = Inbox()
    await connection.subscribe("reply", replies)
    memory_mesh.fault = lambda _message: 0
    await connection.publish("work", b"", reply="reply")
    await connection.flush()
    assert inbox.messages == replies.messages == []


async def test_stop_disconnects_everybody_and_start_brings_them_back(memory_mesh: MemoryMesh) -> None:
    connection, inbox = await connected(memory_mesh), Inbox()
    states: list[bool] = []
    remove = connection.on_state_change(states.append)
    await connection.subscribe("a", inbox)
    await connection.publish("a", b"under way")
    memory_mesh.stop()
    assert not connection.is_connected
    with pytest.raises(ConnectionError, match="not connected"):
        await connection.publish("a", b"")
    with pytest.raises(ConnectionError, match="stopped"):
        await memory_mesh.connection().connect()
    waiting = asyncio.create_task(connection.wait_connected())
    await asyncio.sleep(0)
    assert not waiting.done()
    memory_mesh.start()
    await waiting
    await connection.publish("a", b"after")
    await connection.flush()
    assert [message.data for message in inbox.messages] == [b"after"]
    assert states == [False, True]
    remove()
    memory_mesh.stop()
    assert states == [False, True]


async def test_a_closed_connection_is_gone(memory_mesh: MemoryMesh) -> None:
    connection, other, inbox = await connected(memory_mesh), await connected(memory_mesh), Inbox()
    await connection.subscribe("a", inbox)
    memory_mesh.stop()
    waiting = asyncio.create_task(connection.wait_connected())
    await asyncio.sleep(0)
    await connection.close()
    with pytest.raises(ConnectionError, match="closed"):
        await waiting
    await connection.close()
    memory_mesh.start()
    assert connection.is_closed
    assert not connection.is_connected
    await other.publish("a", b"")
    await other.flush()
    assert inbox.messages == []
    for attempt in (connection.connect(), connection.publish("a", b"")):
        with pytest.raises(ConnectionError):
            await attempt


async def test_unsubscribing_drops_what_was_not_received_and_draining_does_not(memory_mesh: MemoryMesh) -> None:
    connection, dropped, drained = await connected(memory_mesh), Inbox(), Inbox()
    first = await connection.subscribe("a", dropped)
    second = await connection.subscribe("a", drained)
    await connection.publish("a", b"")
    await first.unsubscribe()
    await second.drain()
    await connection.publish("a", b"")
    await connection.flush()
    assert dropped.messages == []
    assert len(drained.messages) == 1
    await first.unsubscribe()


async def test_too_large_and_malformed_messages_are_refused() -> None:
    connection = await connected(MemoryMesh(max_payload=100))
    await connection.publish("a", bytes(100))
    with pytest.raises(ValueError, match="larger than the broker takes"):
        await connection.publish("a", bytes(101))
    with pytest.raises(ValueError, match="larger than the broker takes"):
        await connection.publish("a", bytes(90), headers={"name": "value"})
    for subject in ("", "a b", "a\r\nb", "a.*", "a.>", "a\0"):
        with pytest.raises(ValueError, match="malformed subject"):
            await connection.publish(subject, b"")


async def test_receivers_do_not_see_the_senders_context(memory_mesh: MemoryMesh) -> None:
    from contextvars import ContextVar

    variable = ContextVar("variable", default="receiver's")
    seen: list[str] = []
    connection = await connected(memory_mesh)
    await connection.subscribe("a", lambda _message: seen.append(variable.get()))
    variable.set("sender's")
    await connection.publish("a", b"")
    await connection.flush()
    assert seen == ["receiver's"]

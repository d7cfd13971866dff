"""Fuzzing of the wire protocol: ``python -m tests.wire.fuzz --inputs 1000000 --seed 1``.

Counts inputs and surprises. An input is one packet, roll call, or set of headers, given to the code that takes it from
a peer. A surprise is any exception that is not the peer's fault by name (``ProtocolError``, or a status where a status
is promised), an invariant that does not hold, or an input that takes longer than a second.

Most packets are good ones, broken a little: bits flipped, pieces cut out, doubled, moved, lengths and numbers replaced
by interesting ones. They go to machines that are in the middle of a call, so that all states are seen.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable

from rpc.status import StatusCode, StatusError
from rpc.transport import rollcall
from rpc.wire import envelope, frames
from rpc.wire.envelope import ProtocolError
from rpc.wire.events import Ended, MessageReceived
from rpc.wire.frames import INITIAL_WINDOW, MIN_PART, FrameType
from rpc.wire.states import TRANSITIONS, Role, State
from rpc.wire.stream import StreamMachine

MAX_MESSAGE = 20_000
SLOW = 1.0
"""Seconds for one input that count as a surprise."""

NUMBERS = (0, 1, 2, 4, 5, 63, 64, 127, 128, 255, 1023, 1024, 1025, 4096, 20_000, 20_001, 2**16, 2**31, 2**32 - 1)
TEXTS = ("", "a", "grpc-status", "a-bin", "mesh-trailer-a", "mesh-dup-1-a", "%", "%zz%ff", "=", ",", "\u00e9", "\udc80")
NAMES = (
    *(
        "grpc-timeout",
        "grpc-encoding",
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "Status",
        "mesh-refused",
    ),
    *(
        "mesh-stream",
        "mesh-accepted",
        "x",
        "x-bin",
        "mesh-dup-1-x",
        "mesh-dup-x",
        "mesh-trailer-x-bin",
        "Nats-Service-Error",
    ),
)
VALUES = (
    "0",
    "1",
    "16",
    "17",
    "503",
    "1S",
    "99999999n",
    "999999999n",
    "gzip",
    "identity",
    "br",
    "%41",
    "eA==",
    "queue-full",
)


_ENDS = (FrameType.STATUS, FrameType.CANCEL, FrameType.HALF_CLOSE)


class Fuzzer:
    """One run: a source of chance, and what came of it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.surprises: list[str] = []
        self._large = self.random.randbytes(3000)
        self._kinds: list[Callable[[], None]] = [self.calls] * 8 + [self.headers, self.pieces]

    def run(self, inputs: int, report: Callable[[int], None]) -> None:
        """Run until so many inputs were given."""
        next_report = 0
        while (given := sum(self.outcomes.values())) < inputs:
            if given >= next_report:
                report(given)
                next_report += max(1, inputs // 20)
            self.random.choice(self._kinds)()

    def give(self, what: str, data: object, take: Callable[[], str]) -> bool:
        """Give one input to the code under test; False when it was a surprise."""
        begin = time.perf_counter()
        try:
            outcome = take()
        except Exception:  # noqa: BLE001 - whatever it is, that is what is looked for
            outcome = "surprise"
            self.surprises.append(f"{what} {data!r}\n{traceback.format_exc()}")
        if time.perf_counter() - begin > SLOW:
            outcome = "surprise"
            self.surprises.append(f"{what} took longer than {SLOW} s: {str(data)[:2000]}")
        self.outcomes[f"{what}: {outcome}"] += 1
        return outcome != "surprise"

    # ----------------------------------------------------------------------------------------------- calls in packets

    def calls(self) -> None:
        """A call that a peer spoils with one packet or another."""
        role = self.random.choice((Role.CLIENT, Role.SERVER))
        window = INITIAL_WINDOW + self.random.choice((0, 0, 1, INITIAL_WINDOW))
        machine = StreamMachine(role, max_message=MAX_MESSAGE, window=window)
        unread: list[MessageReceived] = []
        for sequence in range(self.random.randint(1, 12)):
            data = frames.PACKET_HEADER.pack(sequence) + self.payload(role, machine)
            if self.random.random() < 0.25:
                data = self.broken(data)
            if not self.give("packet", data, lambda data=data: self.take(machine, data, unread)):  # type: ignore[misc]
                return
            if machine.state is State.CLOSED:
                break
            self.act(machine, unread)
        else:
            machine.cancel(StatusCode.ABORTED, "enough")
            while machine.next_packet(4096) is not None:
                pass
            if not machine.is_finished:
                self.surprises.append("a machine that was cancelled has something to say yet")

    def take(self, machine: StreamMachine, data: bytes, unread: list[MessageReceived]) -> str:
        """Give a packet to a machine and look whether what must hold does."""
        try:
            events = machine.receive(data)
        except ProtocolError as error:
            assert machine.state is State.CLOSED
            return "refused, " + str(error)[:7]
        unread += [event for event in events if isinstance(event, MessageReceived)]
        assert all(len(event.data) <= MAX_MESSAGE for event in unread)
        incoming = machine._incoming
        if machine.state is not State.CLOSED:
            assembled = incoming._assembly.cost if incoming._assembly is not None else 0
            taken = sum(event.cost for event in unread) + assembled
            assert incoming._credit >= 0
            assert incoming._credit + taken + incoming._ungranted == incoming._window
        else:
            assert isinstance(events[-1], Ended)
        return f"taken, {machine.state.name}"

    def act(self, machine: StreamMachine, unread: list[MessageReceived]) -> None:
        """Do what the application at this end might do."""
        chance = self.random.random()
        if chance < 0.5:
            for event in unread:
                machine.consumed(event.cost)
            unread.clear()
        if chance < 0.2 and not machine._outgoing.is_complete:
            machine.send_message(self._large[: self.random.choice(NUMBERS[:14])])
        if chance < 0.7:
            machine.next_packet(4096)

    def payload(self, role: Role, machine: StreamMachine) -> bytes:
        """Good frames in an order that is allowed, most of the time."""
        state, assembly = machine.state, machine._incoming._assembly
        left = assembly.total - assembly.size if assembly is not None else 0
        made: list[bytes] = []
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            kind = self.random.choice(list(FrameType))
            if self.random.random() < 0.97:
                kind = FrameType(self.random.choice(list(TRANSITIONS[role][state]) or [FrameType.CREDIT]))
                if kind in _ENDS and self.random.random() < 0.8:
                    kind = FrameType.CREDIT
            body = self.body(kind, left)
            made.append(frames.frame(kind, body))
            state = TRANSITIONS[role][state].get(kind, state)
            if kind is FrameType.PART:
                left = frames.PART_HEADER.unpack_from(body)[1] - len(body) + frames.PART_HEADER.size
            elif kind is FrameType.MORE:
                left -= len(body)
            if state is State.ASSEMBLING and left <= 0:
                state = State.MESSAGES
        return b"".join(made)

    def body(self, kind: FrameType, left: int = 0) -> bytes:
        """A good body for a type of frame; ``left``: bytes that a message in parts is short of."""
        choice = self.random.choice
        if kind is FrameType.PART:
            size = self.random.randint(MIN_PART, 2000)
            total = choice((size, size + 1, size + MIN_PART, 5000, MAX_MESSAGE, choice(NUMBERS)))
            return frames.PART_HEADER.pack(choice((0, 0, 1)), total) + self._large[:size]
        if kind is FrameType.MORE:
            return self._large[: choice((MIN_PART, 2000, 3000, max(0, left), max(0, left), choice(NUMBERS)))]
        if kind is FrameType.CREDIT:
            return frames.CREDIT_BODY.pack(choice(NUMBERS[1:]))
        if kind is FrameType.HEADERS:
            return self.lines()
        if kind in (FrameType.STATUS, FrameType.CANCEL):
            text = choice(TEXTS).encode("utf-8", "replace")
            return frames.STATUS_HEADER.pack(choice(NUMBERS[:10]), len(text)) + text + self.lines()
        return b"" if kind is FrameType.HALF_CLOSE else self._large[: choice(NUMBERS[:12])]

    def lines(self) -> bytes:
        return b"".join(
            f"{self.random.choice(NAMES)}: {self.random.choice(VALUES)}\r\n".encode()
            for _ in range(self.random.randint(0, 3))
        )

    def broken(self, data: bytes) -> bytes:
        """Break good bytes in one place or a few."""
        broken = bytearray(data)
        for _ in range(self.random.randint(1, 3)):
            at = self.random.randrange(len(broken) + 1)
            if self.random.random() < 0.6:
                at = min(at, self.random.randint(0, 24))  # where the headers are
            self.random.choice(_MUTATIONS)(self.random, broken, at)
        return bytes(broken)

    # ----------------------------------------------------------------------------------------------------------- others

    def headers(self) -> None:
        """Requests and replies as headers."""
        choice = self.random.choice
        chosen = {
            choice(NAMES) if self.random.random() < 0.9 else choice(TEXTS): (
                choice(VALUES) if self.random.random() < 0.7 else choice(TEXTS) + choice(VALUES)
            )
            for _ in range(self.random.randint(0, 5))
        }
        self.give("headers", chosen, lambda: self.read(envelope.read_request, chosen))
        self.give("headers", chosen, lambda: self.read(envelope.read_reply, chosen))

    @staticmethod
    def read(reader: Callable[[dict[str, str]], object], chosen: dict[str, str]) -> str:
        try:
            reader(chosen)
        except ProtocolError:
            return "refused"
        except StatusError as error:
            assert error.code is StatusCode.UNIMPLEMENTED  # noqa: PT017 - an encoding that nobody knows
            return "refused, encoding"
        return "read"

    def pieces(self) -> None:
        """Bodies, roll calls and compressed messages, each on its own."""
        status = self.broken(self.body(FrameType.STATUS))
        self.give("status", status, lambda: self.read(frames.decode_status, status))  # type: ignore[arg-type]
        calls = self.broken(rollcall.encode_calls(f"{n} {n}" for n in NUMBERS[: self.random.randint(0, 9)]))
        self.give("roll call", calls, lambda: str(bool(rollcall.decode_calls(calls))))
        packed = envelope.gzip(self._large[: self.random.choice(NUMBERS[:12])])
        if self.random.random() < 0.8:
            packed = self.broken(packed)
        self.give("gzip", packed, lambda: self.unpack(packed))

    @staticmethod
    def unpack(packed: bytes) -> str:
        try:
            assert len(envelope.gunzip(packed, 1000)) <= 1000
        except StatusError as error:
            return error.code.name
        return "read"


def _flip(chance: random.Random, data: bytearray, at: int) -> None:
    if at < len(data):
        data[at] ^= 1 << chance.randrange(8)


def _replace(chance: random.Random, data: bytearray, at: int) -> None:
    data[at : at + chance.randint(1, 4)] = chance.randbytes(chance.randint(1, 4))


def _number(chance: random.Random, data: bytearray, at: int) -> None:
    size = chance.choice((1, 2, 4, 8))
    data[at : at + size] = (chance.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, "big")


def _cut(chance: random.Random, data: bytearray, at: int) -> None:
    del data[at : at + chance.choice((1, 4, 5, 9, len(data)))]


def _double(chance: random.Random, data: bytearray, at: int) -> None:
    size = chance.choice((1, 4, 5, 9, 40))
    data[at:at] = data[at : at + size]


def _insert(chance: random.Random, data: bytearray, at: int) -> None:
    data[at:at] = frames.frame(chance.choice(list(FrameType)), chance.randbytes(chance.choice((0, 1, 4, 9))))


_MUTATIONS = (_flip, _flip, _replace, _number, _number, _cut, _double, _insert)


def main() -> int:
    """Run from the command line; exit code 1 when there were surprises."""
    parser = argparse.ArgumentParser(description="fuzz the wire protocol")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    fuzzer = Fuzzer(arguments.seed)

    def report(given: int) -> None:
        print(f"{given} inputs, {len(fuzzer.surprises)} surprises", flush=True)

    fuzzer.run(arguments.inputs, report)
    for outcome, count in sorted(fuzzer.outcomes.items()):
        print(f"{count:10} {outcome}")
    for surprise in fuzzer.surprises[:10]:
        print(surprise)
    report(sum(fuzzer.outcomes.values()))
    return 1 if fuzzer.surprises else 0


if __name__ == "__main__":
    sys.exit(main())

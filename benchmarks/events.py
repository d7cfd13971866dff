"""Events, published and handled: natsmesh beside its floor, nats-py alone, and FastStream.

First one process publishes, and nobody else runs; then one process takes all of it in batches.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from benchmarks import durable
from benchmarks.durable_report import Results, Window, into_docs
from benchmarks.interactive import expect
from benchmarks.jobs import ask
from benchmarks.machine import package_version
from benchmarks.measurement import Accounts
from benchmarks.processes import BenchmarkError, Program, Role, Stage

CASES = {"publish": "publish", "handle": "handle in batches"}
SETUPS = {"natsmesh": "natsmesh", "floor": "floor: nats-py by hand", "faststream": "FastStream"}
NOTES = {
    "natsmesh": "`rpc.Publisher`; a subscribed method that takes batches, in `rpc.Server`",
    "floor": "`publish_async`; `fetch`, decode, acknowledge. No ids, no retries, no dead letters",
    "faststream": "`broker.publish` to a stream, JSON of a pydantic model; a pull subscriber with `batch=True`",
}
BATCH = 1000
PROBES = (2 * BATCH, 0.3)
"""The load before the window: so many events, then as many as take so many seconds."""


def main(rounds: int, seconds: float, folder: Path, machine: dict[str, object], command: str, *, in_docs: bool) -> int:
    """Measures all, writes `events.json` and `events.md`. The status is 1 when an aim is missed or a setup failed."""
    results = Results(
        command=command,
        machine=machine,
        started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        rounds=rounds,
        seconds=seconds,
        unit="event",
        cases=CASES,
        titles=SETUPS,
        notes=NOTES,
        versions={name: package_version(name) or "" for name in ("nats-py", "faststream")},
    )
    setups = list(SETUPS)
    for turn in range(rounds):
        for setup in setups[turn % len(setups) :] + setups[: turn % len(setups)]:
            if setup not in results.failed:
                one_round(setup, turn, seconds, results)
    text = results.write(folder, "events")
    if in_docs and not results.failed:
        into_docs("events", results)
    print("\n" + text)
    print(f"written: {folder}/events.json, events.md")
    return 0 if not results.failed and all(aim.is_met for aim in results.aims()) else 1


def one_round(setup: str, turn: int, seconds: float, results: Results) -> None:
    """The windows of a setup into the results; one that fails is named, and left out from then on."""
    try:
        for window in measure(setup, seconds):
            results.windows.append(window)
            roles = " + ".join(f"{role} {cpu:.1f}" for role, cpu in window.cpu_us.items())
            print(
                f"round {turn + 1}  {CASES[window.case]:18}  {setup:10}  {window.rate:10,.0f} events/s  "
                f"{window.total_cpu_us:6.1f} us CPU an event ({roles})  (others: {window.others_cores:.2f} cores)",
                flush=True,
            )
    except BenchmarkError as error:
        print(f"round {turn + 1}  {setup} failed\n{error}")
        results.failed[setup] = str(error).splitlines()[0]


def measure(setup: str, seconds: float) -> list[Window]:
    """Publishes, then handles. Raises BenchmarkError when an event is lost or a process dies."""
    with Stage() as stage:
        url = durable.start_jetstream(stage)
        env = {"PYTHONPATH": str(durable.generated(stage))}

        def program(role: Role, what: str) -> Program:
            command = durable.python("events_client", f"events_{setup}", url, what)
            return stage.spawn(role, command, env=env, interactive=True)

        published = 0

        def publish(events: int) -> float:
            """Seconds that it took."""
            nonlocal published
            took: float = ask(publisher, events=events, first=published)["seconds"]
            published += events
            return took

        try:
            publisher = program("client", "publish")
            rate = PROBES[0] / publish(PROBES[0])
            probe = whole(rate * PROBES[1])
            events = whole(probe / publish(probe) * seconds)
            accounts = Accounts(stage)
            windows = [window(setup, "publish", events, publish(events), accounts)]
            consumer = program("back-end", "consume")
            expect(consumer, "RESULT ")
            accounts = Accounts(stage)
            handled = ask(consumer, events=published)
            windows.append(window(setup, "handle", published, handled["seconds"], accounts))
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}\n{stage.logs()}") from None
        return windows


def window(setup: str, case: str, events: int, seconds: float, accounts: Accounts) -> Window:
    """One window, whose accounts are closed now."""
    cpu_us, others = accounts.close(events, seconds)
    return Window(setup=setup, case=case, count=events, seconds=seconds, cpu_us=cpu_us, others_cores=others)


def whole(events: float) -> int:
    """A number of events that fills all batches."""
    return max(BATCH, round(events / BATCH) * BATCH)

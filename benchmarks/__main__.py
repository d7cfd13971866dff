"""The command line: `python -m benchmarks`, with `jobs`, `events`, `subscribers`, ... for the other questions."""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import events, jobs, machine, measurement, plot, report, routes, setups, streams, stub, subscribers
from benchmarks.measurement import Window
from benchmarks.processes import ROOT, BenchmarkError

EVERYTHING: tuple[setups.Setup | stub.StubSetup, ...] = (*setups.ALL, *stub.ALL)

RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    """Runs what the arguments say; the status is 1 when a setup failed, 2 when none could run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        choices=["peers", "jobs", "events", "subscribers", "streams", "routes"],
        default="peers",
        help="peers: natsmesh, the floor and the peers (default); subscribers: one against many back-ends; "
        "streams: all kinds of call and sizes of messages; routes: ten against a thousand; "
        "jobs, events: from publishing to done, natsmesh, the floor and the peers",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one round of 2 s, to see that everything runs; the numbers are rough"
    )
    parser.add_argument("--rounds", type=int, help="rounds, interleaved (3)")
    parser.add_argument("--seconds", type=float, help="length of each window (6)")
    parser.add_argument("--peers", help="only these, by comma: " + ",".join(setup.name for setup in EVERYTHING))
    parser.add_argument(
        "--out", type=Path, help="folder for the results (benchmarks/results; with --quick benchmarks/results/quick)"
    )
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or (2.0 if options.quick else 6.0)
    folder = options.out or (RESULTS / "quick" if options.quick else RESULTS)
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    try:
        if options.what in {"jobs", "events"}:
            seconds = options.seconds or (0.5 if options.quick else 1.5)
            measure = jobs.main if options.what == "jobs" else events.main
            return measure(rounds, seconds, folder, machine.describe(), command, in_docs=folder == RESULTS)
        if options.what == "streams":
            seconds = options.seconds or (0.4 if options.quick else 1.2)
            return streams.main(rounds, seconds, folder, machine.describe(), command)
        if options.what in {"subscribers", "routes"}:
            other = subscribers.main if options.what == "subscribers" else routes.main
            return other(rounds, seconds, folder, machine.describe())
        return peers(rounds, seconds, folder, chosen(options.peers, parser))
    except KeyboardInterrupt:
        return 130
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1


def chosen(names: str | None, parser: argparse.ArgumentParser) -> set[str]:
    """The setups that `--peers` names; all without it."""
    known = {setup.name for setup in EVERYTHING}
    asked = set(names.split(",")) if names else known
    if asked - known:
        parser.error(f"--peers: unknown {', '.join(sorted(asked - known))}; known: {', '.join(sorted(known))}")
    return asked


def peers(rounds: int, seconds: float, folder: Path, names: set[str]) -> int:
    """Measures everything in turn, `rounds` times, so that a slow minute of the machine meets all of them alike."""
    results = report.Results(
        command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        machine=machine.describe(),
        started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        rounds=rounds,
        seconds=seconds,
    )
    runnable: list[setups.Setup | stub.StubSetup] = []
    for setup in EVERYTHING:
        if setup.name not in names:
            continue
        results.titles[setup.name] = setup.title
        why = setup.missing()
        if why is None:
            runnable.append(setup)
        else:
            results.missing[setup.name] = why
            print(f"missing: {setup.title}: {why}")
    for turn in range(rounds):
        for setup in runnable[turn % max(len(runnable), 1) :] + runnable[: turn % max(len(runnable), 1)]:
            if setup.name not in results.failed:
                one_window(setup, turn, seconds, results)
    results.write(folder)
    drawn = plot.draw(results, folder / "plot.png")
    print("\n" + report.markdown(results))
    print(f"written: {folder}/results.json, table.md" + (f"; no plot: {drawn}" if drawn else ", plot.png"))
    if results.failed:
        return 1
    return 0 if results.http or results.stub else 2


def one_window(setup: setups.Setup | stub.StubSetup, turn: int, seconds: float, results: report.Results) -> None:
    """One window of one setup into the results; a setup that fails is named, and left out from then on."""
    measured = results.http if isinstance(setup, setups.Setup) else results.stub
    print(f"round {turn + 1}  {setup.name:20} ", end="", flush=True)
    try:
        window = (
            measurement.measure(setup, seconds) if isinstance(setup, setups.Setup) else stub.measure(setup, seconds)
        )
    except BenchmarkError as error:
        print("failed")
        print(error, file=sys.stderr)
        results.failed[setup.name] = str(error).splitlines()[0]
        measured.pop(setup.name, None)
        return
    measured.setdefault(setup.name, []).append(window)
    print(line(window), flush=True)


def line(window: Window) -> str:
    """One window for the eyes of whoever waits."""
    roles = " + ".join(f"{role} {cpu:.0f}" for role, cpu in window.cpu_us.items())
    disturbed = f"  (others: {window.others_cores:.2f} cores)" if window.others_cores > report.DISTURBED_ABOVE else ""
    return (
        f"{window.rate:8,.0f} calls/s  p50 {window.p50_us / 1000:6.2f} ms  p99 {window.p99_us / 1000:6.2f} ms  "
        f"{window.total_cpu_us:6.1f} us CPU a call ({roles}){disturbed}"
    )


if __name__ == "__main__":
    sys.exit(main())

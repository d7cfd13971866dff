"""Jobs, from the call that enqueues them to their end: natsmesh beside its floor and its peers.

One broker, one worker process, one client process a setup, started anew for each window; the processes of the others
are gone meanwhile, since some of them poll.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import durable, job_setups
from benchmarks.durable_report import Results, Window, into_docs
from benchmarks.interactive import expect, say
from benchmarks.job_setups import JobSetup
from benchmarks.machine import output, package_version
from benchmarks.measurement import Accounts
from benchmarks.processes import BenchmarkError, Program, Stage

CASES = {"1": "one job at a time", "100": "a hundred jobs at once"}
"""Jobs at once in the one worker process."""
LONE_JOBS = 30
PROBES = (200, 0.4)
"""The load before the window: so many jobs, then as many as take so many seconds."""


def main(rounds: int, seconds: float, folder: Path, machine: dict[str, object], command: str, *, in_docs: bool) -> int:
    """Measures all, writes `jobs.json` and `jobs.md`. The status is 1 when an aim is missed or a setup failed."""
    results = Results(
        command=command,
        machine=machine,
        started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        rounds=rounds,
        seconds=seconds,
        unit="job",
        cases=CASES,
        versions={name: package_version(name) or "" for name in ("nats-py", "faststream", "taskiq", "taskiq-nats")},
    )
    runnable: list[JobSetup] = []
    for setup in job_setups.ALL:
        results.titles[setup.name], results.notes[setup.name] = setup.title, setup.note
        why = setup.missing()
        if why is None:
            runnable.append(setup)
            results.versions |= setup.versions()
        else:
            results.missing[setup.name] = why
            print(f"missing: {setup.title}: {why}")
    if durable.redis_missing() is None:
        results.versions["redis-server"] = (
            (output("redis-server", "--version") or "").partition("v=")[2].partition(" ")[0]
        )
    for turn in range(rounds):
        for case in CASES:
            for setup in runnable[turn % len(runnable) :] + runnable[: turn % len(runnable)]:
                if setup.name not in results.failed:
                    one_window(setup, case, turn, seconds, results)
    text = results.write(folder, "jobs")
    if in_docs and not results.missing and not results.failed:
        into_docs("jobs", results)
    print("\n" + text)
    print(f"written: {folder}/jobs.json, jobs.md")
    return 0 if not results.failed and all(aim.is_met for aim in results.aims()) else 1


def one_window(setup: JobSetup, case: str, turn: int, seconds: float, results: Results) -> None:
    """One window into the results; a setup that fails is named, and left out from then on."""
    print(f"round {turn + 1}  {CASES[case]:22}  {setup.name:10}  ", end="", flush=True)
    try:
        window = measure(setup, case, seconds)
    except BenchmarkError as error:
        print(f"failed\n{error}")
        results.failed[setup.name] = str(error).splitlines()[0]
        return
    results.windows.append(window)
    roles = " + ".join(f"{role} {cpu:.0f}" for role, cpu in window.cpu_us.items())
    print(
        f"{window.rate:8,.0f} jobs/s  {window.total_cpu_us:7.1f} us CPU a job ({roles})  "
        f"alone {window.idle_p50_us / 1000:.1f} ms  (others: {window.others_cores:.2f} cores)",
        flush=True,
    )


def measure(setup: JobSetup, case: str, seconds: float) -> Window:
    """Runs one window. Raises BenchmarkError when a job is lost or a process dies."""
    with Stage() as stage:
        client = setup.start(stage, int(case))
        try:
            ask(client, do="first")
            alone = ask(client, do="idle", jobs=LONE_JOBS)
            rate = load(client, PROBES[0])
            rate = load(client, max(PROBES[0], int(rate * PROBES[1])))
            jobs = max(PROBES[0], int(rate * seconds))
            accounts = Accounts(stage)
            loaded = ask(client, do="load", jobs=jobs)
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}\n{stage.logs()}") from None
        cpu_us, others = accounts.close(jobs, loaded["seconds"])
        return Window(
            setup=setup.name,
            case=case,
            count=jobs,
            seconds=loaded["seconds"],
            cpu_us=cpu_us,
            others_cores=others,
            idle_p50_us=alone["p50_us"],
            idle_p95_us=alone["p95_us"],
        )


def load(client: Program, jobs: int) -> float:
    """So many jobs; jobs a second."""
    seconds: float = ask(client, do="load", jobs=jobs)["seconds"]
    return jobs / seconds


def ask(client: Program, **order: Any) -> dict[str, Any]:
    """Has the client do something; what it found out."""
    say(client, json.dumps(order))
    answer: dict[str, Any] = json.loads(expect(client, "RESULT "))
    return answer

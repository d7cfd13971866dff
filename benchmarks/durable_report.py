"""What the benchmarks of jobs and events found out: windows, tables, and the project's aims."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.processes import ROOT, Role
from benchmarks.report import DISTURBED_ABOVE
from benchmarks.streams_report import Aim

OURS, FLOOR = "natsmesh", "floor"
TO_FLOOR = 0.7
"""What part of the floor's rate natsmesh is to reach; it is to be faster than any peer."""
DOCS = ROOT / "docs" / "benchmarks.md"
ROLES: tuple[Role, ...] = ("client", "back-end", "broker")


@dataclass(frozen=True)
class Window:
    """What one window gave. CPU in microseconds a job or event, latencies in microseconds."""

    setup: str
    case: str
    count: int
    seconds: float
    cpu_us: dict[Role, float]
    others_cores: float
    """Cores that processes outside the measurement kept busy."""
    idle_p50_us: float = 0.0
    idle_p95_us: float = 0.0
    """From the call that enqueues a job to its result, when nothing else is to be done; where that was measured."""

    @property
    def rate(self) -> float:
        """Jobs or events a second."""
        return self.count / self.seconds

    @property
    def total_cpu_us(self) -> float:
        """CPU of all processes."""
        return sum(self.cpu_us.values())


@dataclass
class Results:
    """Everything a run found out."""

    command: str
    machine: dict[str, object]
    started: str
    rounds: int
    seconds: float
    unit: str
    """What is counted: `job` or `event`."""
    cases: dict[str, str]
    titles: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)

    def of(self, setup: str, case: str) -> list[Window]:
        """The windows of a setup in a case, a round each."""
        return [window for window in self.windows if (window.setup, window.case) == (setup, case)]

    def middle(self, setup: str, case: str, value: Callable[[Window], float]) -> float:
        """The median of a value over the rounds."""
        return median(map(value, self.of(setup, case)))

    def ratio(self, other: str, case: str, value: Callable[[Window], float]) -> float:
        """How many times the other's value natsmesh has: the median over the rounds of the ratio in a round."""
        pairs = zip(self.of(OURS, case), self.of(other, case), strict=True)
        return median(value(mine) / value(others) for mine, others in pairs)

    def measured(self, case: str) -> list[str]:
        """The setups that have numbers in a case."""
        return [setup for setup in self.titles if setup not in self.failed and self.of(setup, case)]

    def aims(self) -> Iterator[Aim]:
        """The project's aims, and what was measured."""
        for case, title in self.cases.items():
            others = [setup for setup in self.measured(case) if setup != OURS]
            for other in others if OURS in self.measured(case) else ():
                limit = TO_FLOOR if other == FLOOR else 1.0
                yield Aim(
                    f"{title}: {self.unit}s/s, to {self.titles[other]}", limit, True, self.ratio(other, case, rate)
                )

    def write(self, folder: Path, name: str) -> str:
        """Writes `<name>.json` and `<name>.md`; returns the text of the latter."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        text = markdown(self)
        (folder / f"{name}.md").write_text(text)
        return text


def rate(window: Window) -> float:
    """Jobs or events a second."""
    return window.rate


def total_cpu(window: Window) -> float:
    """CPU of all processes."""
    return window.total_cpu_us


def markdown(results: Results) -> str:
    """The whole report."""
    heading = {"job": "Durable jobs", "event": "Events"}[results.unit]
    notes = [f"- {title}: {results.notes[setup]}." for setup, title in results.titles.items()]
    parts = [f"# {heading}\n", preamble(results), "\n".join(notes) + "\n"]
    for case, title in results.cases.items():
        parts += [f"## {title.capitalize()}\n", table(results, case)]
    parts += [aims_table(results)]
    return "\n".join(parts)


def preamble(results: Results) -> str:
    machine = results.machine
    commit = f"{machine['commit']}{' with uncommitted changes' if machine['uncommitted_changes'] else ''}"
    lines = [
        f"`{results.command}`, started {results.started}, commit {commit}.",
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, {machine['system']}.",
        f"{machine['python']}, {machine['nats-server']}, "
        + ", ".join(f"{name} {version}" for name, version in results.versions.items())
        + ".",
        f"Medians of {results.rounds} interleaved rounds of about {results.seconds:g} s.",
        "All brokers write to files, and have the system force them to the disk once a second.",
    ]
    busy = [window.others_cores for window in results.windows]
    disturbed = [others for others in busy if others > DISTURBED_ABOVE]
    if disturbed:
        lines.append(
            f"**{len(disturbed)} of {len(busy)} windows were disturbed: other processes kept up to "
            f"{max(disturbed):.1f} cores busy.**"
        )
    absent = {**results.missing, **results.failed}
    lines += [f"No numbers of {results.titles[setup]}: {why}" for setup, why in absent.items()]
    return "\n".join(lines) + "\n"


def table(results: Results, case: str) -> str:
    """The setups side by side, the fastest peer first."""
    unit = results.unit
    setups = results.measured(case)
    setups.sort(key=lambda setup: (setup not in (OURS, FLOOR), -results.middle(setup, case, rate)))
    shown: list[Role] = [
        role for role in ROLES if any(window.cpu_us.get(role) for setup in setups for window in results.of(setup, case))
    ]
    has_idle = any(window.idle_p50_us for window in results.windows)
    head = ["setup", f"{unit}s/s", "natsmesh to it", f"CPU µs/{unit}", "natsmesh to it"]
    head += [f"of it {role}" for role in shown] + (["a lone job, p50 ms", "p95"] if has_idle else [])
    rows = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for setup in setups:
        compared = setup != OURS and OURS in setups
        cells = [
            results.titles[setup],
            f"{results.middle(setup, case, rate):,.0f}",
            f"**{results.ratio(setup, case, rate):.2f}**" if compared else "",
            f"{results.middle(setup, case, total_cpu):,.1f}",
            f"{results.ratio(setup, case, total_cpu):.2f}" if compared else "",
            *(cpu_of(results, setup, case, role) for role in shown),
        ]
        if has_idle:
            cells += [idle(results, setup, case, "idle_p50_us"), idle(results, setup, case, "idle_p95_us")]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([*rows, ""])


def cpu_of(results: Results, setup: str, case: str, role: Role) -> str:
    """CPU of a role, median over the rounds."""
    return f"{results.middle(setup, case, lambda window: window.cpu_us.get(role, 0.0)):,.1f}"


def idle(results: Results, setup: str, case: str, name: str) -> str:
    """A latency, median over the rounds."""
    return f"{results.middle(setup, case, lambda window: getattr(window, name)) / 1000:.1f}"


def aims_table(results: Results) -> str:
    rows = ["| ratio in this run | aim | measured | |", "|---|---:|---:|---|"]
    for aim in results.aims():
        sign = ">=" if aim.limit != 1 else ">"
        rows.append(f"| {aim.text} | {sign} {aim.limit:g} | {aim.measured:.2f} | {'met' if aim.is_met else 'missed'} |")
    return "## Aims\n\n" + "\n".join(rows) + "\n"


def into_docs(name: str, results: Results) -> None:
    """Writes the tables between the two marks `<!-- name -->` and `<!-- end of name -->` of `docs/benchmarks.md`."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = DOCS.read_text().partition(begin)
    _, also_found, after = rest.partition(end)
    if found and also_found:
        DOCS.write_text(before + begin + summary(results) + end + after)


def summary(results: Results) -> str:
    """Rates and CPU of all cases in one table."""
    setups: Sequence[str] = [setup for setup in results.titles if setup not in (*results.missing, *results.failed)]
    head = ["", *(f"{title}: {results.unit}s/s | CPU µs/{results.unit}" for title in results.cases.values())]
    rows = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (2 * len(results.cases))]
    for setup in setups:
        cells = [results.titles[setup]]
        for case in results.cases:
            cells += [
                f"{results.middle(setup, case, rate):,.0f}",
                f"{results.middle(setup, case, total_cpu):,.0f}",
            ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"

"""A run's results as raw JSON and as a Markdown table; `plot.py` draws them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.measurement import Window
from benchmarks.processes import Role

HTTP_ROLES: tuple[Role, ...] = ("gateway", "back-end", "broker")
STUB_ROLES: tuple[Role, ...] = ("client", "back-end", "broker")

DISTURBED_ABOVE = 0.1
"""Cores kept busy by others from which a window counts as disturbed."""


@dataclass
class Results:
    """Everything a run found out."""

    command: str
    machine: dict[str, object]
    started: str
    rounds: int
    seconds: float
    http: dict[str, list[Window]] = field(default_factory=dict)
    stub: dict[str, list[Window]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes `results.json` and `table.md`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        (folder / "table.md").write_text(markdown(self))


@dataclass(frozen=True)
class Aim:
    """One of the project's aims: the CPU of one setup is at most `limit` times that of another in the same run."""

    text: str
    setup: str
    against: str
    limit: float


AIMS = (
    Aim("natsmesh, tracing off, to the floor", "natsmesh", "floor", 1.1),
    Aim("natsmesh, tracing off, to Moleculer", "natsmesh", "moleculer", 0.5),
    Aim("natsmesh, tracing off, to Envoy + grpc.aio", "natsmesh", "envoy", 0.2),
    Aim("natsmesh, tracing off, to FastStream", "natsmesh", "faststream", 0.12),
    Aim("natsmesh, 1 % traced, to tracing off", "natsmesh-traced-1", "natsmesh", 1.1),
    Aim("stub to servicer, natsmesh to grpc.aio", "stub-natsmesh", "stub-grpc", 0.2),
)


def middle(windows: Sequence[Window], value: Callable[[Window], float]) -> float:
    """The median of a value over the rounds."""
    return median(value(window) for window in windows)


def markdown(results: Results) -> str:
    """The whole report."""
    parts = ["# Benchmark results\n", _preamble(results)]
    if results.http:
        parts.append(
            "## JSON over HTTP, through a gateway, to one back-end\n\n" + _table(results, results.http, HTTP_ROLES)
        )
    if results.stub:
        parts.append("## Stub to servicer, without HTTP\n\n" + _table(results, results.stub, STUB_ROLES))
    parts.append("## Aims\n\n" + _aims(results))
    for heading, entries in (("Not installed here", results.missing), ("Failed", results.failed)):
        if entries:
            parts.append(
                f"## {heading}\n\n"
                + "\n".join(f"- {results.titles[name]}: {why}" for name, why in entries.items())
                + "\n"
            )
    return "\n".join(parts)


def _preamble(results: Results) -> str:
    machine = results.machine
    commit = f"{machine['commit']}{' with uncommitted changes' if machine['uncommitted_changes'] else ''}"
    node = f", node {machine['node']}" if machine["node"] else ""
    lines = [
        f"`{results.command}`, started {results.started}, commit {commit}.",
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, {machine['system']}.",
        f"{machine['python']}{node}; load by {machine['load']}, which shares these cores.",
        f"Medians of {results.rounds} interleaved rounds of {results.seconds:g} s (in brackets: lowest and highest).",
    ]
    disturbed = [
        window
        for windows in (*results.http.values(), *results.stub.values())
        for window in windows
        if window.others_cores > DISTURBED_ABOVE
    ]
    if disturbed:
        lines.append(
            f"**{len(disturbed)} windows were disturbed: other processes kept up to "
            f"{max(window.others_cores for window in disturbed):.1f} cores busy.**"
        )
    return "\n".join(lines) + "\n"


def _table(results: Results, measured: dict[str, list[Window]], roles: Sequence[Role]) -> str:
    ready = any(window.backend_ready_seconds is not None for windows in measured.values() for window in windows)
    head = ["setup", "calls/s", "p50 ms", "p99 ms", "CPU µs/call", *(f"of it {role}" for role in roles), "back-end MB"]
    if ready:
        head.append("back-end ready s")
    rows = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name, windows in measured.items():
        megabytes = middle(windows, lambda window: window.backend_resident_bytes) / 1e6
        cells = [
            results.titles[name],
            f"{middle(windows, lambda window: window.rate):,.0f}",
            f"{middle(windows, lambda window: window.p50_us) / 1000:.1f}",
            f"{middle(windows, lambda window: window.p99_us) / 1000:.1f}",
            _spread(windows),
            *(_role(windows, role) for role in roles),
            f"{megabytes:.0f}" if megabytes else "-",
        ]
        if ready:
            cells.append(f"{middle(windows, lambda window: window.backend_ready_seconds or 0.0):.2f}")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _spread(windows: Sequence[Window]) -> str:
    totals = [window.total_cpu_us for window in windows]
    return f"**{median(totals):.0f}** ({min(totals):.0f} to {max(totals):.0f})"


def _role(windows: Sequence[Window], role: Role) -> str:
    if all(role not in window.cpu_us for window in windows):
        return "-"
    return f"{middle(windows, lambda window: window.cpu_us.get(role, 0.0)):.0f}"


def _aims(results: Results) -> str:
    measured = results.http | results.stub
    rows = ["| CPU per call, ratio in this run | aim | measured | |", "|---|---:|---:|---|"]
    for aim in AIMS:
        if aim.setup in measured and aim.against in measured:
            ratio = total(measured[aim.setup]) / total(measured[aim.against])
            rows.append(
                f"| {aim.text} | <= {aim.limit:g} | {ratio:.3f} | {'met' if ratio <= aim.limit else 'missed'} |"
            )
        else:
            rows.append(f"| {aim.text} | <= {aim.limit:g} | - | not measured |")
    if "natsmesh" in results.http:
        windows = results.http["natsmesh"]
        megabytes = middle(windows, lambda window: window.backend_resident_bytes) / 1e6
        seconds = middle(windows, lambda window: window.backend_ready_seconds or 0.0)
        rows.append(
            f"| back-end process, resident MB | <= 60 | {megabytes:.0f} | {'met' if megabytes <= 60 else 'missed'} |"
        )
        rows.append(f"| back-end ready after start, s | <= 1 | {seconds:.2f} | {'met' if seconds <= 1 else 'missed'} |")
    return "\n".join(rows) + "\n"


def total(windows: Sequence[Window]) -> float:
    """CPU microseconds a call, median over the rounds."""
    return middle(windows, lambda window: window.total_cpu_us)

"""What the streams benchmark found out, as a Markdown table, as a plot, and beside the project's aims."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.processes import Role
from benchmarks.report import DISTURBED_ABOVE

SETUPS = {"natsmesh": "natsmesh", "grpc": "grpc.aio", "raw": "nats-py publish"}
COLOURS = {"natsmesh": "#3465a4", "grpc": "#f57900", "raw": "#888a85"}
KINDS = {
    "raw": "publish to subscribe",
    "unary": "unary",
    "server_stream": "server stream",
    "client_stream": "client stream",
    "bidi_stream": "bidirectional stream",
}
BOTH_WAYS = {"unary", "bidi_stream"}
"""Kinds in which every message is answered by one of the same size."""
ROLES: tuple[Role, ...] = ("client", "back-end", "broker")


@dataclass(frozen=True)
class Window:
    """What one window gave. CPU in microseconds a message."""

    messages: int
    seconds: float
    cpu_us: dict[Role, float]
    others_cores: float
    """Cores that processes outside the measurement kept busy."""
    unary_p50_us: float = 0.0
    stream_p50_us: float = 0.0
    """Until the response, and until the first message of a stream; where that was measured."""

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds

    @property
    def total_cpu_us(self) -> float:
        """CPU of client, back-end and broker."""
        return sum(self.cpu_us.values())


class Cell(NamedTuple):
    """What is measured: a setup, a kind of call (or "first", the time to the first message), bytes of a message."""

    setup: str
    kind: str
    size: int

    def megabytes(self, window: Window) -> float:
        """MB (10^6 bytes) of messages a second, those that answer included."""
        return window.rate * self.size * (2 if self.kind in BOTH_WAYS else 1) / 1e6


@dataclass
class Results:
    """Everything a run found out."""

    command: str
    machine: dict[str, object]
    started: str
    rounds: int
    seconds: float
    windows: dict[Cell, list[Window]] = field(default_factory=dict)

    def middle(self, cell: Cell, value: Callable[[Window], float]) -> float:
        """The median of a value over the rounds."""
        return median(value(window) for window in self.windows[cell])

    def cpu_us(self, cell: Cell, role: Role) -> float:
        """CPU of a role, median over the rounds; 0 where the setup has no such role."""
        return self.middle(cell, lambda window: window.cpu_us.get(role, 0.0))

    def ratio(self, one: Cell, other: Cell, value: Callable[[Window], float]) -> float:
        """How many times the other's value one has: the median over the rounds of the ratio in a round."""
        return median(
            value(mine) / value(others) for mine, others in zip(self.windows[one], self.windows[other], strict=True)
        )


@dataclass(frozen=True)
class Aim:
    """One of the project's aims: at least, or at most, a certain ratio in the same run."""

    text: str
    limit: float
    at_least: bool
    measured: float

    @property
    def is_met(self) -> bool:
        """Whether this run is where the project wants to be."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def aims(results: Results) -> Iterator[Aim]:
    """The aims, and what was measured."""
    for size in (16, 1024):
        ratio = results.ratio(Cell("natsmesh", "server_stream", size), Cell("grpc", "server_stream", size), rate)
        yield Aim(f"server stream of {in_words(size)}, messages/s, to grpc.aio", 2.0, True, ratio)
    for kind in ("server_stream", "client_stream"):
        ratio = results.ratio(Cell("natsmesh", kind, 2**20), Cell("raw", "raw", 2**20), rate)
        yield Aim(f"{KINDS[kind]} of 1 MiB, bytes/s, to nats-py publish", 0.5, True, ratio)
    first = Cell("natsmesh", "first", 16)
    ratio = results.middle(first, lambda window: window.stream_p50_us / window.unary_p50_us)
    yield Aim("natsmesh: time to the first message of a server stream, p50, to a unary call", 1.5, False, ratio)


def rate(window: Window) -> float:
    """Messages a second."""
    return window.rate


def in_words(size: int) -> str:
    """16 B, 64 KiB, 8 MiB."""
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def markdown(results: Results) -> str:
    """The whole report."""
    parts = ["# Streams\n", preamble(results), throughput_table(results), first_table(results), aims_table(results)]
    return "\n".join(parts)


def preamble(results: Results) -> str:
    machine = results.machine
    commit = f"{machine['commit']}{' with uncommitted changes' if machine['uncommitted_changes'] else ''}"
    lines = [
        f"`{results.command}`, started {results.started}, commit {commit}.",
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, {machine['system']}.",
        f"{machine['python']}, {machine['nats-server']} with its defaults.",
        f"Medians of {results.rounds} interleaved rounds of {results.seconds:g} s.",
    ]
    busy = [window.others_cores for windows in results.windows.values() for window in windows]
    disturbed = [others for others in busy if others > DISTURBED_ABOVE]
    if disturbed:
        lines.append(
            f"**{len(disturbed)} of {len(busy)} windows were disturbed: other processes kept up to "
            f"{max(disturbed):.1f} cores busy.**"
        )
    return "\n".join(lines) + "\n"


def throughput_table(results: Results) -> str:
    head = ["kind", "size", "setup", "messages/s", "to grpc.aio", "MB/s", "CPU µs/message", "to grpc.aio"]
    head += [f"of it {role}" for role in ROLES]
    rows = ["| " + " | ".join(head) + " |", "|---|---:|---|" + "---:|" * (len(head) - 3)]
    for kind, title in KINDS.items():
        for cell in sorted((cell for cell in results.windows if cell.kind == kind), key=lambda cell: cell.size):
            peer = Cell("grpc", kind, cell.size)
            compared = cell.setup == "natsmesh"
            total = results.middle(cell, lambda window: window.total_cpu_us)
            faster = f"**{results.ratio(cell, peer, rate):.2f}**" if compared else ""
            cheaper = f"{results.ratio(cell, peer, lambda window: window.total_cpu_us):.2f}" if compared else ""
            cells = [
                title,
                in_words(cell.size),
                SETUPS[cell.setup],
                f"{results.middle(cell, rate):,.0f}",
                faster,
                f"{results.middle(cell, cell.megabytes):,.1f}",
                f"{total:,.1f}",
                cheaper,
                *(f"{results.cpu_us(cell, role):,.1f}" for role in ROLES),
            ]
            rows.append("| " + " | ".join(cells) + " |")
    rows += [
        "",
        "A message of a unary call or a bidirectional stream is one that was sent and answered with another one of the",
        "same size: MB/s has both, CPU is that of both.",
        "",
    ]
    return "## Throughput\n\n" + "\n".join(rows)


def first_table(results: Results) -> str:
    rows = ["| setup | unary call, p50 µs | first message, p50 µs | ratio |", "|---|---:|---:|---:|"]
    for setup in ("natsmesh", "grpc"):
        cell = Cell(setup, "first", 16)
        unary = results.middle(cell, lambda window: window.unary_p50_us)
        stream = results.middle(cell, lambda window: window.stream_p50_us)
        ratio = results.middle(cell, lambda window: window.stream_p50_us / window.unary_p50_us)
        rows.append(f"| {SETUPS[setup]} | {unary:.0f} | {stream:.0f} | {ratio:.2f} |")
    return "## Time to the first message of a server stream\n\nOne call at a time, 16 B.\n\n" + "\n".join(rows) + "\n"


def aims_table(results: Results) -> str:
    rows = ["| ratio in this run | aim | measured | |", "|---|---:|---:|---|"]
    for aim in aims(results):
        sign = ">=" if aim.at_least else "<="
        rows.append(f"| {aim.text} | {sign} {aim.limit:g} | {aim.measured:.2f} | {'met' if aim.is_met else 'missed'} |")
    return "## Aims\n\n" + "\n".join(rows) + "\n"


def draw(results: Results, file: Path) -> str | None:
    """Writes a PNG; returns why not, when matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return "matplotlib is not installed: pip install 'natsmesh[bench]'"
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = [kind for kind in KINDS if kind != "raw"]
    figure, axes = plt.subplots(2, len(kinds), figsize=(15, 7), sharex=True, sharey="row", layout="constrained")
    for column, kind in enumerate(kinds):
        rates, cpu = axes[0][column], axes[1][column]
        curves(rates, results, kind, rate)
        curves(cpu, results, kind, lambda window: window.total_cpu_us)
        rates.set_title(KINDS[kind] + (": there and back" if kind in BOTH_WAYS else ""))
    axes[0][0].set_ylabel("messages per second (more is better)")
    axes[1][0].set_ylabel("CPU per message, µs (less is better)")
    axes[0][0].legend(fontsize=8)
    machine = results.machine
    figure.suptitle(
        f"{machine['cores']} cores of {machine['cpu']}, {results.rounds} x {results.seconds:g} s, {results.started}",
        fontsize=9,
    )
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return None


def curves(axis: Any, results: Results, kind: str, value: Callable[[Window], float]) -> None:
    """A value over the size of the messages, for each setup."""
    for setup, title in SETUPS.items():
        wanted = "raw" if setup == "raw" else kind
        points = sorted(cell for cell in results.windows if (cell.setup, cell.kind) == (setup, wanted))
        values = [results.middle(cell, value) for cell in points]
        style = "--" if setup == "raw" else "-"
        label = f"{title} (one way)" if setup == "raw" else title
        axis.loglog([cell.size for cell in points], values, style, marker="o", color=COLOURS[setup], label=label)
    sizes = sorted({cell.size for cell in results.windows if cell.kind in KINDS})
    axis.set_xticks(sizes, [in_words(size) for size in sizes], fontsize=8)
    axis.grid(alpha=0.3)

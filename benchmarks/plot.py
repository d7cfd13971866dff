"""The plot: CPU a call by role, and calls a second, of every setup that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measurement import Window
from benchmarks.processes import Role
from benchmarks.report import HTTP_ROLES, STUB_ROLES, Results, middle

COLOURS: dict[Role, str] = {"gateway": "#3465a4", "client": "#3465a4", "back-end": "#f57900", "broker": "#888a85"}


def draw(results: Results, file: Path) -> str | None:
    """Writes a PNG; returns why not, when matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return "matplotlib is not installed: pip install 'natsmesh[bench]'"
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups = [
        (title, measured, roles)
        for title, measured, roles in (
            ("JSON over HTTP, through a gateway, to one back-end", results.http, HTTP_ROLES),
            ("Stub to servicer, without HTTP", results.stub, STUB_ROLES),
        )
        if measured
    ]
    if not groups:
        return "nothing was measured"
    heights = [len(measured) + 1.5 for _, measured, _ in groups]
    figure, axes = plt.subplots(
        len(groups),
        2,
        figsize=(13, 0.5 * sum(heights) + 1),
        squeeze=False,
        gridspec_kw={"height_ratios": heights, "width_ratios": [3, 2]},
        layout="constrained",
    )
    for (title, measured, roles), (left, right) in zip(groups, axes, strict=True):
        _cpu(left, results, measured, roles, title)
        _rate(right, measured)
    machine = results.machine
    figure.suptitle(
        f"{machine['cores']} cores of {machine['cpu']}, {results.rounds} x {results.seconds:g} s, {results.started}",
        fontsize=9,
    )
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return None


def _cpu(axis: Any, results: Results, measured: dict[str, list[Window]], roles: Sequence[Role], title: str) -> None:
    names = [results.titles[name] for name in measured]
    left = [0.0] * len(names)
    for role in roles:
        widths = [median(window.cpu_us.get(role, 0.0) for window in windows) for windows in measured.values()]
        axis.barh(names, widths, left=left, label=role, color=COLOURS[role])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, end in enumerate(left):
        axis.text(end, row, f" {end:.0f}", va="center", fontsize=8)
    axis.set(title=title, xlabel="CPU per call, µs (less is better)")
    axis.set_xlim(right=1.1 * max(left))
    axis.invert_yaxis()
    axis.legend(fontsize=8)


def _rate(axis: Any, measured: dict[str, list[Window]]) -> None:
    names = list(measured)
    rates = [middle(windows, lambda window: window.rate) for windows in measured.values()]
    axis.barh(names, rates, color="#73d216")
    for row, (rate, windows) in enumerate(zip(rates, measured.values(), strict=True)):
        p99 = middle(windows, lambda window: window.p99_us) / 1000
        axis.text(rate, row, f" {rate:,.0f}/s, p99 {p99:.1f} ms", va="center", fontsize=8)
    axis.set(xlabel="calls per second (more is better)")
    axis.set_yticks([])
    axis.set_xlim(right=1.6 * max(rates))
    axis.invert_yaxis()

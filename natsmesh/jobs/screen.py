"""Text that changes in its place in a terminal, and is printed line by line everywhere else."""

from __future__ import annotations

import shutil
import sys

_FULL, _EMPTY = "#", "-"
_WIDTH = 30


class Screen:
    """Shows a block of lines, again and again."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._shown = 0

    def show(self, lines: list[str]) -> None:
        """Show a block in place of the one before."""
        if not self.is_terminal:
            sys.stdout.write("".join(f"{line}\n" for line in lines))
        else:
            width = shutil.get_terminal_size().columns
            up = f"\x1b[{self._shown}A" if self._shown else ""
            # Each line is cut off: one that wraps would be two, and the next block would be too low.
            sys.stdout.write(up + "".join(f"\x1b[2K{line[: max(1, width - 1)]}\n" for line in lines) + "\x1b[J")
            self._shown = len(lines)
        sys.stdout.flush()


def bar(part: float) -> str:
    """Return a progress bar for a part from 0 to 1, with its percentage."""
    part = min(1.0, max(0.0, part))
    full = int(part * _WIDTH)
    return f"[{_FULL * full}{_EMPTY * (_WIDTH - full)}] {int(part * 100):3d} %"

"""Talking with a process of ours line by line, over its standard input and output."""

from __future__ import annotations

from benchmarks.processes import BenchmarkError, Program


def say(program: Program, line: str) -> None:
    """Sends a line."""
    assert program.process.stdin is not None
    program.process.stdin.write(f"{line}\n".encode())
    program.process.stdin.flush()


def expect(program: Program, start: str) -> str:
    """The rest of the program's next line, which must begin with `start`. The program bounds its own time."""
    assert program.process.stdout is not None
    line = program.process.stdout.readline().decode().rstrip("\n")
    if not line.startswith(start):
        raise BenchmarkError(f"{program.name} failed: {line!r}\n{program.log_tail()}")
    return line.removeprefix(start)

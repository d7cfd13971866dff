"""Generated messages and stubs are typed: mypy accepts a right program and finds each mistake in a wrong one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "typing"

# What a user's project has to configure: strict, and where the generated code lies.
CONFIG = f"""
[mypy]
strict = true
mypy_path = {ROOT / "gen"}:{ROOT}
explicit_package_bases = true
cache_dir = {ROOT / ".mypy_cache" / "typing"}

[mypy-google.api.*,google.rpc.*]
follow_untyped_imports = true

[mypy-rpc.*]
follow_imports = silent
"""


def errors_in(program: Path, tmp_path: Path) -> set[tuple[int, str]]:
    """Line and code of each error that mypy reports for a program."""
    config = tmp_path / "mypy.ini"
    config.write_text(CONFIG)
    command: list[str | Path] = [sys.executable, "-m", "mypy", "--config-file", config, "--no-error-summary", program]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=110)
    assert result.returncode in (0, 1), result.stdout + result.stderr
    errors = re.findall(r"^(.+?):(\d+): error: .*\[([a-z-]+)\]$", result.stdout, re.MULTILINE)
    elsewhere = {file for file, _, _ in errors if Path(tmp_path, file).resolve() != program}
    assert not elsewhere, result.stdout
    return {(int(line), code) for _, line, code in errors}


@pytest.mark.timeout(120)
def test_a_right_program_is_accepted(tmp_path: Path) -> None:
    assert errors_in(PROGRAMS / "accepted.py", tmp_path) == set()


@pytest.mark.timeout(120)
def test_each_mistake_is_found(tmp_path: Path) -> None:
    program = PROGRAMS / "refused.py"
    lines = program.read_text().splitlines()
    expected = {
        (number, match[1])
        for number, line in enumerate(lines, start=1)
        if (match := re.search(r"# error: ([a-z-]+)$", line))
    }
    assert expected
    assert errors_in(program, tmp_path) == expected

"""What ``docs/auth.md`` shows can be used as it is."""

from pathlib import Path

import pytest

from gateway.config import Config
from gateway.config_file import load_config
from gateway.filters.api_keys import load_api_keys

DOCS = (Path(__file__).parent.parent.parent / "docs" / "auth.md").read_text()


def blocks() -> list[str]:
    """The indented blocks of the page."""
    found: list[list[str]] = [[]]
    for line in DOCS.splitlines():
        if line.startswith("    "):
            found[-1].append(line[4:])
        elif line.strip():
            found.append([])
        elif found[-1]:
            found[-1].append("")
    return ["\n".join(block).strip() for block in found if block]


CONFIGS = [block for block in blocks() if block.startswith(("[auth]", "[auth.claims]", "[rate_limit]"))]


def test_there_are_examples() -> None:
    assert len(CONFIGS) == 3


@pytest.mark.parametrize("text", CONFIGS)
def test_configurations(tmp_path: Path, text: str) -> None:
    (tmp_path / "api-keys.toml").write_text(
        next(block for block in blocks() if block.startswith("key=")).split("\n\n")[1]
    )
    file = tmp_path / "gateway.toml"
    needed = '[auth]\napi_keys = "api-keys.toml"\n\n' if text.startswith("[auth.claims]") else ""
    file.write_text(needed + text)
    config = load_config(file, Config)
    assert config.auth is not None or config.rate_limit is not None
    assert load_api_keys(tmp_path / "api-keys.toml")

"""What the README says is true: its files are the files, its commands run, and print what it says."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.dev import Dev, assert_prints, natsmesh_dev
from tests.snippets import KINDS, README, Snippet, snippets

ROOT = README.parent


@pytest.mark.parametrize("snippet", snippets(), ids=str)
def test_every_block_says_what_it_is(snippet: Snippet) -> None:
    assert snippet.kind in KINDS
    assert bool(snippet.path) == (
        snippet.kind in {"file", "part"} or (snippet.kind == "project" and snippet.language != "sh")
    )


@pytest.mark.parametrize("snippet", snippets("file"), ids=str)
def test_files_are_shown_as_they_are(snippet: Snippet) -> None:
    assert snippet.path
    assert snippet.text == (ROOT / snippet.path).read_text()


@pytest.mark.parametrize("snippet", snippets("part"), ids=str)
def test_parts_are_lines_of_their_files(snippet: Snippet) -> None:
    assert snippet.path
    assert snippet.text in (ROOT / snippet.path).read_text()


def test_the_greeter_is_shown_whole() -> None:
    assert {snippet.path for snippet in snippets("file")} == {"proto/greeter/v1/greeter.proto", "services/greeter.py"}


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", README.read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """What `make run` starts."""
    with natsmesh_dev(ROOT, Path(sys.executable).parent, tmp_path_factory.mktemp("log") / "dev.log") as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's working directory, with the photo that the README takes for granted."""
    folder = tmp_path_factory.mktemp("reader")
    Image.effect_noise((1600, 1200), 60).convert("RGB").save(folder / "photo.jpg")
    return folder


@pytest.mark.parametrize("snippet", snippets("run"), ids=str)
def test_commands_do_what_is_shown(snippet: Snippet, dev: Dev, folder: Path) -> None:
    assert_prints(snippet, dev.run(snippet, folder))
    if "thumb.jpg" in snippet.text:
        with Image.open(folder / "thumb.jpg") as thumbnail:
            assert (thumbnail.format, thumbnail.size) == ("JPEG", (256, 192))

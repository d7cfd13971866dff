"""What the README says is true: its files are the files, its commands run, and print what it says."""

import re

import pytest

from tests.snippets import KINDS, README, Snippet, snippets

ROOT = README.parent


@pytest.mark.parametrize("snippet", snippets(), ids=str)
def test_every_block_says_what_it_is(snippet: Snippet) -> None:
    assert snippet.kind in KINDS
    assert bool(snippet.path) == (snippet.kind == "file" or (snippet.kind == "project" and snippet.language != "sh"))


@pytest.mark.parametrize("snippet", snippets("file"), ids=str)
def test_files_are_shown_as_they_are(snippet: Snippet) -> None:
    assert snippet.path
    assert snippet.text == (ROOT / snippet.path).read_text()


def test_the_greeter_is_shown_whole() -> None:
    assert {snippet.path for snippet in snippets("file")} == {"proto/greeter/v1/greeter.proto", "services/greeter.py"}


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", README.read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

"""Which of two versions is the newer one: the rules and examples of semver.org."""

import itertools

import pytest

from rpc.discovery.versions import check_version, version_key

# https://semver.org, rule 11, and some that follow from it; from the oldest to the newest.
ORDERED = [
    "0.0.0-0",
    "0.0.0",
    "0.9.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0",
    "2.1.0",
    "2.1.1",
    "10.0.0-1.2.3",
    "10.0.0-1.2.3.4",
    "10.0.0-1.2.30",
    "10.0.0-1.a",
    "10.0.0--",
    "10.0.0",
]


@pytest.mark.parametrize(("older", "newer"), list(itertools.pairwise(ORDERED)))
def test_precedence(older: str, newer: str) -> None:
    assert version_key(check_version(older)) < version_key(check_version(newer))


def test_build_metadata_does_not_count() -> None:
    assert version_key("1.0.0+20130313144700") == version_key("1.0.0+exp.sha.5114f85") == version_key("1.0.0")
    assert version_key("1.0.0-a+b-c") == version_key("1.0.0-a")


@pytest.mark.parametrize(
    "version", ["1.0.0", "1.0.0-a.b-c.1+d.01", "0.0.4", "1.1.2-prerelease+meta", "1.0.0-0A.is.legal"]
)
def test_semantic_versions_are_kept(version: str) -> None:
    assert check_version(version) == version


@pytest.mark.parametrize(
    "version",
    [
        "", "1", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.02.3", "1.2.3-", "1.2.3+", "1.2.3-a..b", "1.2.3 ", "1.2.3\n",
        "1.2.3-01", "1.2.3-a.01", "1.2.3-ä", "1.1\u0661.3", "-1.0.0", "1.0.0-" + "9" * 5000, "9" * 5000 + ".0.0",
    ],
)  # fmt: skip
def test_others_are_refused(version: str) -> None:
    with pytest.raises(ValueError, match="not a semantic version"):
        check_version(version)

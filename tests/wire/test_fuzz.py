"""A short run of the fuzzer, so that it keeps working; docs/wire-protocol.md says what the long ones found."""

from rpc.wire.envelope import ProtocolError
from tests.wire.fuzz import Fuzzer


def test_no_surprises() -> None:
    fuzzer = Fuzzer(seed=7)
    fuzzer.run(20_000, lambda _given: None)
    assert fuzzer.surprises == []
    assert sum(fuzzer.outcomes.values()) >= 20_000
    seen = " ".join(fuzzer.outcomes)
    for state in ("HEADERS", "MESSAGES", "ASSEMBLING", "HALF_CLOSED", "CLOSED"):
        assert f"taken, {state}" in seen


def test_a_surprise_is_one() -> None:
    fuzzer = Fuzzer(seed=1)

    def surprising() -> str:
        raise KeyError

    def misplaced() -> str:
        raise ProtocolError("where none is promised")

    assert not fuzzer.give("this", b"", surprising)
    assert not fuzzer.give("that", b"", misplaced)
    assert len(fuzzer.surprises) == 2

"""The record of who was asked and who answered, by a clock of the test's own."""

from rpc.transport.rollcall import INTERVAL, MAX_CALLS, RollCaller


class Asking:
    """A roll caller, the time, and what was asked."""

    def __init__(self, limit: float) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.caller = RollCaller(lambda peer, calls: self.asked.append((peer, calls)), silence_limit=limit)
        self.now = 1000.0

    def sweep(self, held: dict[str, list[str]], after: float = INTERVAL) -> list[str]:
        self.now += after
        self.asked.clear()
        return self.caller.sweep(self.now, held)


def test_all_peers_are_asked_for_their_calls_each_time() -> None:
    asking = Asking(5)
    held = {"a": ["1", "2"], "b": ["3 7"]}
    for _ in range(3):
        assert asking.sweep(held) == []
        assert asking.asked == [("a", ["1", "2"]), ("b", ["3 7"])]


def test_a_peer_that_says_nothing_for_the_limit_is_dead() -> None:
    asking = Asking(1)
    held = {"silent": ["1"], "alive": ["2"]}
    found: list[list[str]] = []
    for _ in range(4):
        found.append(asking.sweep(held))
        asking.caller.heard("alive")
    assert found == [[], [], ["silent"], []]


def test_an_answer_counts_whenever_it_comes() -> None:
    asking = Asking(1)
    for _ in range(10):
        assert asking.sweep({"slow": ["1"]}) == []
        assert asking.sweep({"slow": ["1"]}) == []
        asking.caller.heard("slow")


def test_a_peer_that_held_nothing_for_a_while_begins_anew() -> None:
    asking = Asking(1)
    assert asking.sweep({"a": ["1"]}) == []
    assert asking.sweep({"a": ["1"]}) == []
    assert asking.sweep({}) == []
    assert asking.sweep({"a": ["2"]}) == []


def test_an_own_stillness_is_not_the_silence_of_others() -> None:
    """A process that blocks, or is stopped, finds the answers only when it goes on, and after it looks at the clock."""
    for limit in (1, 5):
        asking = Asking(limit)
        assert asking.sweep({"a": ["1"]}) == []
        assert asking.sweep({"a": ["1"]}, after=100) == []
        asking.caller.heard("a")
        assert asking.sweep({"a": ["1"]}) == []


def test_very_many_calls_take_turns() -> None:
    asking = Asking(5)
    calls = [str(number) for number in range(2 * MAX_CALLS + 500)]
    seen: set[str] = set()
    for _ in range(3):
        asking.sweep({"a": calls})
        ((_, named),) = asking.asked
        assert 0 < len(named) <= MAX_CALLS
        seen.update(named)
    assert seen == set(calls)

"""What the mesh needs of nats-server that older ones have not.

An old server takes an option that it does not know without a word, and then does not do it: so it is asked before.
Source: NATS ADR-44 (versioning of JetStream's API), ADR-43 (TTLs), ADR-51 (schedules).
"""

from __future__ import annotations

from enum import Enum

from rpc.jetstream.patience import Requests
from rpc.jetstream.specs import StreamError


class Feature(Enum):
    """The level of JetStream's API that has it, the nats-server that has this level, and what it is."""

    MESSAGE_TTL = 1, "2.11", "messages that end with a time of their own"
    SCHEDULES = 2, "2.12", "messages that wait for their time"
    REPEATED_SCHEDULES = 4, "2.14", "messages that the broker repeats by a schedule"

    def __init__(self, level: int, server: str, text: str) -> None:
        self.level, self.server, self.text = level, server, text


async def require(js: Requests, what: str, *features: Feature) -> None:
    """Raise ``StreamError``, about ``what``, if the broker has not all of these features.

    Raises ``ConnectionError`` when JetStream cannot be reached.
    """
    if not features:
        return
    level = int(((await js.request("INFO")).get("api") or {}).get("level", 0))
    needed = max(features, key=lambda feature: feature.level)
    if level < needed.level:
        raise StreamError(
            f"{what} needs {needed.text}, which nats-server has from {needed.server} on, and the broker is older: "
            "update it (`natsmesh broker` starts one that is new enough)"
        )

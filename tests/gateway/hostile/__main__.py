"""``python -m tests.gateway.hostile --seconds 60 --seed 1``: see the package."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rpc.embedded import Broker
from tests.gateway.hostile.campaign import campaign
from tests.gateway.hostile.target import Target


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gateway.hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--seed", type=int, default=1, help="the same attacks again (1)")
    parser.add_argument("--connections", type=int, default=200, help="at once (200)")
    parser.add_argument("--only", default="", help="part of an attack's name, like http2 or smuggling")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Broker(port=0) as broker, Target(Path(folder), broker.url) as target:
        report = asyncio.run(
            campaign(
                target,
                seconds=options.seconds,
                seed=options.seed,
                connections=options.connections,
                only=options.only,
                warm_up=3.0,
            )
        )
    print(report)
    return 1 if report.offences else 0


if __name__ == "__main__":
    sys.exit(main())

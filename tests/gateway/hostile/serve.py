"""A gateway that can be looked into: on SIGUSR1 it logs how many tasks its event loop has."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "gen")]

from gateway import Config, run  # noqa: E402 - the paths come first


def prepare() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, count)


def count() -> None:
    gc.collect()
    logging.getLogger("vitals").info("tasks=%d", len(asyncio.all_tasks()))


if __name__ == "__main__":
    sys.exit(run(Config(**json.loads(sys.argv[1])), before_start=prepare))

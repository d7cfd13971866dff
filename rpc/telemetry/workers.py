"""The numbers of several processes that share a port, so that a scrape of any one shows all.

Each worker writes its numbers to a file of its own in a directory that their parent made, and reads those of the
others. The file of a worker that died stays, because a counter must not fall.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Final

from rpc.stats import Stats, combine, totals

_log = logging.getLogger(__name__)

_MAX_BYTES: Final = 16 * 1024 * 1024


class WorkerStats:
    """What this process and its siblings have counted.

    ``directory`` belongs to them alone: their parent makes it before it starts them and removes it at the end.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._file = self._directory / f"{os.getpid()}-{secrets.token_hex(4)}.json"

    def publish(self) -> None:
        """Write what this process has counted. Raises ``OSError``."""
        text = json.dumps([numbers.snapshot() for numbers in totals()])
        temporary = self._file.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(self._file)

    def gather(self) -> list[Stats]:
        """Return the sums over all workers, one of each kind: our own as of now, the others' as last published."""
        found = totals()
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self._directory.glob("*.json")):
                if path != self._file:
                    found += _load(path)
        return combine(found)

    async def run(self, interval: float = 1.0) -> None:
        """Publish every ``interval`` seconds, and once more when cancelled."""
        try:
            while True:
                await asyncio.to_thread(self._try_publish)
                await asyncio.sleep(interval)
        finally:
            self._try_publish()

    def _try_publish(self) -> None:
        try:
            self.publish()
        except OSError as error:
            _log.warning("numbers for other workers were not written: %s", error)


def _load(path: Path) -> list[Stats]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        return [Stats.load(snapshot) for snapshot in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        _log.warning("numbers of another worker were passed over: %s: %s", path.name, error)
        return []

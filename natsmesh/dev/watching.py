"""Tells which sources of a project were saved."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

_SUFFIXES = (".py", ".proto")
_STEP_MS = 50
_DEBOUNCE_MS = 400
_RESCAN_MS = 1000
_MAX_BATCHES = 1000
_CLOCK_SECONDS = 0.01
"""File systems stamp with a clock that may be some milliseconds behind."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a file was when it was looked at: cheap to compare first, certain to compare second."""

    stamp: tuple[int, int]
    digest: bytes


class _Sources(DefaultFilter):
    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith(_SUFFIXES) and super().__call__(change, path)


class SourceWatcher:
    """Yields sets of changed ``.py`` and ``.proto`` files; one whose content is the same as before is passed over.

    Only folders that were named are watched, for a project's folder holds much besides its sources (environments,
    packages of other languages); more can be added at any time. The system's notifications are not trusted alone: they
    have a gap whenever a folder is added, so known files are looked at every second as well.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._roots: set[Path] = set()
        self._renew = asyncio.Event()
        self._seen: dict[Path, _Seen] = {}
        self._batches: asyncio.Queue[set[Path]] = asyncio.Queue(_MAX_BATCHES)

    def add_folder(self, folder: Path) -> None:
        """Watch a folder, if there is one, from its present state on."""
        if not folder.is_dir():
            return
        root = folder.resolve()
        if root not in self._roots:
            for file in root.rglob("*"):
                if file.suffix in _SUFFIXES:
                    self._seen.setdefault(file, _look(file))
            self._roots.add(root)
            self._renew.set()

    def add_loaded(self, files: Iterable[str | Path], since: float) -> None:
        """Watch files that a process has loaded, which was started at ``since`` (as ``time.time()``).

        One that was saved after that is told as changed: the process may have loaded the old one.
        """
        changed = set()
        for file in (Path(each).resolve() for each in files):
            if self._folder not in file.parents:
                continue
            if file not in self._seen:
                self._seen[file] = _look(file)
                if self._seen[file].stamp[0] / 1e9 > since - _CLOCK_SECONDS:
                    changed.add(file)
            self._add_root(file)
        if changed and not self._batches.full():
            self._batches.put_nowait(changed)

    def _add_root(self, file: Path) -> None:
        top = self._folder / file.relative_to(self._folder).parts[0]
        if top.is_dir() and not any(root == top or root in file.parents for root in self._roots):
            self._roots.add(top)
            self._renew.set()

    async def changes(self) -> AsyncIterator[set[Path]]:
        """Yield what was saved, for ever."""
        watchers = [
            asyncio.create_task(self._watch_roots(), name="natsmesh-dev-watch-folders"),
            asyncio.create_task(self._watch_top(), name="natsmesh-dev-watch-top"),
        ]
        news = asyncio.create_task(self._batches.get())
        try:
            while True:
                await asyncio.wait([news, *watchers], return_when=asyncio.FIRST_COMPLETED)
                for watcher in watchers:
                    if watcher.done():
                        watcher.result()
                if news.done():
                    batch = news.result()
                    news = asyncio.create_task(self._batches.get())
                    yield batch
        finally:
            news.cancel()
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(news, *watchers, return_exceptions=True)

    async def _tell(self, paths: Iterable[Path]) -> None:
        if changed := {path for path in paths if self._is_new(path)}:
            await self._batches.put(changed)

    def _is_new(self, path: Path) -> bool:
        before = self._seen.get(path)
        now = self._seen[path] = _look(path)
        if before is not None and before.digest == now.digest:
            return False
        # Python trusts a compiled file whose source has the same size and the same second of change: two saves in one
        # second would be one to it.
        with contextlib.suppress(OSError, ValueError, NotImplementedError):
            Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
        return True

    async def _watch_roots(self) -> None:
        while True:
            self._renew.clear()
            roots = _existing(self._roots)
            if not roots:
                await self._renew.wait()
                continue
            async for changes in awatch(
                *roots,
                watch_filter=_Sources(),
                debounce=_DEBOUNCE_MS,
                step=_STEP_MS,
                stop_event=self._renew,
                rust_timeout=_RESCAN_MS,
                yield_on_timeout=True,
            ):
                await self._tell(_paths(changes) if changes else self._touched())

    async def _watch_top(self) -> None:
        async for changes in awatch(
            self._folder, watch_filter=_Sources(), debounce=_DEBOUNCE_MS, step=_STEP_MS, recursive=False
        ):
            await self._tell(_paths(changes))

    def _touched(self) -> set[Path]:
        return {path for path, seen in self._seen.items() if _stamp(path) != seen.stamp}


def _look(path: Path) -> _Seen:
    stamp = _stamp(path)
    try:
        return _Seen(stamp, hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return _Seen((0, 0), b"")


def _stamp(path: Path) -> tuple[int, int]:
    """Return (time of the last change in nanoseconds, size); zeros for a file that is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _existing(folders: Iterable[Path]) -> set[Path]:
    return {folder for folder in folders if folder.is_dir()}


def _paths(changes: set[tuple[Change, str]]) -> set[Path]:
    return {Path(path).resolve() for _, path in changes}

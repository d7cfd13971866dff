"""Tells which sources of a project were saved."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

_SUFFIXES = (".py", ".proto")
_STEP_MS = 50
_DEBOUNCE_MS = 400
_MAX_BATCHES = 1000


class _Sources(DefaultFilter):
    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith(_SUFFIXES) and super().__call__(change, path)


class SourceWatcher:
    """Yields sets of changed ``.py`` and ``.proto`` files.

    Only folders that were named are looked at, for a project's folder holds much besides its sources (environments,
    packages of other languages); more can be added at any time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._roots: set[Path] = set()
        self._renew = asyncio.Event()
        self._digests: dict[Path, bytes] = {}

    def add(self, files: Iterable[str | Path]) -> None:
        """Watch the top-level folders of these files too, where they belong to the project; remember their content."""
        roots = set(self._roots)
        for each in files:
            file = Path(each).resolve()
            if self._folder not in file.parents:
                continue
            self._digests[file] = _digest(file)
            top = self._folder / file.relative_to(self._folder).parts[0]
            if top.is_dir():
                roots.add(top)
        self._set(roots)

    def add_folder(self, folder: Path) -> None:
        """Watch a folder, if there is one."""
        if folder.is_dir():
            self._set({*self._roots, folder.resolve()})

    def _set(self, roots: set[Path]) -> None:
        if roots != self._roots:
            self._roots = roots
            self._renew.set()

    async def changes(self) -> AsyncIterator[set[Path]]:
        """Yield what was saved, for ever. What has the same content as before is passed over."""
        batches: asyncio.Queue[set[Path]] = asyncio.Queue(_MAX_BATCHES)
        tasks = [
            asyncio.create_task(self._watch_roots(batches), name="natsmesh-dev-watch-folders"),
            asyncio.create_task(self._watch_top(batches), name="natsmesh-dev-watch-top"),
        ]
        try:
            while True:
                if changed := {path for path in await batches.get() if self._is_new(path)}:
                    yield changed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _is_new(self, path: Path) -> bool:
        digest = _digest(path)
        if self._digests.get(path) == digest:
            return False
        self._digests[path] = digest
        # Python trusts a compiled file whose source has the same size and the same second of change: two saves in one
        # second would be one to it.
        with contextlib.suppress(OSError, ValueError, NotImplementedError):
            Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
        return True

    async def _watch_roots(self, batches: asyncio.Queue[set[Path]]) -> None:
        while True:
            self._renew.clear()
            roots = _existing(self._roots)
            if not roots:
                await self._renew.wait()
                continue
            async for changes in awatch(
                *roots, watch_filter=_Sources(), debounce=_DEBOUNCE_MS, step=_STEP_MS, stop_event=self._renew
            ):
                await batches.put(_paths(changes))

    async def _watch_top(self, batches: asyncio.Queue[set[Path]]) -> None:
        async for changes in awatch(
            self._folder, watch_filter=_Sources(), debounce=_DEBOUNCE_MS, step=_STEP_MS, recursive=False
        ):
            await batches.put(_paths(changes))


def _existing(folders: Iterable[Path]) -> set[Path]:
    return {folder for folder in folders if folder.is_dir()}


def _paths(changes: set[tuple[Change, str]]) -> set[Path]:
    return {Path(path).resolve() for _, path in changes}


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""

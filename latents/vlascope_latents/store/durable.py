"""Zarr stores as a run uses them: what was stored survives a kill and a power cut, and ordinary threads may wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
from vlascope_base.files import make_folders, replace_file
from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype
from zarr.buffer.cpu import Buffer as CpuBuffer
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

T = TypeVar("T")


class DurableStore(LocalStore):
    """zarr's local store, except that what `set` returned from is on disk: LocalStore leaves that to the page cache."""

    async def set(self, key: str, value: Buffer) -> None:
        """Writes `value` under `key`, atomically and durably."""
        if not self._is_open:
            await self._open()
        self._check_writable()
        await asyncio.to_thread(self._set_durably, key, value)

    def _set_durably(self, key: str, value: Buffer) -> None:
        path = self.root / key
        make_folders(path.parent)
        replace_file(path, value.as_buffer_like())


class BlockingStore:
    """A Zarr store called from ordinary threads; several of them may wait in it at once.

    Attributes:
        store: any implementation of zarr's `Store`.
    """

    def __init__(self, store: Store):
        self.store = store
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="latent-store-io", daemon=True)
        self._thread.start()

    def put(self, key: str, content: bytes | np.ndarray) -> None:
        """Stores bytes, or a one-dimensional uint8 array without copying it."""
        array: Any = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
        self._wait(self.store.set(key, CpuBuffer.from_array_like(array)))

    def get(self, key: str) -> bytes | None:
        """The bytes under `key`, or None where there are none."""
        value = self._wait(self.store.get(key, default_buffer_prototype()))
        return None if value is None else value.to_bytes()

    def list_dir(self, prefix: str) -> list[str]:
        """Names directly under `prefix`, folders included; empty where there is nothing."""

        async def collect() -> list[str]:
            try:
                return [name async for name in self.store.list_dir(prefix)]
            except FileNotFoundError:
                return []

        return self._wait(collect())

    def delete(self, key: str) -> None:
        """Removes what `key` holds; nothing happens where it holds nothing."""
        self._wait(self.store.delete(key))

    def delete_folder(self, prefix: str) -> None:
        """Removes everything under `prefix`."""
        self._wait(self.store.delete_dir(prefix))

    def close(self) -> None:
        """Ends the thread that the store runs on."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

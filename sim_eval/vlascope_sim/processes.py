"""What every process of simulations needs: to leave with its parent, one thread, a core."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def leave_with_parent() -> None:
    """Ends this process as soon as the one that spawned it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For what is spawned within: processes are the parallelism, and a linear algebra library's threads only slow them down."""
    missing = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "1"))
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    allowed = getattr(os, "sched_getaffinity", None)  # which Linux has
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _leave_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)

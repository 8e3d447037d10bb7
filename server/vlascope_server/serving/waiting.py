"""What one client waits for: programs that are compiled for it, and batches that its observations are part of."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import numpy as np

from vlascope_server.policies.compile_queue import JOBS_OF_A_CLIENT, TooManyJobsError
from vlascope_server.policies.contract import Prepared, RequestShape
from vlascope_server.serving.batcher import Sample
from vlascope_server.serving.errors import RequestError
from vlascope_server.serving.service import Service

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client hung up: nobody reads what would be computed."""


class Waiter:
    """A client as the compiler and the batcher know it; they compute nothing more for it once it has hung up.

    Attributes:
        host: the machine that it connects from.
    """

    def __init__(self, service: Service, host: str):
        self._service, self.host = service, host
        self._gone: Future[None] = Future()
        self._sample: Future[Sample] | None = None

    def compiled(self, shape: RequestShape) -> None:
        """Waits until observations of a shape can be computed.

        Raises:
            RequestError: too many programs are being compiled for this client.
            ClientGoneError: the client has hung up.
        """
        program = self._wanted(lambda: self._service.programs.want(shape, 1, self))
        if not program.done():
            either: list[Future[Any]] = [program, self._gone]
            concurrent.futures.wait(either, return_when=concurrent.futures.FIRST_COMPLETED)
            self._check_not_gone()
        program.result()

    def computed(self, prepared: Prepared, drawn: np.ndarray | None, shape: RequestShape) -> Sample:
        """Waits for the batch that the observation is part of.

        Raises:
            RequestError: too many programs are being compiled for this client.
            ClientGoneError: the client has hung up.
        """
        self._sample = future = self._wanted(lambda: self._service.batcher.submit(prepared, drawn, shape, self))
        if self._gone.done():  # after it was kept: `hang_up` has seen it, or is seen here
            future.cancel()
        try:
            sample = future.result()
        except CancelledError:
            raise ClientGoneError from None
        finally:
            self._sample = None
        self._check_not_gone()
        return sample

    def hang_up(self) -> None:
        """Ends the waiting, from any thread. May be called again."""
        if self._gone.done():
            return
        self._gone.set_result(None)
        if (sample := self._sample) is not None:
            sample.cancel()
        self._service.programs.gone(self)
        self._service.activity.gone(self)

    def _wanted(self, ask: Callable[[], Future[T]]) -> Future[T]:
        """Has something compiled or computed, unless the client has gone."""
        self._check_not_gone()
        try:
            future = ask()
        except TooManyJobsError:
            raise RequestError(
                "overloaded",
                f"{JOBS_OF_A_CLIENT} programs are being compiled for this connection: wait for one of them",
            ) from None
        if self._gone.done():  # the programs were told before they were asked
            self._service.programs.gone(self)
        return future

    def _check_not_gone(self) -> None:
        if self._gone.done():
            raise ClientGoneError

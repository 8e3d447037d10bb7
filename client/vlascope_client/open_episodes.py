"""Which episodes a client has open, and which of them its lost connections took along. Knows nothing of messages.

A server ends a connection's episodes with it. Those that have frames in the store are then over, and whoever names one
must be told, once; the others can go on as if nothing had been.
"""

from __future__ import annotations

from vlascope_client.errors import EpisodeInterruptedError


class OpenEpisodes:
    """Episodes by id; None is the connection's own."""

    def __init__(self):
        self._open: dict[str | None, bool] = {}
        self._own: str | None = None
        self._interrupted: dict[str | None, EpisodeInterruptedError] = {}
        self._forgotten: set[str | None] = set()
        self._lost: set[str | None] = set()

    def note(self, episode: str | None, stores: bool) -> bool:
        """A request of this episode is sent; whether it had something in the store before."""
        episode = self._key(episode)
        before = self._open.get(episode, False)
        self._open[episode] = before or stores
        self._forgotten.discard(episode)
        return before

    def stored_nothing(self, episode: str | None) -> None:
        """The request that would have been the first to store something was refused."""
        self._open[self._key(episode)] = False

    def name_own(self, episode: str | None) -> None:
        """The server has said what the connection's own episode is called."""
        self._own = episode

    def ended(self, episode: str) -> None:
        """The server has sealed it."""
        key = self._key(episode)
        if key is None:
            self._own = None
        self._open.pop(key, None)
        self._lost.discard(key)

    def connection_lost(self, reason: str) -> None:
        """The server ends every open episode."""
        for episode, stored in self._open.items():
            if stored:
                name = self._own if episode is None else episode
                self._interrupted[episode] = EpisodeInterruptedError(name, reason)
            else:
                self._forgotten.add(episode)
        self._lost |= self._open.keys()
        self._open.clear()

    def check(self, episode: str | None) -> None:
        """Before a request of this episode.

        Raises:
            EpisodeInterruptedError: it was lost with frames in the store, and nobody has been told yet.
        """
        key = self._key(episode)
        if (error := self._interrupted.pop(key, None)) is not None:
            if key is None:
                self._own = None
            raise error

    def forgive(self, episode: str | None) -> None:
        """It is begun anew: nobody needs to be told of the attempt before."""
        self._interrupted.pop(episode, None)

    def was_forgotten(self, episode: str | None) -> bool:
        """It was lost without frames, and no request has named it since: the server does not know it any more."""
        return self._key(episode) in self._forgotten

    def was_lost(self, episode: str | None) -> bool:
        """It was open on a connection that is gone, of which the server may not have heard yet."""
        return self._key(episode) in self._lost

    def _key(self, episode: str | None) -> str | None:
        return None if episode is not None and episode == self._own else episode

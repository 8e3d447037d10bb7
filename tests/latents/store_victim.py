"""A process to be killed: writes two episodes at once and reports every committed frame. Run as a module by a test."""

from __future__ import annotations

import sys
import threading

from vlascope_latents.store import RunWriter

from tests.latents.store_fixtures import LAYOUT, frame, plan, values


def main(root: str) -> None:
    capture = plan()
    say = threading.Lock()

    def report(text: str) -> None:
        with say:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    run = RunWriter.create(root, "victim", LAYOUT, workers=3)

    def produce(name: str, offset: int) -> None:
        for attempt in range(1000):  # short episodes: kills land in sealing and opening too
            episode = run.open_episode(name, {"offset": offset}, capture)
            for n in range(6):
                episode.append(frame(capture, offset + n), timestep=n, values=values(n))
                report(f"{name} {attempt + 1} {episode.committed}")
            report(f"{name} {attempt + 1} {episode.seal(success=True, metadata={'said_at_end': offset})}")

    for name, offset in (("a", 0), ("b", 100)):
        threading.Thread(target=produce, args=(name, offset), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])

"""Progress of a long step: a plain line every few seconds, readable in a log and on a terminal."""

import sys
import time


class Progress:
    """Counts steps towards a total and tells, at most every `interval` seconds, how far it is and how long it takes."""

    def __init__(self, what: str, total: float, interval: float = 5.0) -> None:
        self.what, self.total, self.interval = what, total, interval
        self.done = 0.0
        self.started = self.told = time.monotonic()
        self.first = 0.0

    def start_at(self, done: float) -> None:
        """Begin at `done`: what an earlier run did must not count as this run's speed."""
        self.done = self.first = done

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Count `steps` more, and tell if it is time."""
        self.done += steps
        now = time.monotonic()
        if now - self.told < self.interval:
            return
        self.told = now
        remaining = (now - self.started) / (self.done - self.first) * (self.total - self.done)
        share = self.done / self.total if self.total else 1.0
        note = f", {note}" if note else ""
        print(f"{self.what}: {share:.0%}{note}, {remaining:.0f} s left", file=sys.stderr, flush=True)

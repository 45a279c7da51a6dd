"""How workers of any kind are seen to their end."""

from collections.abc import Iterable

import pytest

from mura_tune.search import pool
from mura_tune.search.pool import Word, WorkerEnded, WorkerMessage, supervise


class Finishing:
    """Two workers: one has ended, and the other runs a trial for as long as it takes."""

    def __init__(self) -> None:
        self.heard: list[Word] = []
        self.looks = 0

    def start(self, number: int) -> None:
        assert number < 2

    def listen(self, seconds: float) -> Iterable[tuple[int, WorkerMessage]]:
        self.looks += 1
        if self.looks == 1:
            yield 0, WorkerEnded()
        if self.looks == 5:
            yield 1, WorkerEnded("was killed")  # nobody takes its place

    def send(self, word: Word) -> None:
        self.heard.append(word)

    def end(self) -> None: ...


def test_a_trial_that_runs_when_time_is_over_may_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PATIENCE", 0.0)
    workers = Finishing()
    supervise(workers, 2, print, print, lambda: workers.looks > 0)
    assert (workers.looks, workers.heard) == (5, ["finish", "stop"])

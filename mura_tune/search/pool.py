"""Several worker processes on one search: started, watched, replaced when killed, stopped together.

Workers come from a fork server that has imported torch once, and talk to the parent over a pipe.
The pipe's end tells a worker that its parent is gone.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from mura_tune.database.urls import TIMEOUT
from mura_tune.errors import MuraError
from mura_tune.search import search
from mura_tune.search.search import Ended, Event, Job, WorkerSettings
from mura_tune.search.worker import PATIENCE, member

# Imported once for all; the last two are what Optuna imports when it opens a database.
PRELOAD = [
    "mura_tune.search.pool",
    "mura_tune.dashboard.artifacts",  # which the commands hand to every worker
    "timm",
    "alembic.command",
    "optuna.storages._rdb.models",
]
DEATHS = 5  # a worker, without a trial that ended: then something kills them all


@dataclass(frozen=True)
class Crew:
    """How many workers, and the device of each in turn. Threads are shared out evenly."""

    workers: int
    devices: tuple[torch.device, ...]

    @property
    def threads(self) -> int:
        """CPU threads of each worker: more than the cores in total make all of them crawl."""
        return max(1, cores() // self.workers)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Stop:
    """Ctrl-C once: finish the trials that run. Twice, or SIGTERM: stop now; they run again."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._say = say
        self._before: Any = None  # a function, a number, or nothing, as signal has it

    def __enter__(self) -> Stop:
        self._before = signal.signal(signal.SIGINT, self._first)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _first(self, *_: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._say("finishing what runs; Ctrl-C again stops now (it will be run again)")


def run(
    jobs: Sequence[Job],
    since: Mapping[str, int],
    how: WorkerSettings,
    crew: Crew,
    tell: Callable[[Event], None],
    say: Callable[[str], None],
) -> None:
    """Bring every job to its count with a crew of workers.

    Args:
        since: what `search.start` returned, of all jobs.
        tell: gets what happens to trials; `say` a line on what happens to workers.

    Raises:
        MuraError: what a worker raised, or workers that die whatever they do.
        KeyboardInterrupt: once everything has stopped.
    """
    with Stop(say) as stop:
        if crew.workers == 1:
            search.work(jobs, since, how, crew.devices[0], tell, lambda: stop.asked)
        else:
            _Crew(jobs, since, how, crew, tell, say, stop).run()
        if stop.asked:
            raise KeyboardInterrupt


@dataclass
class _Crew:
    """The parent's side."""

    jobs: Sequence[Job]
    since: Mapping[str, int]
    how: WorkerSettings
    crew: Crew
    tell: Callable[[Event], None]
    say: Callable[[str], None]
    stop: Stop
    members: dict[int, tuple[BaseProcess, Connection]] = field(default_factory=dict)
    stopped: dict[int, float] = field(default_factory=dict)  # pid: since when
    deaths: int = 0
    error: MuraError | None = None

    @property
    def leaving(self) -> bool:
        """Finish what runs, hire nobody."""
        return self.stop.asked or self.error is not None

    def run(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._context = context
        told, deadline = False, math.inf
        try:
            for place in range(self.crew.workers):
                self._hire(place)
            while self.members and time.monotonic() < deadline:
                self._listen()
                self._kill_stopped()
                if self.leaving and not told:
                    told = True
                    self._send("finish")
                idle = len(self.members) < self.crew.workers
                if idle and not self.leaving and deadline == math.inf:
                    deadline = time.monotonic() + PATIENCE  # one left: all is done, for all
        finally:
            self._send("stop")
            self._dismiss()
        if self.error:
            raise self.error

    def _hire(self, place: int) -> None:
        ours, theirs = self._context.Pipe()
        device = self.crew.devices[place % len(self.crew.devices)]
        process = self._context.Process(
            target=member,
            name=f"worker {place + 1}",
            args=(theirs, self.jobs, self.since, self.how, device, self.crew.threads),
        )
        _serve_forks()
        process.start()
        theirs.close()
        self.members[place] = (process, ours)

    def _listen(self) -> None:
        """Take in what workers say for a second at most; replace those that were killed."""
        by_pipe = {pipe: place for place, (_, pipe) in self.members.items()}
        for ready in wait(list(by_pipe), timeout=1):
            assert isinstance(ready, Connection)
            place = by_pipe[ready]
            try:
                said = ready.recv()
            except (EOFError, OSError):
                self._left(place)
                continue
            if isinstance(said, MuraError):
                self.error = self.error or said
            else:
                self.deaths = 0 if isinstance(said, Ended) else self.deaths
                self.tell(said)

    def _left(self, place: int) -> None:
        process, pipe = self.members.pop(place)
        pipe.close()
        process.join(PATIENCE)
        if process.exitcode == 0 or self.leaving:
            return
        self.deaths += 1
        how = _died(process.exitcode)
        if self.deaths >= DEATHS * self.crew.workers:
            self.error = MuraError(
                f"workers keep dying ({how}) before a trial ends; if memory is "
                "short, fewer --workers may help"
            )
            return
        self.say(f"{process.name} {how}; another takes its place, and its trial is run again")
        self._hire(place)

    def _kill_stopped(self) -> None:
        """Kill workers that stay stopped (SIGSTOP): one may hold a study's lock, or SQLite's."""
        pids = [process.pid for process, _ in self.members.values()]
        now = time.monotonic()
        self.stopped = {p: self.stopped.get(p, now) for p in pids if p and _is_stopped(p)}
        for pid, since in self.stopped.items():
            if now - since > min(self.how.grace, TIMEOUT / 2):  # before the others give up
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _send(self, word: str) -> None:
        for _, pipe in self.members.values():
            try:
                pipe.send(word)
            except OSError:
                continue

    def _dismiss(self) -> None:
        """Wait for the others, and kill those that do not go (one may be stopped)."""
        deadline = time.monotonic() + PATIENCE
        for process, pipe in self.members.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()
        self.members.clear()


def _serve_forks() -> None:
    """Start the fork server with SIGINT blocked: while it imports, Ctrl-C would end it."""
    resource_tracker.ensure_running()  # which unblocks SIGINT when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_stopped(pid: int) -> bool:
    """Whether a process stands still until a SIGCONT (proc(5); nowhere but on Linux known)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def _died(code: int | None) -> str:
    if code == 130:
        return "was told to stop"
    if code is not None and code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"

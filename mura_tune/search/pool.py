"""Several workers on one search: started, watched, replaced when killed, stopped together.

`supervise` does that for workers of any kind. Those of this machine are processes: they come from
a fork server that has imported torch once, and talk to the parent over a pipe. The pipe's end tells
a worker that its parent is gone.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from mura_tune.database.urls import TIMEOUT
from mura_tune.errors import MuraError, explain_error
from mura_tune.search.search import SearchEvent, SearchJob, TrialEnded, WorkerSettings
from mura_tune.search.worker import run_worker

# Imported once for all; the last two are what torch imports for an optimiser, and Optuna when it
# opens a database.
PRELOAD = [
    "mura_tune.search.pool",
    "mura_tune.dashboard.artifacts",  # which the commands hand to every worker
    "torch._dynamo",
    "alembic.command",
]
PATIENCE = 5.0  # seconds a worker has to obey before it is killed
DEATHS = 5  # a worker, without a trial that ended: then something kills them all


class Pool(Protocol):
    """Workers that bring searches to their counts, on this machine or on others."""

    @property
    def workers(self) -> int:
        """How many there are."""

    def run(
        self,
        jobs: Sequence[SearchJob],
        since: Mapping[str, int],
        settings: WorkerSettings,
        on_event: Callable[[SearchEvent], None],
        say: Callable[[str], None],
    ) -> None:
        """Bring every job to its count.

        Args:
            since: what `search.start_search` returned, of all jobs.
            on_event: called with what happens to trials; `say` with a line on what happens to
                workers.

        Raises:
            MuraError: what a worker raised, or workers that die whatever they do.
            KeyboardInterrupt: once everything has stopped.
        """


@dataclass(frozen=True)
class LocalPool:
    """Workers of this machine: how many, and the device of each in turn.

    One worker is this process itself. Threads are shared out evenly.
    """

    workers: int
    devices: tuple[torch.device, ...]

    @property
    def threads(self) -> int:
        """CPU threads of each worker: more than the cores in total make all of them crawl."""
        return max(1, cores() // self.workers)

    @property
    def sharers(self) -> int:
        """How many workers at most share the memory of a device."""
        taken = [self.devices[number % len(self.devices)] for number in range(self.workers)]
        return max(Counter((device.type, device.index or 0) for device in taken).values())

    def run(
        self,
        jobs: Sequence[SearchJob],
        since: Mapping[str, int],
        settings: WorkerSettings,
        on_event: Callable[[SearchEvent], None],
        say: Callable[[str], None],
    ) -> None:
        """See `Pool.run`."""
        settings = replace(settings, sharers=self.sharers)
        if self.workers > 1:
            processes = _Processes(jobs, since, settings, self)
            supervise(processes, self.workers, on_event, say, settings.is_over)
            return
        with StopRequest(say) as stop:
            run_worker(jobs, since, settings, self.devices[0], on_event, lambda: stop.requested)
            if stop.requested:
                raise KeyboardInterrupt


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class StopRequest:
    """Ctrl-C once: finish the trials that run. Twice, or SIGTERM: stop now; they run again.

    Signals reach the main thread alone: in another one, nothing is asked and nothing replaced.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.requested = False
        self._say = say
        self._before: Any = None  # a function, a number, or nothing, as signal has it

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._first)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _first(self, *_: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._say("finishing what runs; Ctrl-C again stops now (it will be run again)")


Word = Literal["finish", "stop"]  # after the trial that runs, or at once


@dataclass(frozen=True)
class WorkerEnded:
    """A worker that is gone. `death` says what it died of; it is empty after an orderly end."""

    death: str = ""


WorkerMessage = SearchEvent | MuraError | WorkerEnded


class Workers(Protocol):
    """Workers of one kind, by number, as `supervise` sees them."""

    def start(self, number: int) -> None:
        """Start a worker; it has no other of its number."""

    def listen(self, seconds: float) -> Iterable[tuple[int, WorkerMessage]]:
        """What workers say, each with its number, within so many seconds at most."""

    def send(self, word: Word) -> None:
        """Have every worker stop; one that has not begun to work may end at once."""

    def end(self) -> None:
        """Wait up to `PATIENCE` for the workers, and kill those that do not go."""


def supervise(
    workers: Workers,
    count: int,
    on_event: Callable[[SearchEvent], None],
    say: Callable[[str], None],
    is_over: Callable[[], bool],
) -> None:
    """Start `count` workers and see them to their end; another takes the place of one that dies.

    Args:
        on_event: called with what happens to trials; `say` with a line on what happens to workers.
        is_over: whether workers start no further trial; then nobody takes another's place.

    Raises:
        MuraError: what a worker raised, or workers that die whatever they do.
        KeyboardInterrupt: once everything has stopped.
    """
    with StopRequest(say) as stop:
        _Supervision(workers, count, on_event, say, stop, is_over).run()
        if stop.requested:
            raise KeyboardInterrupt


@dataclass
class _Supervision:
    """The loop of `supervise`. `running` are the numbers of the workers that are there."""

    workers: Workers
    count: int
    on_event: Callable[[SearchEvent], None]
    say: Callable[[str], None]
    stop: StopRequest
    is_over: Callable[[], bool]
    running: set[int] = field(default_factory=set)
    deaths: int = 0
    error: MuraError | None = None

    @property
    def leaving(self) -> bool:
        """Whether workers finish what they run, and nobody takes the place of one that ends."""
        return self.stop.requested or self.error is not None or self.is_over()

    def run(self) -> None:
        finishing, deadline = False, math.inf
        try:
            for number in range(self.count):
                self._start(number)
            while self.running and time.monotonic() < deadline:
                for number, message in self.workers.listen(1.0):
                    self._take_in(number, message)
                if self.leaving and not finishing:
                    finishing = True
                    self.workers.send("finish")
                idle = len(self.running) < self.count
                if idle and not self.leaving and deadline == math.inf:
                    deadline = time.monotonic() + PATIENCE  # one left: all is done, for all
        finally:
            self.workers.send("stop")
            self.workers.end()
        if self.error:
            raise self.error

    def _start(self, number: int) -> None:
        self.workers.start(number)
        self.running.add(number)

    def _take_in(self, number: int, message: WorkerMessage) -> None:
        if isinstance(message, WorkerEnded):
            self.running.discard(number)
            if message.death and not self.leaving:
                self._replace(number, message.death)
        elif isinstance(message, MuraError):
            self.error = self.error or message
        else:
            self.deaths = 0 if isinstance(message, TrialEnded) else self.deaths
            self.on_event(message)

    def _replace(self, number: int, death: str) -> None:
        self.deaths += 1
        if self.deaths >= DEATHS * self.count:
            self.error = MuraError(
                f"workers keep dying ({death}) before a trial ends; if memory is "
                "short, fewer --workers may help"
            )
            return
        self.say(
            f"worker {number + 1} {death}; another takes its place, and its trial is run again"
        )
        self._start(number)


@dataclass
class _Processes:
    """Worker processes of this machine. `stopped` are pids that stand still, and since when."""

    jobs: Sequence[SearchJob]
    since: Mapping[str, int]
    settings: WorkerSettings
    pool: LocalPool
    workers: dict[int, tuple[BaseProcess, Connection]] = field(default_factory=dict)
    stopped: dict[int, float] = field(default_factory=dict)

    def start(self, number: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        ours, theirs = context.Pipe()
        device = self.pool.devices[number % len(self.pool.devices)]
        process = context.Process(
            target=_worker_process,
            name=f"worker {number + 1}",
            args=(theirs, self.jobs, self.since, self.settings, device, self.pool.threads),
        )
        _serve_forks()
        with _without_main():
            process.start()
        theirs.close()
        self.workers[number] = (process, ours)

    def listen(self, seconds: float) -> Iterator[tuple[int, WorkerMessage]]:
        by_pipe = {pipe: number for number, (_, pipe) in self.workers.items()}
        for ready in wait(list(by_pipe), timeout=seconds):
            assert isinstance(ready, Connection)
            number = by_pipe[ready]
            try:
                yield number, ready.recv()
            except (EOFError, OSError):
                yield number, self._take_out(number)
        self._kill_stopped()

    def send(self, word: Word) -> None:
        for _, pipe in self.workers.values():
            try:
                pipe.send(word)
            except OSError:
                continue

    def end(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for process, pipe in self.workers.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():  # it may be stopped
                process.kill()
                process.join()
            pipe.close()
        self.workers.clear()

    def _take_out(self, number: int) -> WorkerEnded:
        process, pipe = self.workers.pop(number)
        pipe.close()
        process.join(PATIENCE)
        return WorkerEnded("" if process.exitcode == 0 else _died(process.exitcode))

    def _kill_stopped(self) -> None:
        """Kill workers that stay stopped (SIGSTOP): one may hold a search's lock, or SQLite's."""
        pids = [process.pid for process, _ in self.workers.values()]
        now = time.monotonic()
        self.stopped = {p: self.stopped.get(p, now) for p in pids if p and _is_stopped(p)}
        for pid, since in self.stopped.items():
            if now - since > min(self.settings.grace, TIMEOUT / 2):  # before the others give up
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Within it, a process that starts does not import the program that starts it.

    A worker needs nothing of it, and a script without `if __name__ == "__main__"` would search
    again in every worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


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


def _worker_process(
    pipe: Connection,
    jobs: Sequence[SearchJob],
    since: Mapping[str, int],
    settings: WorkerSettings,
    device: torch.device,
    threads: int,
) -> None:
    """A worker process, from its start to its exit."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(threads)
    finish, stop = threading.Event(), threading.Event()
    try:
        threading.Thread(target=_obey, args=(pipe, finish, stop), daemon=True).start()
        run_worker(jobs, since, settings, device, pipe.send, finish.is_set)
    except KeyboardInterrupt:
        os._exit(130)
    except Exception as error:
        # The process ends here: its parent learns the reason by the pipe, or only that it died.
        if stop.is_set():  # whatever the interruption became on its way
            os._exit(130)
        with contextlib.suppress(OSError):  # the parent is gone, and `_obey` is about to see it
            pipe.send(what_ended(error))


def what_ended(error: Exception) -> MuraError:
    """What ended a worker, as one line that its command can raise."""
    line = traceback.format_exception_only(error)[0].splitlines()[0][:300]
    return explain_error(error) or MuraError(line)


def _obey(pipe: Connection, finish: threading.Event, stop: threading.Event) -> None:
    """Do what the parent says; when it says `stop`, or nothing more for ever, leave at once."""
    word = ""
    while word != "stop":
        try:
            word = pipe.recv()
        except (EOFError, OSError):
            word = "stop"
        finish.set()
    stop.set()
    os.kill(os.getpid(), signal.SIGTERM)  # a KeyboardInterrupt in the thread that trains
    time.sleep(PATIENCE / 2)
    os._exit(1)

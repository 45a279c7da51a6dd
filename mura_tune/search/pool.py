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
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from mura_tune.database.urls import TIMEOUT
from mura_tune.errors import MuraError, explain_error
from mura_tune.search.search import SearchEvent, SearchJob, TrialEnded, WorkerSettings
from mura_tune.search.worker import run_worker

# Imported once for all; the last is what Optuna imports when it opens a database.
PRELOAD = [
    "mura_tune.search.pool",
    "mura_tune.dashboard.artifacts",  # which the commands hand to every worker
    "timm",
    "alembic.command",
]
PATIENCE = 5.0  # seconds a worker has to obey before it is killed
DEATHS = 5  # a worker, without a trial that ended: then something kills them all


@dataclass(frozen=True)
class WorkerPool:
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


def run_pool(
    jobs: Sequence[SearchJob],
    since: Mapping[str, int],
    settings: WorkerSettings,
    pool: WorkerPool,
    on_event: Callable[[SearchEvent], None],
    say: Callable[[str], None],
) -> None:
    """Bring every job to its count with a pool of workers.

    Args:
        since: what `search.start_search` returned, of all jobs.
        on_event: called with what happens to trials; `say` with a line on what happens to workers.

    Raises:
        MuraError: what a worker raised, or workers that die whatever they do.
        KeyboardInterrupt: once everything has stopped.
    """
    with StopRequest(say) as stop:
        if pool.workers == 1:
            run_worker(jobs, since, settings, pool.devices[0], on_event, lambda: stop.requested)
        else:
            _PoolProcesses(jobs, since, settings, pool, on_event, say, stop).run()
        if stop.requested:
            raise KeyboardInterrupt


@dataclass
class _PoolProcesses:
    """The parent's side."""

    jobs: Sequence[SearchJob]
    since: Mapping[str, int]
    settings: WorkerSettings
    pool: WorkerPool
    on_event: Callable[[SearchEvent], None]
    say: Callable[[str], None]
    stop: StopRequest
    workers: dict[int, tuple[BaseProcess, Connection]] = field(default_factory=dict)
    stopped: dict[int, float] = field(default_factory=dict)  # pid: since when
    deaths: int = 0
    error: MuraError | None = None

    @property
    def leaving(self) -> bool:
        """Whether workers finish what they run, and nobody takes the place of one that ends."""
        return self.stop.requested or self.error is not None

    def run(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._context = context
        finishing, deadline = False, math.inf
        try:
            for number in range(self.pool.workers):
                self._start_worker(number)
            while self.workers and time.monotonic() < deadline:
                self._listen()
                self._kill_stopped()
                if self.leaving and not finishing:
                    finishing = True
                    self._send("finish")
                idle = len(self.workers) < self.pool.workers
                if idle and not self.leaving and deadline == math.inf:
                    deadline = time.monotonic() + PATIENCE  # one left: all is done, for all
        finally:
            self._send("stop")
            self._end_workers()
        if self.error:
            raise self.error

    def _start_worker(self, number: int) -> None:
        ours, theirs = self._context.Pipe()
        device = self.pool.devices[number % len(self.pool.devices)]
        process = self._context.Process(
            target=_worker_process,
            name=f"worker {number + 1}",
            args=(theirs, self.jobs, self.since, self.settings, device, self.pool.threads),
        )
        _serve_forks()
        with _without_main():
            process.start()
        theirs.close()
        self.workers[number] = (process, ours)

    def _listen(self) -> None:
        """Take in what workers say for a second at most; replace those that were killed."""
        by_pipe = {pipe: number for number, (_, pipe) in self.workers.items()}
        for ready in wait(list(by_pipe), timeout=1):
            assert isinstance(ready, Connection)
            number = by_pipe[ready]
            try:
                message = ready.recv()
            except (EOFError, OSError):
                self._replace_worker(number)
                continue
            if isinstance(message, MuraError):
                self.error = self.error or message
            else:
                self.deaths = 0 if isinstance(message, TrialEnded) else self.deaths
                self.on_event(message)

    def _replace_worker(self, number: int) -> None:
        process, pipe = self.workers.pop(number)
        pipe.close()
        process.join(PATIENCE)
        if process.exitcode == 0 or self.leaving:
            return
        self.deaths += 1
        death = _died(process.exitcode)
        if self.deaths >= DEATHS * self.pool.workers:
            self.error = MuraError(
                f"workers keep dying ({death}) before a trial ends; if memory is "
                "short, fewer --workers may help"
            )
            return
        self.say(f"{process.name} {death}; another takes its place, and its trial is run again")
        self._start_worker(number)

    def _kill_stopped(self) -> None:
        """Kill workers that stay stopped (SIGSTOP): one may hold a search's lock, or SQLite's."""
        pids = [process.pid for process, _ in self.workers.values()]
        now = time.monotonic()
        self.stopped = {p: self.stopped.get(p, now) for p in pids if p and _is_stopped(p)}
        for pid, since in self.stopped.items():
            if now - since > min(self.settings.grace, TIMEOUT / 2):  # before the others give up
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _send(self, word: str) -> None:
        for _, pipe in self.workers.values():
            try:
                pipe.send(word)
            except OSError:
                continue

    def _end_workers(self) -> None:
        """Wait for the others, and kill those that do not go (one may be stopped)."""
        deadline = time.monotonic() + PATIENCE
        for process, pipe in self.workers.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()
        self.workers.clear()


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
    except Exception as error:  # whatever ended this process, its parent has to be told
        if stop.is_set():  # whatever the interruption became on its way
            os._exit(130)
        line = traceback.format_exception_only(error)[0].splitlines()[0][:300]
        with contextlib.suppress(OSError):  # the parent is gone, and `_obey` is about to see it
            pipe.send(explain_error(error) or MuraError(line))


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

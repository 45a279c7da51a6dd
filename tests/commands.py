"""`mura` commands as processes, and the workers they start: to be found, and to be hit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, ClassVar

import torch

from mura_tune import console
from mura_tune.cli import mura
from mura_tune.search import search, worker
from mura_tune.search.pool import PRELOAD
from mura_tune.search.search import SearchJob, WorkerSettings


class Command(ABC):
    """A running command; `log` holds what it said, on stdout and stderr."""

    pid: int
    log: Path

    @abstractmethod
    def code(self) -> int | None:
        """How it ended; None while it runs."""

    @abstractmethod
    def workers(self) -> list[int]:
        """The worker processes, those that outlived their parent too."""

    @abstractmethod
    def left(self) -> list[int]:
        """Every process of it that is still there."""

    def wait(self, seconds: float) -> int:
        """How it ended, at last. Raises TimeoutError with the end of what it said."""
        until(lambda: self.code() is not None, seconds, lambda: self.log.read_text()[-2000:])
        code = self.code()
        assert code is not None
        return code

    def interrupt(self) -> None:
        """What Ctrl-C in a terminal sends: SIGINT to everything that it started."""
        for pid in self.left():
            hit(pid, signal.SIGINT)

    def end(self) -> None:
        """Kill what is left."""
        while left := self.left():
            for pid in left:
                hit(pid, signal.SIGKILL)
            time.sleep(0.05)


Launch = Callable[[Sequence[str], Path], Command]


class Shell(Command):
    """`mura ARGS` as a shell starts it. Slow: it and its workers import torch anew."""

    def __init__(self, args: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("a") as said:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("mura"), *args],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def code(self) -> int | None:
        return self._process.poll()

    def workers(self) -> list[int]:
        # Of the command's children one is the fork server; those of that one are the workers.
        session = self._session()
        return [
            pid
            for pid, (parent, _) in session.items()
            if parent in session and self.pid not in (pid, parent)
        ]

    def left(self) -> list[int]:
        return list(self._session())

    def _session(self) -> dict[int, tuple[int, int]]:
        self._process.poll()  # or it stays as a zombie
        return {pid: stat for pid, stat in processes().items() if stat[1] == self.pid}


class Forked(Command):
    """The same, but forked from a process that has imported everything: it starts in a second.

    Its workers come from there too. So one at a time, unless it has no workers.
    """

    _commands: ClassVar[set[int]] = set()  # those of this process, whoever asks

    def __init__(self, args: Sequence[str], log: Path) -> None:
        self.log = log
        log.touch()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*PRELOAD, "mura_tune.dashboard.updates"])
        self._process: BaseProcess = context.Process(target=_command, args=(args, log))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid
        self._commands.add(self.pid)

    def code(self) -> int | None:
        return self._process.exitcode

    def workers(self) -> list[int]:
        server = vars(forkserver._forkserver)["_forkserver_pid"]
        return [
            pid
            for pid, (parent, _) in processes().items()
            if parent == server and pid not in self._commands
        ]

    def left(self) -> list[int]:
        return [pid for pid in (self.pid, *self.workers()) if pid in processes()]


def unblock_ctrl_c() -> None:
    """Let Ctrl-C reach this process, as one that a shell starts: the server that it is forked from
    may have been started by a search, which blocks it there."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _command(args: Sequence[str], log: Path) -> None:
    unblock_ctrl_c()
    said = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(said, sys.stdout.fileno())
    os.dup2(said, sys.stderr.fileno())
    server: Any = forkserver
    # Its workers are forked where it was: nothing is imported again.
    server.ensure_running = server._forkserver.ensure_running = lambda: None
    console.run_command(mura, "mura", args)


def start_together(
    number: int, job: SearchJob, urls: Sequence[str], seconds: float
) -> list[int | None]:
    """How so many processes end that open each database for the first time at once, and search."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD])
    barrier = context.Barrier(number)
    crowd = [context.Process(target=_start, args=(barrier, job, urls)) for _ in range(number)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(seconds)
    return [one.exitcode for one in crowd]


def _start(barrier: Barrier, job: SearchJob, urls: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for url in urls:
        settings = WorkerSettings(url, warm_start="none")
        barrier.wait(120)
        since = search.start_search(job, settings)
        worker.run_worker(
            [job], since, settings, torch.device("cpu"), lambda event: None, lambda: False
        )


def processes() -> dict[int, tuple[int, int]]:
    """Parent and session of every process there is, but for zombies (proc(5), /proc/PID/stat)."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue  # gone since it was listed
        if state not in "ZX":
            found[int(stat.parent.name)] = int(parent), int(session)
    return found


def command_line(pid: int) -> str:
    """Of a process, or nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def hit(pid: int, what: signal.Signals) -> bool:
    """Send a signal; says whether the process was still there."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return False
    return True


def until(true: Callable[[], bool], seconds: float, said: Callable[[], str] = lambda: "") -> None:
    """Wait for something. Raises TimeoutError, with what was `said`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {said()}")
        time.sleep(0.05)

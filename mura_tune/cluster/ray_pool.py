"""Workers as actors of Ray (the extra `ray`), on this machine or on the nodes of a cluster.

Ray finds a node for each actor. This process starts another actor in place of one that dies: deaths
are printed and counted as those of worker processes are. The database alone counts the trials. The
pixels travel through Ray's object store, once to each node: a node needs no dataset.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import math
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mura_tune.database.urls import database, file_of, url_of_file
from mura_tune.errors import InputError, MuraError
from mura_tune.networks.device import choose_device
from mura_tune.search.pool import (
    PATIENCE,
    Word,
    WorkerEnded,
    WorkerMessage,
    supervise,
    what_ended,
)
from mura_tune.search.search import SearchEvent, SearchJob, WorkerSettings
from mura_tune.search.worker import run_worker
from mura_tune.software import Software, running_software
from mura_tune.text import printable

LISTEN = 10.0  # seconds that an actor waits for something to say before it says nothing
SLOW_START = 60.0  # seconds after which a line says how many workers have not begun
CALLS = 3  # at one time in an actor: `run`, `listen`, `obey`


@dataclass(frozen=True)
class RayPool:
    """Workers of a Ray cluster: how many, and what a node must have free for each.

    Attributes:
        address: as `ray.init` takes it, such as `ray://HOST:10001`. None is RAY_ADDRESS, or the
            cluster that this machine belongs to, or else Ray on this machine alone.
        cpus: cores of each worker, and its CPU threads.
        gpus: of each worker, a fraction to share one. None is 1 where the cluster has GPUs.

    Raises:
        InputError: no cpus, or a number of gpus that Ray could not give.
    """

    workers: int
    address: str | None = None
    cpus: float = 1.0
    gpus: float | None = None

    def __post_init__(self) -> None:
        if not self.cpus > 0:
            raise InputError(f"--worker-cpus {self.cpus:g}: more than 0")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise InputError(f"--worker-gpus {self.gpus:g}: 0, a fraction of 1, or a whole number")

    def run(
        self,
        jobs: Sequence[SearchJob],
        since: Mapping[str, int],
        settings: WorkerSettings,
        on_event: Callable[[SearchEvent], None],
        say: Callable[[str], None],
    ) -> None:
        """See `search.pool.Pool.run`.

        Raises:
            InputError: Ray is not installed, no cluster answers, or it has a machine that does not
                see the database's file.
        """
        with _connected(self.address) as ray:
            _refuse_far_file(ray, settings.url)
            gpus = self.gpus
            if gpus is None:
                gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            sharers = count_sharers(self.workers, self.cpus, gpus, nodes)
            here = running_software()
            settings = dataclasses.replace(settings, sharers=sharers, software=here)
            work = ray.put((with_pixels(jobs), dict(since), _anywhere(settings)))
            actors = _Actors(ray, work, self.cpus, gpus, say)
            supervise(actors, self.workers, on_event, say, settings.is_over)


def count_sharers(
    workers: int, cpus: float, gpus: float, nodes: Iterable[Mapping[str, float]]
) -> int:
    """How many workers at most share the memory of a GPU, or of a node where they have none.

    Args:
        cpus, gpus: of each worker.
        nodes: the resources of each node, as Ray names them.
    """
    if gpus:
        return math.ceil(1 / gpus)
    return max(1, min(workers, max((_count_room(node, cpus, gpus) for node in nodes), default=1)))


def _count_room(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many workers a node has room for while nothing else runs on it."""
    by_gpus = node.get("GPU", 0.0) / gpus if gpus else math.inf
    return int(min(node.get("CPU", 0.0) / cpus, by_gpus))


@dataclass
class _Actors:
    """The actors by number, with the answer that each owes; `begun` are those that have a node."""

    ray: Any
    work: Any
    cpus: float
    gpus: float
    say: Callable[[str], None]
    actors: dict[int, Any] = field(default_factory=dict)
    answers: dict[Any, int] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)
    given_up: list[int] = field(default_factory=list)
    started: float = 0.0  # when the last one was, by time.monotonic
    said: bool = False  # that some have not begun

    def start(self, number: int) -> None:
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_concurrency": CALLS}
        actor = self.ray.remote(RayWorker).options(**options, max_restarts=0).remote()
        actor.run.remote(self.work, self.gpus > 0, max(1, int(self.cpus)))
        self.actors[number] = actor
        self.answers[actor.listen.remote(0.0)] = number
        self.started = time.monotonic()

    def listen(self, seconds: float) -> Iterator[tuple[int, WorkerMessage]]:
        while self.given_up:
            yield self.given_up.pop(), WorkerEnded()
        answers = list(self.answers)
        ready, _ = self.ray.wait(answers, num_returns=1, timeout=seconds)
        if ready:  # `wait` returns no more than it is asked for
            ready, _ = self.ray.wait(answers, num_returns=len(answers), timeout=0)
        for answer in ready:
            number = self.answers.pop(answer)
            yield from ((number, message) for message in self._open(number, answer))
        self._say_who_waits()

    def send(self, word: Word) -> None:
        for number, actor in list(self.actors.items()):
            if number in self.begun:
                actor.obey.remote(word)
            else:  # it would take a node to tell it
                self._take_out(number)
                self.given_up.append(number)

    def end(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.actors and time.monotonic() < deadline:
            for _ in self.listen(0.5):
                pass
        for number in list(self.actors):
            self._take_out(number)

    def _open(self, number: int, answer: Any) -> list[WorkerMessage]:
        """What an actor said, and then listen on; or what it died of."""
        try:
            messages: list[WorkerMessage] = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            self._take_out(number)
            if getattr(error, "actor_init_failed", False):
                return [MuraError(_why_not_begun(error)), WorkerEnded()]
            return [WorkerEnded(_death(error))]
        self.begun.add(number)
        if any(isinstance(message, WorkerEnded) for message in messages):
            self._take_out(number)
        else:
            self.answers[self.actors[number].listen.remote(LISTEN)] = number
        return messages

    def _take_out(self, number: int) -> None:
        """Kill an actor, if it lives: a node that was only out of reach may still run it."""
        self.ray.kill(self.actors.pop(number))
        self.begun.discard(number)
        self.answers = {answer: n for answer, n in self.answers.items() if n != number}

    def _say_who_waits(self) -> None:
        """Say once that workers have not begun; some only take half a minute to import torch."""
        waiting = len(self.actors) - len(self.begun)
        if not waiting or self.said or time.monotonic() - self.started < SLOW_START:
            return
        self.said = True
        room = sum(
            _count_room(node["Resources"], self.cpus, self.gpus)
            for node in self.ray.nodes()
            if node["Alive"]
        )
        self.say(
            f"{waiting} of {len(self.actors)} workers have not begun; with {self.cpus:g} CPU and "
            f"{self.gpus:g} GPU each, the cluster has room for {room}"
        )


class RayWorker:
    """A worker in a process of Ray's; `run`, `listen` and `obey` are called at one time."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[WorkerMessage] = queue.SimpleQueue()
        self._finish = threading.Event()
        self._thread = 0  # that of `run`, while it runs

    def run(
        self,
        work: tuple[Sequence[SearchJob], Mapping[str, int], WorkerSettings],
        on_gpu: bool,
        threads: int,
    ) -> None:
        """Be a worker; what it has to say at its end too goes through `listen`."""
        jobs, since, settings = work
        if settings.features and not settings.features.parent.is_dir():  # no RUNS on this node
            settings = dataclasses.replace(settings, features=None)
        if settings.compiled and not settings.compiled.parent.is_dir():
            settings = dataclasses.replace(settings, compiled=None)
        torch.set_num_threads(threads)
        self._thread = threading.get_ident()
        try:
            _check_software(settings.software)
            device = choose_device("auto" if on_gpu else "cpu")  # Ray shows it its own GPU alone
            run_worker(jobs, since, settings, device, self._messages.put, self._finish.is_set)
        except KeyboardInterrupt:
            pass
        except Exception as error:
            # Nobody looks at what `run` raises: the command hears of it by a message, or never.
            self._messages.put(what_ended(error))
        finally:
            self._thread = 0
            self._messages.put(WorkerEnded())

    def listen(self, seconds: float) -> list[WorkerMessage]:
        """What there is to say, within so many seconds; nothing, when these are over."""
        messages = []
        with contextlib.suppress(queue.Empty):
            messages.append(self._messages.get(timeout=seconds) if seconds else None)
            while True:
                messages.append(self._messages.get_nowait())
        return [message for message in messages if message is not None]

    def obey(self, word: Word) -> None:
        """Stop after the trial that runs, or at once: by a KeyboardInterrupt in `run`."""
        self._finish.set()
        if word == "stop" and self._thread:
            _interrupt(self._thread)


def _check_software(wanted: Software | None) -> None:
    """Raise InputError where this node has another version than the machine of the command."""
    here = running_software()
    if wanted is not None and not here.is_same_program(wanted):
        raise InputError(
            f"node {socket.gethostname()}: {here}, and the command is of {wanted}: their trials "
            "need not compare; install one version on all nodes"
        )


def _interrupt(thread: int) -> None:
    """Raise KeyboardInterrupt in a thread, as a signal does in the main one (Python's C API)."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt)
    )


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster, or to one that lives as long as the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it reports to its makers
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or it prints deaths on stdout
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise InputError("--on ray: Ray is not installed; pip install 'mura-tune[ray]'") from None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address, log_to_driver=False, logging_level="CRITICAL")
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = address or os.environ.get("RAY_ADDRESS", "on this machine")
        raise InputError(f"--on ray, {where}: {printable(error)[:300]}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _refuse_far_file(ray: Any, url: str) -> None:
    """Raise InputError for a SQLite database where a node is another machine."""
    here = socket.gethostname()
    others = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]} - {here}
    if file_of(url) and others:
        raise InputError(
            f"{database(url)}: a file of this machine, and workers run on "
            f"{', '.join(sorted(others))} too; name a PostgreSQL database with --storage"
        )


def with_pixels(jobs: Sequence[SearchJob]) -> list[SearchJob]:
    """The jobs with their pixels as plain arrays, which take their bytes to other processes."""
    return [
        dataclasses.replace(
            job,
            prepared=dataclasses.replace(job.prepared, pixels=job.prepared.pixels.view(np.ndarray)),
        )
        for job in jobs
    ]


def _anywhere(settings: WorkerSettings) -> WorkerSettings:
    """The settings with whole paths: an actor may have another working folder."""
    path, features, compiled = file_of(settings.url), settings.features, settings.compiled
    return dataclasses.replace(
        settings,
        url=url_of_file(path.absolute()) if path else settings.url,
        features=features.absolute() if features else None,
        compiled=compiled.absolute() if compiled else None,
    )


def _death(error: Exception) -> str:
    """What an actor died of, after its name."""
    text = str(error)
    if "memory" in type(error).__name__.lower() or "OutOfMemory" in text:
        return "was killed (out of memory)"
    return "died with its node" if "its node has died" in text else "was killed"


def _why_not_begun(error: Exception) -> str:
    """Why an actor could not begin: the last line of what went wrong on its node."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = printable(lines[-1])[:300] if lines else type(error).__name__
    return f"a worker cannot begin on its node: {last} (each needs this version of mura-tune)"

"""A worker process: searches until all is done, and does what its parent says over a pipe."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

import torch

from mura_tune.errors import MuraError, explain_error
from mura_tune.search import search
from mura_tune.search.search import Job, WorkerSettings

PATIENCE = 5.0  # seconds a worker has to obey before it is killed


def member(
    pipe: Connection,
    jobs: Sequence[Job],
    since: Mapping[str, int],
    how: WorkerSettings,
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
        search.work(jobs, since, how, device, pipe.send, finish.is_set)
    except KeyboardInterrupt:
        os._exit(130)
    except Exception as error:  # whatever ended this process, its parent has to be told
        if stop.is_set():  # whatever the interruption became on its way
            os._exit(130)
        line = traceback.format_exception_only(error)[0].splitlines()[0][:300]
        told = explain_error(error) or MuraError(line)
        with contextlib.suppress(OSError):  # the parent is gone, and `_obey` is about to see it
            pipe.send(told)


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

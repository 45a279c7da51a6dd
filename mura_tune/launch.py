"""Where the commands begin: on a system that they need, and Ctrl-C ends in one line at once."""

from __future__ import annotations

import atexit
import gc
import importlib.util
import os
import signal
import sys
from types import FrameType


def mura() -> None:
    """The `mura` command."""
    _prepare("mura")
    from mura_tune.cli import main

    main()


def mura_infer() -> None:
    """The `mura-infer` command."""
    _prepare("mura-infer")
    from mura_tune.cli.mura_infer import main

    main()


def _prepare(name: str) -> None:
    """Refuse a system without file locks, and end at once when interrupted.

    While modules are imported nothing is at stake, and a KeyboardInterrupt could surface anywhere.
    `console.run_command` puts the usual handlers in place.
    """

    def leave(_signal: int, _frame: FrameType | None) -> None:
        os.write(2, f"{name}: interrupted\n".encode())
        os._exit(130)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
    # At its end Python looks through all objects for garbage: with torch a second and more, for
    # memory that the system takes back anyway.
    atexit.register(gc.freeze)
    if importlib.util.find_spec("fcntl") is None:
        line = f"{name}: needs Linux or macOS (on Windows: inside WSL); this system has no fcntl"
        print(line, file=sys.stderr)
        sys.exit(2)

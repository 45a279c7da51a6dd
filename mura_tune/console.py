"""How a command talks: reports on stdout, progress on stderr, one line for what went wrong."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from mura_tune.errors import MuraError


def run(command: click.Command, name: str, args: Sequence[str] | None = None) -> None:
    """Run a click command. Exits with 0 done, 2 bad input, 130 interrupted, 1 anything else."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends like Ctrl-C
    try:
        code = command.main(args=args, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say(f"{name}: interrupted; the same command goes on from here")
        sys.exit(130)
    except MuraError as error:
        _say(f"{name}: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # the last resort: a bug, or a machine in trouble, is a line too
        if os.environ.get("MURA_DEBUG"):
            traceback.print_exc()
        reason = (str(error).splitlines() or [""])[0]
        _say(f"{name}: {type(error).__name__}: {reason} (MURA_DEBUG=1 shows where)")
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def report(as_json: bool, document: Callable[[], Any], text: Callable[[], str]) -> None:
    """Print a report: one JSON document, or text for people."""
    if as_json:
        click.echo(json.dumps(document(), indent=2, allow_nan=False, default=str))
    else:
        click.echo(text())


def note(line: str) -> None:
    """One line on stderr, above any progress bar."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def _say(line: str) -> None:
    click.echo(line, err=True)

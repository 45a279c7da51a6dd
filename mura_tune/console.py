"""The console: reports on stdout, progress and one-line errors on stderr, and exit codes."""

from __future__ import annotations

import codecs
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from mura_tune.errors import explain_error
from mura_tune.text import escape, printable

# A command of verbs that is given none: its help is the answer. Before click 8.2 it is an Exit.
_NO_WORDS = getattr(click.exceptions, "NoArgsIsHelpError", ())


def run_command(command: click.Command, name: str, args: Sequence[str] | None = None) -> None:
    """Run a click command. Exits with 0 done, 2 bad input, 130 interrupted, 1 anything else."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends like Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _prepare_streams()
        _prepare_environment()
        code = command.main(args=args, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        if isinstance(error, _NO_WORDS):
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
        _fail(_usage(name, error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm sends it twice
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _fail(f"{name}: interrupted; the same command goes on from here", 130)
    except BrokenPipeError:  # the reader of a pipe, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        # A bug, or a machine in trouble: the program ends here, with one line and no traceback,
        # which MURA_DEBUG brings back.
        if os.environ.get("MURA_DEBUG"):
            traceback.print_exc()
        if (meaning := explain_error(error)) is not None:
            _fail(f"{name}: {meaning}", meaning.exit_code)
        reason = " ".join(str(error).split()) or "no reason given"
        _fail(f"{name}: {type(error).__name__}: {reason} (MURA_DEBUG=1 shows where)", 1)
    sys.exit(code if isinstance(code, int) else 0)


def print_report(as_json: bool, document: Callable[[], Any], text: Callable[[], str]) -> None:
    """Print a report: one JSON document, or text for people."""
    if as_json:
        click.echo(json.dumps(document(), indent=2, allow_nan=False, default=str))
    else:
        click.echo("\n".join(_escaped(line) for line in text().split("\n")))


def print_note(line: str) -> None:
    """Print one line on stderr, above any progress bar."""
    from tqdm import tqdm

    tqdm.write(printable(line), file=sys.stderr)


def _escaped(line: str) -> str:
    """Return a line of a report, with its spaces, and escapes for control characters."""
    return "".join(c if c.isprintable() or c == "\t" else escape(c) for c in line)


def _usage(name: str, error: click.ClickException) -> str:
    """Return one line about a command line that click refuses."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else name
    return f"{command}: {error.format_message()} ({command} --help explains)"


def _fail(line: str, code: int) -> NoReturn:
    click.echo(printable(line), err=True)
    sys.exit(code)


def _prepare_streams() -> None:
    """Let closed streams swallow output, and open ones print any name, with escapes."""
    codecs.register_error("escapes", _escapes)
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="escapes")


def _escapes(error: UnicodeError) -> tuple[str, int]:
    """Return escapes for the characters that the encoding of the output lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(escape, error.object[error.start : error.end])), error.end


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _prepare_environment() -> None:
    """Set the environment variables that would break a command."""
    os.environ["MPLBACKEND"] = "Agg"  # a notebook's own backend is not importable from here

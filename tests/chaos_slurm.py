"""Preempt and requeue the tasks of `mura launch slurm` while they search, and count the trials.

Slurm's own daemons with one node, PostgreSQL, three tasks that search 12 trials and confirm the
best. Once a job of higher priority preempts all of them, once one is requeued. The same script
submitted again then runs nothing. `make chaos` calls it where Slurm and PostgreSQL are installed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import optuna
import postgres
import slurm
from chaos import PATIENCE, SETS, STUDY, amiss, opened, trials_of
from commands import until

from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.search.results import count_outcomes
from mura_tune.text import CONFIRM_SUFFIX

CONFIRM = ["--set=budget.confirm.top=1", "--set=budget.confirm.seeds=1"]
CPUS = 4  # of the node; a task has one


def run(*words: str) -> str:
    """What a command of Slurm, or `mura`, prints on stdout."""
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    if said.returncode:
        raise RuntimeError(f"{shlex.join(words)}: {said.stderr}")
    return said.stdout.strip()


def states(job: str) -> Counter[str]:
    """How many tasks of a job are RUNNING, PENDING or COMPLETING; those that ended are gone."""
    said = run("squeue", "--noheader", "--array", "--format=%F %T")
    return Counter(state for one, state in map(str.split, said.splitlines()) if one == job)


def begin_now(job: str, tasks: int) -> None:
    """Have tasks that were requeued start now: Slurm makes them wait for two minutes."""
    for task in range(tasks):
        subprocess.run(
            ["scontrol", "update", f"JobId={job}_{task}", "StartTime=now"],
            capture_output=True,
            check=False,  # it has begun already
        )


def ended(url: str) -> int:
    with opened(url, create=True) as storage:
        return sum(
            t.is_done for n in (STUDY, STUDY + CONFIRM_SUFFIX) for t in trials_of(storage, n)
        )


def storm(script: Path, url: str, tasks: int, trials: int) -> list[str]:
    """Submit the script, cut its tasks off twice; returns what is wrong in the end."""
    job = run("sbatch", "--parsable", str(script))
    for share, cut in ((0.2, preempt), (0.6, requeue)):
        until(lambda share=share: ended(url) >= share * trials, PATIENCE)
        cut(job)
        until(lambda: states(job)["PENDING"] > 0, PATIENCE)
        until(lambda: states(job)["COMPLETING"] == 0, PATIENCE)
        begin_now(job, tasks)
    until(lambda: not states(job), PATIENCE)
    return amiss(url, trials)


def preempt(_job: str) -> None:
    """A job of higher priority that needs the whole node for some seconds."""
    wrap = ("--wrap=sleep 5", f"--ntasks={CPUS}", "--partition=high", "--output=/dev/null")
    run("sbatch", *wrap)


def requeue(job: str) -> None:
    """What an administrator does, or a node that fails."""
    run("scontrol", "requeue", f"{job}_1")


def main() -> None:
    """Print what the storm did; exit code 1 if it left something wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"trials": 12, "workers": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    if (programs := slurm.daemons()) is None:
        print("Slurm: not tried, it is not on this machine (Debian: slurm-wlm munge)")
        return
    if (server_programs := postgres.binaries()) is None:
        sys.exit("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    setup = f"export OMP_NUM_THREADS=1 PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    try:
        write_phantoms(folder / "phantoms", areas=(STUDY,), patients=40, size=96)
        with postgres.server(server_programs) as server, slurm.cluster(programs, CPUS):
            url = server.url()
            (folder / "url").write_text(url)
            os.environ["MURA_STORAGE_FILE"] = str(folder / "url")
            os.chdir(folder)  # where the logs go
            script = folder / "search.sh"
            places = ("--data", str(folder / "phantoms"), "--runs", str(folder / "runs"))
            size = ("--workers", str(asked.workers), "--trials", str(asked.trials))
            small = ("--cpus=1", "--gres=", "--partition=low", "--time=60")
            text = run(
                str(Path(sys.executable).with_name("mura")),
                *("launch", "slurm", STUDY, *size, *small, *places),
                *("--setup", setup, *SETS, *CONFIRM),
            )
            script.write_text(f"{text}\n")
            run("sbatch", "--test-only", str(script))
            began = time.monotonic()
            wrong = storm(script, url, asked.workers, asked.trials)
            took = time.monotonic() - began
            before = ended(url)
            again = run("sbatch", "--parsable", str(script))
            until(lambda: not states(again), PATIENCE)
            more = ended(url) - before
            wrong += [f"the same script again ran {more} trials"] if more else []
            with opened(url) as storage:
                counts = count_outcomes(trials_of(storage, STUDY))
            if wrong:
                wrong += [log.read_text()[-500:] for log in folder.glob("mura-*.log")]
            print(
                f"Slurm, {asked.workers} tasks, PostgreSQL: all preempted once, one requeued, "
                f"{took:.0f} s; {', '.join(f'{n} {word}' for word, n in counts.items() if n)}; the "
                f"same script again ran {more}"
            )
    finally:
        os.chdir("/")
        shutil.rmtree(folder)
    fine = "Nothing is wrong: the count is exact, no two trials share a slot, none is running."
    print("\n".join(["Something is wrong:", *wrong]) if wrong else fine)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

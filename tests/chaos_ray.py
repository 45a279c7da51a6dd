"""Kill workers and whole nodes of a Ray cluster while it searches, and count the trials.

Three nodes of Ray on this machine, PostgreSQL, four workers that search 24 trials and confirm the
best. Ten times a worker gets `kill -9`, twice a whole node; another node joins after each. The same
line again then runs nothing. `make chaos` calls it where Ray and PostgreSQL are installed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import postgres
from chaos import LULL, PATIENCE, STUDY, amiss, arguments, opened, trials_of
from commands import Shell, command_line, hit, processes, until

from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.search.results import count_outcomes
from mura_tune.text import CONFIRM_SUFFIX

CONFIRM = ["--set=budget.confirm.top=1", "--set=budget.confirm.seeds=1"]
STORE = 10**8  # bytes of each node's object store
LAST = 0.7  # of all trials have ended when the last kill is due
# A node that is killed is seen to be dead within seconds, and not within half a minute; workers do
# not wait for all other work of the machine.
QUICK = {
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
    "worker_niceness": 0,
}
FINE = (
    "Nothing is wrong: the count is exact, no two trials share a slot, none is running, and each\n"
    "node that joined got work."
)


@dataclass
class Nodes:
    """A Ray cluster on this machine: a head, which lives, and nodes with one core each."""

    cluster: Any
    others: list[Any] = field(default_factory=list)
    seen: dict[int, set[int]] = field(default_factory=dict)  # pids of workers, by node's raylet

    def add(self) -> int:
        """Add a node; returns the pid of its raylet."""
        self.others.append(self.cluster.add_node(num_cpus=1, object_store_memory=STORE))
        return _raylet(self.others[-1])

    def kill(self) -> None:
        """Kill the oldest node but for the head, at once, and all that runs on it."""
        self.cluster.remove_node(self.others.pop(0), allow_graceful=False)

    def workers(self) -> list[int]:
        """The processes that are workers, on whichever node."""
        raylets = {_raylet(node) for node in (self.cluster.head_node, *self.others)}
        found = []
        for pid, (parent, _) in processes().items():
            if parent in raylets and "RayWorker" in command_line(pid):
                self.seen.setdefault(parent, set()).add(pid)
                found.append(pid)
        return sorted(found)


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def storm(
    nodes: Nodes,
    args: Sequence[str],
    url: str,
    log: Path,
    trials: int,
    kills: int,
    dice: random.Random,
) -> list[str]:
    """Run `mura ARGS` through its kills; returns what is wrong with the search in the end."""
    command = Shell(args, log)
    of_node = set(dice.sample(range(kills), 2))  # a node that joins later may find nothing to do
    added: list[int] = []
    killed = 0
    try:
        with opened(url, create=True) as storage:
            done = _counter(storage)
            for number in range(kills + 2):
                due = number * LAST * trials / (kills + 2)
                _wait(lambda due=due: bool(nodes.workers()) and done() >= due, command, log)
                time.sleep(dice.uniform(0, 2 * LULL))
                if number in of_node:
                    nodes.kill()
                    added.append(nodes.add())
                else:
                    killed += _kill_one(nodes, command, dice)
            _wait(lambda: (nodes.workers(), False)[1], command, log)
        code = command.wait(PATIENCE)
    finally:
        command.end()
    wrong = [f"exit code {code}: {log.read_text()[-800:]}"] if code else []
    wrong += [] if killed == kills else [f"{killed} of {kills} kills landed"]
    with opened(url) as storage:
        ran = {int(t.worker.split("-")[-2]) for t in trials_of(storage, STUDY) if t.worker}
    idle = [raylet for raylet in added if not nodes.seen.get(raylet, set()) & ran]
    wrong += [f"{len(idle)} of {len(added)} added nodes got no work"] if idle else []
    return wrong + amiss(url, trials)


def _counter(storage: optuna.storages.RDBStorage) -> Callable[[], int]:
    names = (STUDY, STUDY + CONFIRM_SUFFIX)
    return lambda: sum(t.is_done for name in names for t in trials_of(storage, name))


def _wait(true: Callable[[], bool], command: Shell, log: Path) -> None:
    """Until something is true, or the command has ended."""
    until(lambda: command.code() is not None or true(), PATIENCE, lambda: log.read_text()[-2000:])


def _kill_one(nodes: Nodes, command: Shell, dice: random.Random) -> int:
    """Kill a worker, whichever: 1 if there was one before the command ended."""
    while command.code() is None:
        workers = nodes.workers()
        if workers and hit(dice.choice(workers), signal.SIGKILL):
            return 1
        time.sleep(0.05)
    return 0


def main() -> None:
    """Print what the storm did; exit code 1 if it left something wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"kills": 10, "trials": 24, "workers": 4, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    try:
        from ray.cluster_utils import Cluster
    except ImportError:
        sys.exit("no Ray in this environment (pip install 'mura-tune[ray]')")
    if (programs := postgres.binaries()) is None:
        sys.exit("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": QUICK})
    try:
        os.environ["RAY_ADDRESS"] = cluster.address
        nodes = Nodes(cluster)
        nodes.add()
        nodes.add()
        write_phantoms(folder / "phantoms", areas=(STUDY,), patients=40, size=96)
        with postgres.server(programs) as server:
            url = server.url()
            args = arguments(url, folder / "phantoms", folder, asked.trials, asked.workers)
            args += [*CONFIRM, "--on=ray"]
            began = time.monotonic()
            dice = random.Random(asked.seed)
            wrong = storm(
                nodes, args, url, folder / "log", trials=asked.trials, kills=asked.kills, dice=dice
            )
            took = time.monotonic() - began
            with opened(url) as storage:
                before = trials_of(storage, STUDY)
                number = len(trials_of(storage, STUDY + CONFIRM_SUFFIX))
            again = Shell(args, folder / "again")
            wrong += [f"again: exit code {code}"] if (code := again.wait(PATIENCE)) else []
            again.end()
            with opened(url) as storage:
                more = len(trials_of(storage, STUDY)) - len(before)
                more += len(trials_of(storage, STUDY + CONFIRM_SUFFIX)) - number
            wrong += [f"the same line again ran {more} trials"] if more else []
            counts = ", ".join(f"{n} {word}" for word, n in count_outcomes(before).items() if n)
            print(
                f"Ray, {asked.workers} workers on 3 nodes, PostgreSQL: {asked.kills} workers and 2 "
                f"nodes killed, {took:.0f} s; {counts}; the same line again ran {more}"
            )
    finally:
        cluster.shutdown()
        shutil.rmtree(folder)
    print("\n".join(["Something is wrong:", *wrong]) if wrong else FINE)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

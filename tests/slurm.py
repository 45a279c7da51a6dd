"""A Slurm cluster of one node, from Debian's daemons, that leaves nothing behind."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")  # Debian: slurm-wlm munge
MUNGE = "munge"  # Debian's user; munged refuses to run as root

# Two partitions on one node: a job of `high` preempts those of `low`, which are queued again.
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=1,sched_interval=5
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def daemons() -> dict[str, str] | None:
    """The path of each daemon by name; None where one is missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    found = {name: shutil.which(name, path=path) for name in DAEMONS}
    return {name: at for name, at in found.items() if at} if all(found.values()) else None


@contextmanager
def cluster(programs: dict[str, str], cpus: int) -> Iterator[None]:
    """A cluster whose node has `cpus` cores, whatever the machine has. SLURM_CONF names it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir()
    text = CONFIGURATION.format(
        host=socket.gethostname().split(".")[0],
        user=pwd.getpwuid(os.getuid()).pw_name,
        folder=folder,
        ports=_free_ports(2),
        cpus=cpus,
    )
    (folder / "slurm.conf").write_text(text)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_munged(programs["munged"], folder / "munge"))
        for name in ("slurmctld", "slurmd"):
            started.append(subprocess.Popen([programs[name], "-D"], stderr=subprocess.DEVNULL))
        _await_idle(folder)
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)
        del os.environ["SLURM_CONF"]
        shutil.rmtree(folder, ignore_errors=True)


def _munged(program: str, folder: Path) -> subprocess.Popen[bytes]:
    """The daemon that says who is who."""
    key = folder / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    who = MUNGE if os.getuid() == 0 else None
    if who:
        shutil.chown(folder, who)
        shutil.chown(key, who)
    files = [f"--{name}-file={folder / name}" for name in ("key", "pid", "log", "seed")]
    return subprocess.Popen(
        [program, "--foreground", "--force", *files, f"--socket={folder / 'socket'}"],
        user=who,
        stderr=subprocess.DEVNULL,
    )


def _await_idle(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        said = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False
        )
        if set(said.stdout.split()) == {"idle"}:
            return
        if time.monotonic() > deadline:
            logs = [(folder / f"{name}.log") for name in ("slurmctld", "slurmd")]
            tails = [log.read_text()[-500:] for log in logs if log.exists()]
            raise RuntimeError(f"Slurm does not start: {said.stderr} {tails}")
        time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports

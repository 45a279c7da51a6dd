"""Job scripts that bash and Slurm read and act on, manifests of the Job API's own fields."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from mura_tune.cluster.job_scripts import KubernetesJob, SlurmJob, WorkerCommand
from mura_tune.errors import InputError

TWO = WorkerCommand(("XR_WRIST", "left hand (2)"), trials=24, overrides=("arch=$(id) y",))


def directives(script: str) -> dict[str, str]:
    """The options that Slurm reads: those before the first line that is no comment."""
    head = script.split("\nset -euo")[0].splitlines()
    lines = [line.removeprefix("#SBATCH --") for line in head if line.startswith("#SBATCH --")]
    return dict((*line.split("=", 1), "")[:2] for line in lines)


def test_a_slurm_job_asks_for_what_it_was_told_to() -> None:
    job = SlurmJob(TWO, 3, cpus=2, gres="gpu:a100:1", memory="16G", time="1-00:00:00")
    assert directives(job.script()) == {
        "job-name": "mura",
        "array": "0-5",
        "output": "%x-%A_%a.log",
        "open-mode": "append",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": "2",
        "gres": "gpu:a100:1",
        "mem": "16G",
        "time": "1-00:00:00",
        "requeue": "",
        "signal": "B:TERM@60",
    }
    bare = directives(SlurmJob(WorkerCommand((), every_area=True), gres="").script())
    assert not {"gres", "mem", "time", "partition"} & set(bare)
    assert bare["job-name"] == "mura-every-area"


# In place of the commands of a cluster; `mura` writes what it got, and ends with 130 at SIGTERM.
COMMANDS = {
    "mura": 'printf "%s\\n" "$MURA_STORAGE_FILE" "$@" > said\n'
    'trap "echo stopped >> said; exit 130" TERM\ntouch ready\n[ "$TASK_ENDS" ] || sleep 60 & wait',
    "squeue": 'echo "$STATE"',
    "scontrol": 'echo "$@" > requeued',
}


class Task:
    """A task of a Slurm script in a folder, with commands in place of the cluster's."""

    def __init__(self, folder: Path, job: SlurmJob, **environment: str) -> None:
        self.folder = folder
        for name, body in COMMANDS.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
            (folder / name).chmod(0o755)
        (folder / "job.sh").write_text(job.script())
        ids = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        self.process = subprocess.Popen(
            ["bash", "job.sh"], cwd=folder, env={"PATH": path, **ids, **environment}
        )

    def terminate(self) -> int:
        deadline = time.monotonic() + 60
        while not (self.folder / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    @property
    def said(self) -> list[str]:
        return (self.folder / "said").read_text().splitlines()

    @property
    def requeued(self) -> str:
        path = self.folder / "requeued"
        return path.read_text().strip() if path.exists() else ""


def test_a_task_runs_its_area_with_the_url_from_a_file(tmp_path: Path) -> None:
    task = Task(tmp_path, SlurmJob(TWO, 1), HOME="/home/me", TASK_ENDS="1")
    assert task.process.wait(60) == 0
    words = ["tune", "left hand (2)", "--trials=24", "--set=arch=$(id) y"]
    assert task.said == ["/home/me/.mura-storage", *words]
    assert not task.requeued


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", "requeue 7_1"), ("COMPLETING", "")])
def test_a_task_at_its_time_limit_is_queued_again_and_a_cancelled_one_is_not(
    tmp_path: Path, state: str, requeued: str
) -> None:
    task = Task(tmp_path, SlurmJob(TWO, 1), HOME="/home/me", STATE=state)
    assert task.terminate() == 130
    assert task.said[-1] == "stopped"
    assert task.requeued == requeued


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time", "soon"),
        ("partition", "a b"),
        ("gres", "gpu 1"),
        ("memory", "16GB"),
        ("setup", "\n"),
    ],
)
def test_what_slurm_could_not_read_is_refused(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"--{name}"):
        SlurmJob(TWO, **{name: value})


# The fields of batch/v1 Job that we use, as the API reference of Kubernetes 1.33 has them.
TEXT_LABEL = {"app.kubernetes.io/name": str}
SCHEMA = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "namespace": str, "labels": TEXT_LABEL},
    "spec": {
        "completionMode": str,
        "completions": int,
        "parallelism": int,
        "backoffLimitPerIndex": int,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": str,
                    "onPodConditions": [{"type": str, "status": str}],
                    "onExitCodes": {"containerName": str, "operator": str, "values": [int]},
                }
            ]
        },
        "template": {
            "metadata": {"labels": TEXT_LABEL},
            "spec": {
                "restartPolicy": str,
                "terminationGracePeriodSeconds": int,
                "containers": [
                    {
                        "name": str,
                        "image": str,
                        "command": [str],
                        "env": [
                            {
                                "name": str,
                                "value": str,
                                "valueFrom": {"secretKeyRef": {"name": str, "key": str}},
                            }
                        ],
                        "resources": {
                            "requests": {"cpu": int, "memory": str},
                            "limits": {"memory": str, "nvidia.com/gpu": int},
                        },
                        "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
                    }
                ],
                "volumes": [
                    {
                        "name": str,
                        "emptyDir": {},
                        "persistentVolumeClaim": {"claimName": str, "readOnly": bool},
                    }
                ],
            },
        },
    },
}


def documents(job: KubernetesJob) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(job.manifest()) if one]


def misfits(value: Any, schema: Any, place: str = "") -> list[str]:
    """Where a document has a field that the schema lacks, or a value of another type."""
    if isinstance(schema, dict) and isinstance(value, dict):
        known = [key for key in value if key in schema]
        unknown = [f"{place}.{key}" for key in value if key not in schema]
        return unknown + [
            line for key in known for line in misfits(value[key], schema[key], f"{place}.{key}")
        ]
    if isinstance(schema, list) and isinstance(value, list):
        return [line for one in value for line in misfits(one, schema[0], f"{place}[]")]
    return [] if type(value) is schema else [f"{place}: {value!r}"]


def test_a_kubernetes_job_has_the_fields_of_the_api() -> None:
    command = WorkerCommand(("XR_WRIST", "XR_HAND"))
    first, second = documents(
        KubernetesJob(command, "lab/mura:1", "lab", memory="16Gi", data_claim="mura")
    )
    assert misfits(first, SCHEMA) + misfits(second, SCHEMA) == []
    assert first["metadata"] | {"labels": {}} == {
        **{"name": "mura-xr-wrist", "namespace": "lab", "labels": {}},
    }
    spec = first["spec"]["template"]["spec"]
    # Without these two the API refuses backoffLimitPerIndex.
    assert (first["spec"]["completionMode"], spec["restartPolicy"]) == ("Indexed", "Never")
    assert spec["containers"][0]["command"] == ["mura", "tune", "XR_WRIST"]
    assert second["metadata"]["name"] == "mura-xr-hand"
    mounted = [one["name"] for one in spec["containers"][0]["volumeMounts"]]
    assert mounted == [one["name"] for one in spec["volumes"]] == ["runs", "data"]


def test_a_kubernetes_job_may_take_its_pixels_from_a_url() -> None:
    command = WorkerCommand(("XR_WRIST",), cache="s3://lab/mura")
    (job,) = documents(KubernetesJob(command, "lab/mura:1", gpus=0))
    assert misfits(job, SCHEMA) == []
    spec = job["spec"]["template"]["spec"]
    assert spec["containers"][0]["command"] == ["mura", "tune", "XR_WRIST", "--cache=s3://lab/mura"]
    assert [one["name"] for one in spec["volumes"]] == ["runs"]
    assert "limits" not in spec["containers"][0]["resources"]


def test_a_misfit_is_seen() -> None:
    assert misfits({"spec": {"backoffLimitPerIndx": 1}}, SCHEMA) == [".spec.backoffLimitPerIndx"]
    assert misfits({"spec": {"completions": "4"}}, SCHEMA) == [".spec.completions: '4'"]


ENOUGH = {"image": "lab/mura", "data_claim": "mura"}


@pytest.mark.parametrize(
    ("area", "values"),
    [
        ("XR_WRIST", {"image": "a b"}),
        ("XR_WRIST", {"namespace": "Lab"}),
        ("XR_WRIST", {"memory": "16GB"}),
        ("XR_WRIST", {"data_claim": ""}),
        ("Hand (left)", {}),
        ("X" * 60, {}),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(area: str, values: dict[str, str]) -> None:
    with pytest.raises(InputError):
        KubernetesJob(WorkerCommand((area,)), **(ENOUGH | values))


def test_an_area_or_every_area_is_named() -> None:
    with pytest.raises(InputError, match="--every-area"):
        WorkerCommand(())
    with pytest.raises(InputError, match="--every-area"):
        WorkerCommand(("XR_WRIST",), every_area=True)

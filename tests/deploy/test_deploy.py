"""The files for clusters: against the fields that are documented, and run without a cluster.

`make check-deploy` has them read by SkyPilot itself and by KubeRay's own schema (`test_deploy_parsers.py`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from deployed import (
    KUBERAY,
    LINES,
    SKYPILOT,
    SLURM,
    calls,
    environment,
    fission_arguments,
    loaded,
    skypilot_line,
    slurm_line,
    stand_ins,
)
from jsonschema import Draft202012Validator

STRING = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 1}


def fields(required: str = "", **known: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "additionalProperties": False, "properties": known, "required": required.split()}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": item}


SKYPILOT_TASK = fields(
    "resources run",
    name=STRING,
    num_nodes=COUNT,
    resources=fields(
        accelerators={"type": "string", "pattern": r"^[A-Za-z0-9-]+:\d+$"},
        use_spot={"type": "boolean"},
        disk_size=COUNT,
        job_recovery=fields(strategy={"enum": ["EAGER_NEXT_REGION", "FAILOVER"]}, max_restarts_on_errors=COUNT),
    ),
    envs={"type": "object", "additionalProperties": STRING},
    secrets={"type": "object", "additionalProperties": {"type": ["string", "null"]}},
    file_mounts={
        "type": "object",
        "patternProperties": {
            "^/": fields(
                name={"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$"},
                mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
                config=fields(mount_cached=fields(transfers=COUNT)),
            )
        },
        "additionalProperties": False,
    },
    setup=STRING,
    run=STRING,
)
"""What of a task this file uses, from SkyPilot's documentation."""
AMOUNTS = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+(Mi|Gi)?$"}}
POD = fields(
    "spec",
    spec=fields(
        "containers volumes",
        containers=listed(
            fields(
                "name image resources",
                name=STRING,
                image=STRING,
                resources=fields("requests limits", requests=AMOUNTS, limits=AMOUNTS),
                volumeMounts=listed(
                    fields("name mountPath", name=STRING, mountPath={"type": "string", "pattern": "^/"})
                ),
            )
        ),
        volumes=listed(
            fields(
                "name",
                name=STRING,
                persistentVolumeClaim=fields("claimName", claimName=STRING),
                emptyDir=fields(medium={"const": "Memory"}, sizeLimit=STRING),
            )
        ),
        tolerations=listed(
            fields(
                key=STRING,
                operator={"enum": ["Exists", "Equal"]},
                effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
            )
        ),
    ),
)
START = {"type": "object", "additionalProperties": {"type": "string"}}
RAY_JOB = fields(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields("name", name={"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}),
    spec=fields(
        "entrypoint rayClusterSpec",
        entrypoint=STRING,
        backoffLimit={"type": "integer", "minimum": 0},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished={"type": "integer", "minimum": 0},
        rayClusterSpec=fields(
            "headGroupSpec",
            rayVersion=STRING,
            authOptions=fields(mode={"enum": ["disabled", "token"]}),
            headGroupSpec=fields("template", rayStartParams=START, template=POD),
            workerGroupSpecs=listed(
                fields(
                    "groupName template",
                    groupName=STRING,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=START,
                    template=POD,
                )
            ),
        ),
    ),
)
"""What of KubeRay's RayJob this file uses, from its reference."""
SBATCH = {
    "job-name": r"\S+",
    "nodes": r"\d+",
    "ntasks-per-node": r"1",  # of Ray, on each machine
    "gpus-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "exclusive": "",
    "time": r"(\d+-)?\d{1,2}:\d{2}:\d{2}",
    "requeue": "",
    "signal": r"([BR]:)?[A-Z0-9]+@\d+",
    "open-mode": r"append|truncate",
    "output": r"\S+",
}
"""Options of sbatch as its manual has them, with the form of their values."""


@pytest.mark.parametrize(
    ("path", "schema"), [(SKYPILOT, SKYPILOT_TASK), (KUBERAY, RAY_JOB)], ids=["skypilot", "kuberay"]
)
def test_a_file_has_the_fields_that_are_documented(path: Path, schema: dict[str, Any]) -> None:
    assert [error.message for error in Draft202012Validator(schema).iter_errors(loaded(path))] == []


def test_sbatch_understands_each_directive() -> None:
    lines = SLURM.read_text(encoding="utf-8").splitlines()
    found = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    for name, _, value in (line.partition("=") for line in found):
        assert re.fullmatch(SBATCH[name], value), (name, value)
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])  # none is read behind a command
    subprocess.run(["bash", "-n", str(SLURM)], check=True)


@pytest.mark.parametrize("cluster", LINES)
def test_every_start_is_the_line_that_also_continues_the_run(cluster: str, tmp_path: Path) -> None:
    given = fission_arguments(LINES[cluster](tmp_path))
    assert given[0] == "train"
    assert given[given.index("--engine") + 1] == "verl"
    assert {"--resume", "engine.gpus=8"} < set(given)
    assert not any("$" in one or " " in one for one in given)


@pytest.mark.parametrize("line", [skypilot_line, slurm_line])
def test_ray_begins_where_the_command_looks_for_it(line: Any, tmp_path: Path) -> None:
    found = line(tmp_path)
    address = found[found.index("--address") + 1]
    assert address in ("10.0.0.1:6379", "first:6379")
    assert f"RAY_ADDRESS={address}" in found[found.index("--") :]
    nodes = found[found.index("--min-nodes") + 1]
    assert f"engine.nodes={nodes}" in found


def test_machines_and_gpus_are_those_that_are_asked_for(tmp_path: Path) -> None:
    (group,) = loaded(KUBERAY)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 2
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert {"engine.nodes=2", "engine.gpus=8"} < set(LINES["kuberay"](tmp_path))
    directives = SLURM.read_text(encoding="utf-8")
    assert "#SBATCH --nodes=2\n" in directives
    assert "#SBATCH --gpus-per-node=8\n" in directives
    assert loaded(SKYPILOT)["resources"]["accelerators"].endswith(":8")


def test_a_job_at_its_time_limit_is_queued_again(tmp_path: Path) -> None:
    stand_ins(tmp_path, scontrol="echo first", srun='touch "$HOME/runs"; exec sleep 60')
    told = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "first", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "8"}
    told |= {"MODEL": "m", "RUN": "r"}
    job = subprocess.Popen(["bash", str(SLURM)], env=environment(tmp_path, told), start_new_session=True)
    try:
        while not (tmp_path / "runs").exists():
            assert job.poll() is None
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        job.wait(30)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    assert ["scontrol", "requeue", "7"] in calls(tmp_path)


def test_a_job_without_a_model_ends_with_a_sentence(tmp_path: Path) -> None:
    stand_ins(tmp_path, scontrol=":", srun=":")
    ended = subprocess.run(
        ["bash", str(SLURM)], env=environment(tmp_path, {"RUN": "r"}), capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert "MODEL: the folder of a model" in ended.stderr


def test_a_bucket_is_written_in_order(tmp_path: Path) -> None:
    """The file that names the newest checkpoint is written last, and has to arrive last."""
    task = loaded(SKYPILOT)
    (mount,) = task["file_mounts"]
    assert task["file_mounts"][mount]["mode"] == "MOUNT_CACHED"
    assert task["file_mounts"][mount]["config"]["mount_cached"]["transfers"] == 1
    given = fission_arguments(skypilot_line(tmp_path))
    assert given[given.index("--output") + 1].startswith(f"{mount}/")
    assert task["num_nodes"] == 1

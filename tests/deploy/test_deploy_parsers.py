"""The files for clusters, read by SkyPilot and by the schema that KubeRay installs: `make check-deploy`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployed import KUBERAY, SKYPILOT, loaded
from jsonschema import Draft202012Validator

CRD = os.environ.get("FISSION_RAYJOB_CRD", "")


@pytest.mark.skipif(find_spec("sky") is None, reason="SkyPilot is not installed: make check-deploy")
@pytest.mark.filterwarnings("default")
def test_skypilot_reads_its_file() -> None:
    import sky

    task = sky.Task.from_yaml_config(loaded(SKYPILOT) | {"secrets": {"RAY_AUTH_TOKEN": "0"}})
    (resources,) = task.resources
    assert (task.num_nodes, resources.use_spot, resources.accelerators) == (1, True, {"H100": 8})
    assert resources.job_recovery["strategy"] == "EAGER_NEXT_REGION"


@pytest.mark.skipif(not CRD, reason="KubeRay's schema is not there: make check-deploy")
def test_kuberay_s_own_schema_has_nothing_against_its_file() -> None:
    definition = yaml.load(Path(CRD).read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    job = loaded(KUBERAY)
    assert [error.message for error in Draft202012Validator(schema).iter_errors(job)] == []
    assert list(unknown(job, schema, "")) == []


def unknown(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Fields that the schema does not have, which the API server would drop without a word."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from unknown(one, schema.get("items", {}), f"{path}[{number}]")
    elif isinstance(value, dict) and path != ".metadata":
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        for name, one in value.items():
            if name not in known and not rest:
                yield f"{path}.{name}"
            yield from unknown(one, known.get(name, rest if isinstance(rest, dict) else {}), f"{path}.{name}")

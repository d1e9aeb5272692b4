"""Where a folder comes from: written by whoever writes into it, read by `fission reproduce` and the report."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fission_grpo.errors import ConfigError, DataError
from fission_grpo.files import whole_path
from fission_grpo.models.catalog import base_of, find_model
from fission_grpo.run.inputs import model_inputs, with_tasks
from fission_grpo.run.provenance import (
    PROVENANCE,
    RunInputs,
    differences,
    input_differences,
    read_provenance,
    record_provenance,
    without_secrets,
)
from fission_grpo.types import Task


def test_every_process_adds_a_line_and_the_first_is_the_origin(tmp_path: Path) -> None:
    inputs = RunInputs(model="nano", files={"model.safetensors": "ab"}, tasks=3, tasks_hash="cd")
    first = record_provenance(tmp_path, inputs=inputs, threads=2)
    second = record_provenance(tmp_path, step=7)
    assert read_provenance(tmp_path) == (first, second)
    assert (first.inputs, first.machine.threads, second.step) == (inputs, 2, 7)
    assert first.versions["torch"]


def test_an_older_folder_has_none_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) == ()
    (tmp_path / PROVENANCE).write_text('{"started": "now"}\n')
    with pytest.raises(DataError, match="command: Field required; restore the file, or delete it"):
        read_provenance(tmp_path)


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path) -> None:
    told = record_provenance(tmp_path)
    line = json.loads((tmp_path / PROVENANCE).read_text())
    (tmp_path / PROVENANCE).write_text(json.dumps({**line, "weather": "fine"}) + "\n")
    assert read_provenance(tmp_path) == (told,)


def test_a_secret_of_the_environment_is_no_part_of_the_command() -> None:
    environment = {"MY_API_KEY": "sk-123456789", "HOME": "/home/someone", "SHORT_TOKEN": "train"}
    command = "train --url http://sk-123456789@host --output /home/someone"
    assert without_secrets(command, environment) == "train --url http://***@host --output /home/someone"


def test_the_commit_of_the_folder_says_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("needs git")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("x = 1\n")
    named = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "own.py"], [*named, "commit", "-qm", "first"]):
        subprocess.run([git, *arguments], check=True)
    head = subprocess.run([git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "untracked").touch()
    assert record_provenance(tmp_path).commits["here"] == head
    (tmp_path / "own.py").write_text("x = 2\n")
    assert record_provenance(tmp_path).commits["here"] == f"{head} with changes"


def test_what_could_matter_is_named_and_nothing_else(tmp_path: Path) -> None:
    then = record_provenance(tmp_path, inputs=RunInputs(model="nano", files={"model.safetensors": "a", "old": "b"}))
    assert list(differences(then, replace(then, started="later", directory="/elsewhere"))) == []
    now = replace(
        then,
        versions={**then.versions, "torch": "1.0"},
        source="other",
        machine=replace(then.machine, threads=7),
        inputs=RunInputs(model="nano", files={"model.safetensors": "c", "new": "d"}),
    )
    told = list(differences(then, now))
    assert told[0] == f"torch: {then.versions['torch']} then, 1.0 now"
    assert told[1].startswith("the code of fission-grpo is another one")
    assert told[2:] == ["threads: 0 then, 7 now", "model.safetensors of the model nano is another file"]


def test_what_only_one_of_two_runs_knows_is_no_difference() -> None:
    full = RunInputs(model="nano", template="a", data="t.jsonl", data_file="b", tasks=2, tasks_hash="c")
    assert list(input_differences(full, RunInputs(model="nano"))) == []
    assert list(input_differences(full, replace(full, data_file="x"))) == ["the data t.jsonl is another file"]


def test_equal_tasks_have_equal_hashes_in_the_same_order(tmp_path: Path) -> None:
    one, other = (Task(id=name, messages=({"role": "user", "content": name},), tools=()) for name in "ab")
    empty, file = RunInputs(model="nano"), tmp_path / "tasks.jsonl"
    file.write_text("text")
    known = with_tasks(empty, [one, other], data=str(file))
    assert known.data_file == hashlib.sha256(b"text").hexdigest()
    assert known == with_tasks(empty, [one, other], data=str(file))
    assert known.tasks_hash != with_tasks(empty, [other, one], data=str(file)).tasks_hash


# Models from anywhere.


def adapter(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    return folder


def test_an_adapters_relative_base_is_found_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "models" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    folder = adapter(tmp_path / "runs" / "a" / "policy", "models/base")
    monkeypatch.chdir("/")
    found = base_of(find_model(str(folder)))
    assert found is not None
    assert found.folder == base
    assert model_inputs(str(folder), template="t").files == {
        "adapter_config.json": hashlib.sha256((folder / "adapter_config.json").read_bytes()).hexdigest(),
        "adapter_model.safetensors": hashlib.sha256(b"adapter").hexdigest(),
        "base/config.json": hashlib.sha256(b"{}").hexdigest(),
    }


def test_a_base_that_is_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds an adapter for 'models/base', which is not on this machine"):
        base_of(find_model(str(adapter(tmp_path / "policy", "models/base"))))


def test_only_relative_paths_of_what_is_there_become_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("here", "nano"):
        (tmp_path / name).mkdir()
    assert whole_path("here", names={"nano"}) == str(tmp_path / "here")
    for same in ("nano", "nowhere/at-all", "", str(tmp_path / "here")):
        assert whole_path(same, names={"nano"}) == same

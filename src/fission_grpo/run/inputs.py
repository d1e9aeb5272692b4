"""What a run starts from, hashed: weights, tokenizer, chat template and tasks; and what it computes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fission_grpo.models.catalog import ModelSource, base_of, find_model
from fission_grpo.run.provenance import RunInputs
from fission_grpo.tasks.gold_chain import canonical
from fission_grpo.tasks.jsonl import record_of
from fission_grpo.types import Task

_HASHED = ("*.safetensors", "*.bin", "*.gguf", "config.json", "adapter_config.json", "tokenizer.json")


def model_inputs(name_or_path: str, *, template: str | None) -> RunInputs:
    """Hashes of a model's files: about a second for each GB.

    Args:
        template: text of the chat template that is used.
    Raises:
        ConfigError: no such model, or no such base of an adapter.
    """
    return RunInputs(
        model=name_or_path,
        files=dict(_hashes(find_model(name_or_path))),
        template=text_hash(template) if template else "",
    )


def with_tasks(inputs: RunInputs, tasks: Sequence[Task], *, data: str) -> RunInputs:
    """The same with the tasks that are trained or played on.

    Args:
        data: where they came from: a file, or a word of ours.
    """
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(canonical(record_of(task)).encode(errors="surrogatepass") + b"\n")
    return replace(inputs, data=data, data_file=data_hash(data), tasks=len(tasks), tasks_hash=digest.hexdigest())


def data_hash(data: str) -> str:
    """Of the file that tasks come from; empty where it is none."""
    path = Path(data).expanduser()
    return file_hash(path) if path.is_file() else ""


def accelerators() -> tuple[str, ...]:
    """The GPUs in sight, by name."""
    return tuple(torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count()))


def text_hash(text: str) -> str:
    """SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of all bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashes(source: ModelSource, above: str = "") -> Iterator[tuple[str, str]]:
    for path in sorted({path for pattern in _HASHED for path in source.folder.glob(pattern)}):
        yield f"{above}{path.name}", file_hash(path)
    if base := base_of(source):
        yield from _hashes(base, f"{above}base/")

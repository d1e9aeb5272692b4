"""Train a run again from its folder, and say whether the curves are the same: `fission reproduce`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fission_grpo.commands.sft import fine_tune
from fission_grpo.commands.train import train
from fission_grpo.config import RunSettings, load_settings
from fission_grpo.errors import ConfigError
from fission_grpo.files import file_hash, read_jsonl
from fission_grpo.models.catalog import load_tokenizer
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.inputs import data_hash, model_inputs
from fission_grpo.run.provenance import Provenance, RunInputs, differences, input_differences, read_provenance
from fission_grpo.tasks.training_set import GIVEN

BESIDE = "-reproduced"
"""Behind the name of a run: where it is repeated, unless another folder is given."""
CLOCKS = ("time/", "step_time", "profiling/", "train_runtime", "tokens_per_second")
"""What names in `metrics.jsonl` begin with that tell of seconds, which no two runs share."""
_SHOWN = 5
"""Metrics of the first step that differs that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveDifference:
    """One number that is not the same."""

    step: int
    metric: str
    then: Any
    now: Any

    def __str__(self) -> str:
        """For a person."""
        return f"{self.metric} {self.then} then, {self.now} now"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Two runs side by side, number by number; what was not made by both is not compared."""

    steps: int
    """That both have made."""
    metrics: int
    """Names that were compared; seconds are not among them."""
    different: tuple[CurveDifference, ...]
    """In order of steps."""

    @property
    def equal(self) -> bool:
        """Whether there was something to compare, and every number is the same to the last digit."""
        return self.steps > 0 and not self.different

    def lines(self) -> Iterator[str]:
        """For a person."""
        if not self.steps:
            yield "nothing to compare: the two runs share no step"
        elif self.equal:
            yield f"the curves are equal: {self.metrics} metrics of {self.steps} steps, to the last digit"
        else:
            first = self.different[0].step
            here = [one for one in self.different if one.step == first]
            yield (
                f"the curves are not equal: the first {first} of {self.steps} steps are, and step {first} differs in "
                f"{len(here)} of {self.metrics} metrics"
            )
            yield from (f"  {one}" for one in here[:_SHOWN])
            if len(here) > _SHOWN:
                yield f"  and {len(here) - _SHOWN} more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """A run that was trained again."""

    original: Path
    folder: Path
    finished: bool
    curves: Curves
    same_weights: bool | None
    """Whether the trained weights are the same bytes; None where one of the two has none."""
    differences: tuple[str, ...]
    """Of what went in and of what it ran on, in sentences."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        told = [{"step": one.step, "metric": one.metric, "then": one.then, "now": one.now} for one in self._first()]
        return {
            **{"run": str(self.original), "repeated_in": str(self.folder), "finished": self.finished},
            **{"equal": self.curves.equal, "steps": self.curves.steps, "metrics": self.curves.metrics},
            **{"same_weights": self.same_weights, "first_differences": told, "differences": list(self.differences)},
        }

    def _first(self) -> Iterator[CurveDifference]:
        yield from (one for one in self.curves.different if one.step == self.curves.different[0].step)

    def __str__(self) -> str:
        """What a person is told."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from self.curves.lines()
        if self.same_weights is not None:
            yield f"the trained weights are {'the same, byte for byte' if self.same_weights else 'others'}"
        if self.differences and not self.curves.equal:
            yield "what may be the reason:"
        elif self.differences:
            yield "and that although:"
        yield from (f"  {one}" for one in self.differences)
        if not self.finished:
            yield "it was stopped before its end; the same command goes on"
        yield f"repeated in {self.folder}"


def reproduce(run: Path, *, output: Path | None = None) -> Reproduced:
    """Train with the settings, tasks and threads of a run, in a folder of its own, and compare. Ctrl-C ends it after
    its step and compares what there is; called again, it goes on.

    Args:
        output: where; beside the run unless given.

    Raises:
        ConfigError: the folder holds no training run; model, template or data are not what they were; or see `train`.
    """
    folder = RunFolder(run)
    _require_training(folder)
    known = read_provenance(run)
    origin = known[0] if known else None
    output = output or run.with_name(f"{run.name}{BESIDE}")
    settings = load_settings(file=folder.config).model_copy(update={"output": str(output)})
    if origin is not None:
        _require_same_inputs(origin, settings)
    tasks = list(read_jsonl(folder.tasks)) if settings.data == GIVEN and folder.tasks.exists() else None
    with _threads(origin.machine.threads if origin else 0):
        resume = RunFolder(output).config.exists()
        if folder.is_supervised:
            finished = fine_tune(settings, resume=resume).finished
        else:
            finished = train(settings, tasks=tasks, resume=resume).finished
    repeated = read_provenance(output)
    return Reproduced(
        original=run,
        folder=output,
        finished=finished,
        curves=compare_curves(_rows(folder), _rows(RunFolder(output))),
        same_weights=_same_weights(folder.policy, RunFolder(output).policy),
        differences=tuple(_reasons(known, repeated)),
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many for a `with` block: how a sum is split over threads decides its last digits. 0 leaves them alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare_curves(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Curves:
    """Two `metrics.jsonl`, by step.

    A metric that one of the two lacks in a step is a difference: None stands in its place.
    """
    before, after = ({row["step"]: _without_clocks(row) for row in rows} for rows in (then, now))
    steps = sorted(before.keys() & after.keys())
    names = sorted({name for step in steps for row in (before[step], after[step]) for name in row})
    different = [
        CurveDifference(step=step, metric=name, then=before[step].get(name), now=after[step].get(name))
        for step in steps
        for name in names
        if before[step].get(name) != after[step].get(name)
    ]
    return Curves(steps=len(steps), metrics=len(names), different=tuple(different))


def _without_clocks(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "step" and not _tells_time(name)}


def _tells_time(name: str) -> bool:
    return name.startswith(CLOCKS) or name.endswith(("/seconds", "_seconds"))


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    return list(read_jsonl(folder.metrics, "step")) if folder.metrics.exists() else []


def _require_training(folder: RunFolder) -> None:
    if not folder.config.exists() and (told := read_provenance(folder.path)):
        raise ConfigError(
            f"{folder.path} holds no training run, and only those are repeated; it was made by "
            f"`{told[0].command_line}` in {told[0].directory}"
        )
    folder.require_settings()
    if not _rows(folder):
        raise ConfigError(f"{folder.path} has made no step yet: there is nothing to compare with; finish it first")


def _require_same_inputs(origin: Provenance, settings: RunSettings) -> None:
    """Before anything is spent."""
    if origin.inputs is None:
        return
    template = load_tokenizer(
        settings.model, chat_template=settings.chat_template, chat_template_kwargs=settings.chat_template_kwargs
    ).chat_template
    model = model_inputs(settings.model, template=template)
    now = RunInputs(model=model.model, files=model.files, template=model.template, data_file=data_hash(settings.data))
    if changed := list(input_differences(origin.inputs, now)):
        raise ConfigError(
            f"the run cannot be repeated: {'; '.join(changed)}; put back what it was trained with (its hash is in "
            "provenance.jsonl)"
        )


def _reasons(then: Sequence[Provenance], now: Sequence[Provenance]) -> Iterator[str]:
    if not then or not now:
        yield "the run is older than provenance.jsonl: with what it was made is not known"
        return
    yield from differences(then[0], now[0])
    for one in then[1:]:
        if not one.step:
            continue
        changed = list(differences(then[0], one))
        yield f"the run itself was interrupted at step {one.step}{': ' if changed else ''}{'; '.join(changed)}"


def _same_weights(one: Path, other: Path) -> bool | None:
    names = ("model.safetensors", "adapter_model.safetensors")
    both = [name for name in names if (one / name).is_file() and (other / name).is_file()]
    return all(file_hash(one / name) == file_hash(other / name) for name in both) if both else None

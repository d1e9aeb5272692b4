"""A run on disk. Files are the truth: everything that is shown later is read from here.

config.yaml      the resolved settings
tasks.jsonl      the tasks, where a program gave them
provenance.jsonl where it comes from: one line for each process that began it or went on (`provenance.py`)
metrics.jsonl    one line for each step
traces.jsonl     one line for each group: trajectories, tree links, tokens, rewards by term, failures, feedback
checkpoints/     step-N/: weights, optimizer, random states, fission buffer; written aside, then renamed
policy/          the trained model as an ordinary Hugging Face folder
summary.md       what a person reads
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from fission_grpo.errors import ConfigError, FissionError
from fission_grpo.files import (
    ESCAPED,
    parse_yaml,
    read_jsonl,
    read_text,
    remove_halves,
    write_pieces,
    write_text,
    yaml_value,
)
from fission_grpo.settings import same_value, with_current_names

KEPT_CHECKPOINTS = 2
"""The newest, and one to fall back to."""

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What a full disk looks like: to Python, to `torch.save`, and to safetensors."""

_CHECKPOINT = re.compile(r"step-[0-9]+")
"""What a complete one is called; a copy of the user's, `step-3-backup`, is none."""

_MAY_CHANGE = frozenset({"trainer.steps", "trackers", "trainer.gap_warning", "trainer.gap_stops"})
"""The settings that a resumed run may change: a finished run can go on, and what is told, and to whom, changes
nothing."""


class RunFolder:
    """Where one run keeps its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.traces = path / "traces.jsonl"
        self.checkpoints = path / "checkpoints"
        self.policy = path / "policy"
        self.config = path / "config.yaml"
        self.tasks = path / "tasks.jsonl"

    def check(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Ask, before anything is spent, whether a run with these settings may use the folder.

        Raises:
            ConfigError: the folder already holds a run and `resume` is off; or holds another run's settings, or a
                `config.yaml` that cannot be read.
        """
        if not self.config.exists():
            return
        if not resume:
            raise ConfigError(f"{self.path} already holds a run; continue it with --resume or choose another --output")
        self._same_settings(settings)

    def create(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder and save the settings.

        Raises:
            ConfigError: see `check`.
        """
        self.check(settings, resume=resume)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        remove_halves(self.checkpoints)
        write_text(self.config, yaml.safe_dump(dict(settings), sort_keys=False))

    def require_settings(self) -> None:
        """Refuse a folder whose `config.yaml` holds none.

        Raises:
            ConfigError: it is not there, cannot be read, or is empty.
        """
        if not self.config.exists():
            raise ConfigError(
                f"{self.path} is no run folder: it holds no config.yaml; give the --output of `fission train`"
            )
        self._saved_settings()

    def _same_settings(self, settings: Mapping[str, Any]) -> None:
        saved = dict(_dotted(with_current_names(self._saved_settings())))
        wanted = dict(_dotted(settings))
        asked = {*saved, *wanted} - _MAY_CHANGE
        changed = sorted(key for key in asked if not same_value(saved.get(key), wanted.get(key)))
        if changed:
            raise ConfigError(
                f"{self.path} was started with other settings ({', '.join(changed)}); "
                "resume with the same ones, or choose another --output"
            )

    def _saved_settings(self) -> dict[str, Any]:
        try:
            root = parse_yaml(read_text(self.config))
            loaded = None if root is None else yaml_value(root)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise self._no_settings(" ".join(str(error).split())) from error
        if not isinstance(loaded, dict):
            raise self._no_settings("the file is empty" if loaded is None else f"it holds {loaded!r}")
        return loaded

    def _no_settings(self, why: str) -> ConfigError:
        return ConfigError(f"{self.config} holds no settings ({why}); restore it or choose another --output")

    def trained_policy(self) -> Path:
        """The model that the run has made.

        Raises:
            ConfigError: it has not come to its end yet.
        """
        if not self.policy.is_dir():
            command = "sft" if self.is_supervised else "train"
            raise ConfigError(
                f"{self.path} has no trained policy yet; finish it with: fission {command} --resume --output "
                f"{quoted(self.path)}"
            )
        return self.policy

    @property
    def is_supervised(self) -> bool:
        """Whether `fission sft` began it.

        Raises:
            ConfigError: its `config.yaml` cannot be read.
        """
        return self.config.exists() and "sft" in self._saved_settings()

    def complete_checkpoints(self) -> list[Path]:
        """Every complete checkpoint, the newest last; whatever else lies beside them is the user's, and left alone."""
        if not self.checkpoints.exists():
            return []
        named = [path for path in self.checkpoints.iterdir() if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]
        return sorted(named, key=lambda path: int(path.name.removeprefix("step-")))

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        return next(reversed(self.complete_checkpoints()), None)

    def unfinished(self, step: int) -> Path:
        """Where a checkpoint is written before it has its name."""
        return self.checkpoints / f".step-{step}.unfinished"

    def write_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Let `write` fill a folder, then give it its name: a crash leaves the last checkpoint whole.

        Raises:
            FissionError: the disk refused, with what is safe so far.
        """
        unfinished, final = self.unfinished(step), self.checkpoints / f"step-{step}"
        with self.refusal_of(final), _no_leftovers(unfinished):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write(unfinished)
            shutil.rmtree(final, ignore_errors=True)
            unfinished.rename(final)
        for old in self.complete_checkpoints()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def truncate_after(self, step: int) -> None:
        """Drop metrics and traces of steps >= `step`: the resumed run writes them again.

        Raises:
            DataError: a line of theirs is damaged, or names no step; the file stays as it is.
        """
        for path in (self.metrics, self.traces):
            if path.exists():
                write_pieces(path, (_line(record) for record in read_jsonl(path, "step") if record["step"] < step))

    def compare_metrics(self, step: int) -> None:
        """Warn where the metrics of the steps so far are not one line each: nobody can write them again.

        Raises:
            DataError: a line of theirs is damaged, or names no step.
        """
        kept = [record["step"] for record in read_jsonl(self.metrics, "step")] if self.metrics.exists() else []
        if kept != list(range(step)):
            warnings.warn(
                f"{self.metrics} holds {len(kept)} line(s) of the {step} step(s) so far, expected one each; the run "
                "goes on, and what is lost stays lost: restore the file if you have a copy",
                stacklevel=3,
            )

    def append(self, path: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Add lines to a JSONL file, whole lines only.

        Raises:
            FissionError: the disk refused, with what is safe so far.
        """
        text = "".join(map(_line, records))
        with self.refusal_of(path), path.open("a", encoding="utf-8", errors=ESCAPED) as file:
            file.write(text)

    @contextmanager
    def refusal_of(self, path: Path) -> Iterator[None]:
        """Say what is safe, and what to do, when the disk refuses `path`.

        Raises:
            FissionError: it did.
        """
        try:
            yield
        except WRITE_ERRORS as error:
            raise FissionError(
                f"cannot write {path}: {_reason(error)}; free some space, then continue with --resume ({self._safe()})"
            ) from error

    @contextmanager
    def step_named(self, step: int) -> Iterator[None]:
        """Whatever breaks in a step is told with its number, and with what is safe."""
        try:
            yield
        except FissionError as error:
            error.add_note(f"that was step {step} ({self._safe()})")
            raise

    def _safe(self) -> str:
        latest = self.latest_checkpoint()
        return f"{latest} is whole" if latest else f"{self.checkpoints} holds no earlier one"


def quoted(path: Path | str) -> str:
    """A path as a shell takes it, for a command that is printed."""
    return shlex.quote(str(path))


def before(run: Path) -> Path:
    """Where the commands that are printed put what a model could before a run: beside the run's folder."""
    return run.with_name(f"{run.name}-before")


@contextmanager
def _no_leftovers(folder: Path) -> Iterator[None]:
    """Half a checkpoint is of no use and takes the room that is missing."""
    try:
        yield
    except WRITE_ERRORS:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"


def _dotted(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"

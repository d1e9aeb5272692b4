"""Trackers of others beside our files: the rows of `metrics.jsonl`, told to whoever draws them.

They are accelerate's own (`accelerate.tracking`), each imported when it is opened. Files are the truth: a tracker reads
them, and one that breaks is left out with a warning while training goes on.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from enum import StrEnum
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fission_grpo.errors import ConfigError, TrackerError, boundary

PROJECT = "fission-grpo"
"""Of trackers that sort runs into projects, unless their own environment variable names another."""
TREE = "fission/tree"
"""What a fission tree is called."""


class TrackerName(StrEnum):
    """Who is told."""

    TRACKIO = "trackio"
    """On this machine; `trackio show` draws it."""
    WANDB = "wandb"
    """Offline into the run folder, unless this machine has logged in or `WANDB_MODE` says otherwise."""
    TENSORBOARD = "tensorboard"
    """In the run folder; `tensorboard --logdir RUN` draws it."""
    MLFLOW = "mlflow"
    """Where `MLFLOW_TRACKING_URI` says, or where mlflow itself keeps its runs."""


TRL_NAMES: Mapping[str, str] = MappingProxyType(
    {
        **{name: name for name in ("reward", "reward_std", "frac_reward_zero_std", "completions/mean_length")},
        **{name: name for name in ("tools/call_frequency", "tools/failure_frequency")},
        **{"update/loss": "loss", "update/grad_norm": "grad_norm", "update/entropy": "entropy", "update/kl": "kl"},
    }
)
"""Ours -> TRL's, which stand beside them under `train/`, as in every run of TRL."""


def tracked_values(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of `metrics.jsonl` by our names, and by TRL's where TRL has one."""
    ours = {
        name: float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
    theirs = {f"train/{theirs}": ours[name] for name, theirs in TRL_NAMES.items() if name in ours}
    rewards = {name: value for name, value in ours.items() if name.startswith("rewards/") and name.count("/") == 1}
    terms = {f"train/{name}/mean": value for name, value in rewards.items()}
    times = [value for name, value in ours.items() if name.startswith("time/")]
    return {**ours, **theirs, **terms, **({"train/step_time": sum(times)} if times else {})}


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Ask for the packages before anything is spent.

    Raises:
        ConfigError: one is not installed.
    """
    for name in names:
        if all(find_spec(package) is None for package in _PACKAGES.get(name, (str(name),))):
            raise ConfigError(f"tracker {name} is not installed; install it (pip install {name}), or leave it out")


class Trackers:
    """Those of one run, open."""

    def __init__(self, opened: Mapping[TrackerName, Any]) -> None:
        self._opened = dict(opened)

    def log(self, row: Mapping[str, Any]) -> None:
        """Tell a line of `metrics.jsonl`."""
        values = tracked_values(row)
        self._each(lambda name, tracker: tracker.log(values, step=row["step"]))

    def show_tree(self, text: str, *, step: int) -> None:
        """Tell a fission tree, drawn as text."""
        self._each(lambda name, tracker: _TREES[name](tracker, text, step))

    def finish(self) -> None:
        """Nothing more will be told."""
        self._each(lambda name, tracker: tracker.finish())

    def _each(self, tell: Callable[[TrackerName, Any], None]) -> None:
        for name, tracker in list(self._opened.items()):
            try:
                with boundary(TrackerError, f"tracker {name}"), redirect_stdout(sys.stderr):  # ours is for --json
                    tell(name, tracker)
            except TrackerError as error:
                del self._opened[name]
                warnings.warn(f"{error}; it is told no more, and the files of the run have everything", stacklevel=4)


@contextmanager
def open_trackers(names: Sequence[TrackerName], folder: Path, settings: Mapping[str, Any]) -> Iterator[Trackers]:
    """Begin a run, or go on with it, at each tracker; closed at the end, however that comes.

    Args:
        folder: of the run, which gives it its name.
        settings: nested plain values.
    Raises:
        TrackerError: one cannot be opened.
    """
    opened = {}
    for name in names:
        with boundary(TrackerError, f"tracker {name} cannot be opened"), redirect_stdout(sys.stderr):
            opened[name] = _open(name, folder, settings)
    trackers = Trackers(opened)
    try:
        yield trackers
    finally:
        trackers.finish()


def _open(name: TrackerName, folder: Path, settings: Mapping[str, Any]) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    tracker = LOGGER_TYPE_TO_CLASS[str(name)](**_ARGUMENTS[name](folder))
    tracker.start()
    tracker.store_init_configuration(dict(_plain(settings)))
    return tracker


_PACKAGES: Mapping[TrackerName, tuple[str, ...]] = {TrackerName.TENSORBOARD: ("tensorboard", "tensorboardX")}
"""Of which one is enough, where a package is not called like its tracker."""


def _trackio(folder: Path) -> dict[str, Any]:
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    return {"run_name": project, "name": folder.resolve().name, "resume": "allow"}


def _wandb(folder: Path) -> dict[str, Any]:
    whole = folder.resolve()
    online = "WANDB_MODE" in os.environ or _logged_in_at_wandb()
    return {
        "run_name": os.environ.get("WANDB_PROJECT", PROJECT),
        "name": whole.name,
        "id": hashlib.sha256(str(whole).encode()).hexdigest()[:16],
        "dir": str(whole),
        **({"resume": "allow"} if online else {"mode": "offline"}),
    }


def _logged_in_at_wandb() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    with suppress(OSError, NetrcParseError):
        return netrc().authenticators("api.wandb.ai") is not None
    return False


_ARGUMENTS: Mapping[TrackerName, Callable[[Path], dict[str, Any]]] = MappingProxyType(
    {
        TrackerName.TRACKIO: _trackio,
        TrackerName.WANDB: _wandb,
        TrackerName.TENSORBOARD: lambda folder: {"run_name": "tensorboard", "logging_dir": str(folder)},
        TrackerName.MLFLOW: lambda folder: {"experiment_name": PROJECT, "run_name": folder.resolve().name},
    }
)
"""What each is begun with."""


def _as_text(tracker: Any, text: str, step: int) -> None:
    tracker.log({TREE: f"```\n{text}\n```"}, step=step)


def _in_table(tracker: Any, text: str, step: int) -> None:
    tracker.log_table(TREE, columns=["step", "tree"], data=[[step, text]], step=step)


def _as_file(tracker: Any, text: str, step: int) -> None:
    import mlflow

    mlflow.log_text(text, f"{TREE}-{step}.txt")


_TREES: Mapping[TrackerName, Callable[[Any, str, int], None]] = MappingProxyType(
    {
        TrackerName.TRACKIO: _as_text,
        TrackerName.WANDB: _in_table,
        TrackerName.TENSORBOARD: _as_text,
        TrackerName.MLFLOW: _as_file,
    }
)


def _plain(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, bool | str | float | int]]:
    """Dotted names; what is no scalar as text."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _plain(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}", value if isinstance(value, bool | str | float | int) else str(value)

"""What a checkpoint of TRL's lacks: the fission buffer of each process, beside the weights in `checkpoint-N/`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fission_grpo.errors import ConfigError, FissionError
from fission_grpo.run.folder import WRITE_ERRORS
from fission_grpo.training.checkpoint import read_plain

logger = logging.getLogger(__name__)


def write_state(checkpoint: Path, state: dict[str, Any], *, rank: int) -> None:
    """Put the state of one process into a checkpoint's folder."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    torch.save(state, _file(checkpoint, rank))


def read_state(checkpoint: Path, *, rank: int, ranks: int) -> dict[str, Any] | None:
    """The state of one process; None from a checkpoint that plain TRL wrote.

    Raises:
        ConfigError: another number of processes wrote it, or it is damaged.
    """
    written = len(list(checkpoint.glob("fission-*.pt")))
    if not written:
        logger.warning("%s holds no fission buffer: it begins empty", checkpoint)
        return None
    if written != ranks:
        raise ConfigError(
            f"{checkpoint} was written by {written} process(es), and this run has {ranks}: resume with {written}, or "
            "begin anew in another output_dir"
        )
    return read_plain(_file(checkpoint, rank))


@contextmanager
def refusals_of(checkpoint: Path, *, main_process: bool) -> Iterator[None]:
    """Say what is safe when the disk refuses a checkpoint; half of one is removed.

    Raises:
        FissionError: it did.
    """
    try:
        yield
    except WRITE_ERRORS as error:
        if main_process:
            shutil.rmtree(checkpoint, ignore_errors=True)
        older = latest_checkpoint(checkpoint.parent, but=checkpoint)
        safe = f"{older} is whole" if older else f"{checkpoint.parent} holds no earlier one"
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise FissionError(
            f"cannot write {checkpoint}: {why}; free some space, then continue with resume_from_checkpoint=True "
            f"({safe})"
        ) from error


def latest_checkpoint(folder: Path, *, but: Path | None = None) -> Path | None:
    """The newest one that was written to its end.

    Args:
        but: leave this one out.
    """
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if path.parent != but]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _file(checkpoint: Path, rank: int) -> Path:
    return checkpoint / f"fission-{rank}.pt"

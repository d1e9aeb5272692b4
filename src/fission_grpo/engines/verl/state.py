"""What a checkpoint of verl's lacks: the run's fission buffer, in `global_step_N/fission.pkl`, as plain data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from fission_grpo.errors import FissionError
from fission_grpo.run.folder import WRITE_ERRORS
from fission_grpo.training.checkpoint import read_plain

BUFFER_FILE = "fission.pkl"
NEWEST_FILE = "latest_checkpointed_iteration.txt"
"""verl's name for the newest checkpoint, beside it."""


def write_buffer(checkpoint: Path, state: dict[str, Any]) -> None:
    """Put the buffer into a checkpoint's folder, written aside and renamed.

    Raises:
        FissionError: the disk refused it.
    """
    unfinished = checkpoint / f".{BUFFER_FILE}.unfinished"
    try:
        checkpoint.mkdir(parents=True, exist_ok=True)
        torch.save(state, unfinished)
        unfinished.replace(checkpoint / BUFFER_FILE)
    except WRITE_ERRORS as error:
        raise FissionError(
            f"cannot write {checkpoint / BUFFER_FILE}: {error}; free some space, then resume from the one before"
        ) from error


def read_buffer(checkpoint: Path) -> dict[str, Any] | None:
    """The buffer; None from a checkpoint that plain verl wrote.

    Raises:
        ConfigError: it is damaged.
    """
    if not (checkpoint / BUFFER_FILE).exists():
        logging.getLogger(__name__).warning("%s holds no fission buffer: it begins empty", checkpoint)
        return None
    return read_plain(checkpoint / BUFFER_FILE)


def newest_step(checkpoints: Path) -> int:
    """Steps of the newest checkpoint that was written to its end; 0 where there is none.

    verl names it last, and not at one stroke. A name that a kill has left empty is written anew: everything was there
    when verl began to write it.
    """
    named = checkpoints / NEWEST_FILE
    if not named.exists():
        return 0
    if not named.read_text(encoding="utf-8").strip():
        steps = (
            int(path.parent.name.removeprefix("global_step_")) for path in checkpoints.glob("global_step_*/data.pt")
        )
        named.write_text(str(max(steps)), encoding="utf-8")
    return int(named.read_text(encoding="utf-8"))

"""What a checkpoint of verl's lacks: the run's fission buffer, in `global_step_N/fission.pkl`, as plain data."""

from __future__ import annotations

import logging
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from fission_grpo.errors import ConfigError, FissionError
from fission_grpo.run.folder import WRITE_ERRORS
from fission_grpo.training.checkpoint import DAMAGE

BUFFER_FILE = "fission.pkl"


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
    """The buffer; None from a checkpoint that plain verl wrote. No code of the file is run.

    Raises:
        ConfigError: it is damaged.
    """
    if not (checkpoint / BUFFER_FILE).exists():
        logging.getLogger(__name__).warning("%s holds no fission buffer: it begins empty", checkpoint)
        return None
    try:
        state: dict[str, Any] = torch.load(checkpoint / BUFFER_FILE, weights_only=True)
    except DAMAGE as error:
        raise ConfigError(
            f"{checkpoint / BUFFER_FILE} cannot be read: {shorten(f'{type(error).__name__}: {error}', 200)}; "
            "resume from an older checkpoint"
        ) from error
    return state

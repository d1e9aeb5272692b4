"""What `fission init` writes: a small project that works, to be replaced piece by piece."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fission_grpo.errors import ConfigError
from fission_grpo.files import write_text

_SUFFIX = ".template"
"""Of the shipped files: Python that only works in the folder that it is written to is none of ours."""

SETTINGS_FILE = "fission.yaml"
"""What the project's commands take as `--config`."""


def write_project(folder: Path) -> tuple[Path, ...]:
    """Write a world, tasks for training and others that are held out, settings and a test.

    Returns:
        The files that were written.
    Raises:
        ConfigError: the folder is there and holds something, or is no folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already and not an empty folder; choose another name, or empty it")
    folder.mkdir(parents=True, exist_ok=True)
    shipped = sorted(files(__name__).iterdir(), key=lambda file: file.name)
    written = []
    for file in (file for file in shipped if file.name.endswith(_SUFFIX)):
        written.append(folder / file.name.removesuffix(_SUFFIX))
        write_text(written[-1], file.read_text(encoding="utf-8"))
    return tuple(written)

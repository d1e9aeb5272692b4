"""A run in the terminal: what `fission view` opens."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fission_grpo.errors import ConfigError
from fission_grpo.report.page.sources import PageRun, read_settings_file
from fission_grpo.run.folder import RunFolder


def open_viewer(run: Path) -> None:
    """Show a run until the user leaves it; one that still trains is followed.

    Raises:
        ConfigError: the folder holds no training run, or textual is not installed.
        DataError: a line of its traces is damaged.
    """
    folder = RunFolder(run)
    if not folder.config.exists() and not folder.traces.exists():
        raise ConfigError(
            f"{run} holds no training run; give the --output of `fission train` (of an evaluation, "
            "`fission report` shows every episode)"
        )
    if find_spec("textual") is None:
        raise ConfigError(
            "fission view needs textual, which is not installed; install it: pip install 'fission-grpo[view]' "
            "(fission report needs nothing)"
        )
    from fission_grpo.report.viewer.app import Viewer

    viewer = Viewer(PageRun(name=run.resolve().name, path=run, settings=read_settings_file(folder.config)))
    viewer.run()
    if viewer.broken is not None:
        raise viewer.broken

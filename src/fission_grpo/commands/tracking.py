"""What trackers are told while a run trains: each new row of its metrics, and a fission tree now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fission_grpo.config import RunSettings
from fission_grpo.report.tree import fission_trees, most_telling, text_tree
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.follow import Follower
from fission_grpo.run.trackers import Trackers, open_trackers

TREE_EVERY = 20
"""Steps from one tree to the next."""


@contextmanager
def tracking(settings: RunSettings, *, is_main_process: bool) -> Iterator[Callable[[], None]]:
    """What to call after each step, once its lines are in the run folder; nothing is done where nobody is told.

    Raises:
        TrackerError: a tracker cannot be opened.
    """
    if not settings.trackers or not is_main_process:
        yield lambda: None
        return
    run = RunFolder(settings.folder)
    rows, traces = Follower(run.metrics, from_end=True), Follower(run.traces, from_end=True)
    with open_trackers(settings.trackers, run.path, settings.saved()) as trackers:
        yield lambda: _tell(trackers, rows, traces)


def _tell(trackers: Trackers, rows: Follower, traces: Follower) -> None:
    groups = list(traces.new())
    for row in rows.new():
        trackers.log(row)
        if row["step"] % TREE_EVERY == 0 and (tree := most_telling(fission_trees(groups))) is not None:
            trackers.show_tree(text_tree(tree), step=row["step"])

"""Verdicts a second: our BFCL world against the official checker, on the same 800 gold episodes, in one process.

Both start from the decoded calls of an episode and end with its verdict: `judge_episode` here, `multi_turn_checker`
there, its globals emptied outside the clock. Passes alternate, the clock counts CPU time, and the best pass of each
side counts, so that a busy machine hits both alike.

    python benchmarks/verdicts.py [--passes 5] [--json verdicts.json]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("BFCL_PROJECT_ROOT", tempfile.mkdtemp(prefix="bfcl-"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import bfcl_official_checker as official

from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.environments.bfcl.verdict import judge_episode
from fission_grpo.environments.limits import CallLimits
from fission_grpo.types import Task

LIMITS = CallLimits()


@dataclass(frozen=True, slots=True)
class Row:
    """CPU seconds that each side takes for the episodes of a category."""

    category: str
    episodes: int
    ours_s: float
    official_s: float


def our_verdict(task: Task) -> Callable[[], bool]:
    """Our verdict on the gold of a task, ready to be timed."""
    assert task.world is not None
    return lambda: judge_episode(task.world.config, task.gold, task.gold, LIMITS).ok


def official_verdict(task: Task) -> Callable[[], bool]:
    """The same with the official checker, ready to be timed."""
    category = str(task.meta["category"])
    entry, gold = official.entries(category)[task.id]
    official.forget_everything(category)
    steps = [[[call] for call in turn] for turn in gold]
    return lambda: bool(official.check(entry, gold, steps)["valid"])


def cpu_seconds(judge: Callable[[], bool]) -> float:
    """CPU seconds of one verdict, which must accept."""
    began = time.process_time_ns()
    accepted = judge()
    taken = time.process_time_ns() - began
    assert accepted, "a gold episode was rejected"
    return taken / 1e9


def one_pass(tasks: Sequence[Task]) -> tuple[float, float]:
    """CPU seconds of (ours, official) over some gold episodes."""
    ours = sum(cpu_seconds(our_verdict(task)) for task in tasks)
    theirs = sum(cpu_seconds(official_verdict(task)) for task in tasks)
    return ours, theirs


def measure(category: BfclCategory, passes: int) -> Row:
    """Best of some passes, after one that is not measured."""
    tasks = bfcl_entries(category)
    one_pass(tasks)
    gc.collect()
    gc.freeze()  # what both sides keep for ever is not searched again and again for garbage
    taken = [one_pass(tasks) for _ in range(passes)]
    return Row(str(category), len(tasks), min(ours for ours, _ in taken), min(theirs for _, theirs in taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows = [measure(category, options.passes) for category in BfclCategory]
    rows.append(
        Row("all", sum(r.episodes for r in rows), sum(r.ours_s for r in rows), sum(r.official_s for r in rows)),
    )
    print(f"{'category':<14}{'ours, 1/s':>12}{'official, 1/s':>15}{'ratio':>8}")
    for row in rows:
        ours, theirs = row.episodes / row.ours_s, row.episodes / row.official_s
        print(f"{row.category:<14}{ours:>12,.0f}{theirs:>15,.0f}{row.official_s / row.ours_s:>8.1f}")
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        report = {"machine": machine, "passes": options.passes, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Fixed errors on the official Base entries, and the blind spot: one's own error against the same error of another.

After Self-Correction Bench (arXiv:2507.02778), which finds that models mend an error in a user's message and overlook
the identical one in their own answer. There the error stands in prose; here it is a wrong tool call with the world's
real error text. Both prompts of a pair stand at the first call of a user turn and hold the same words: once the call
is an assistant message and the error its tool result, once the user's message ends with both as another agent's log.
The world is the same, because an injected error harms nothing (`tasks.dialogue.inject`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice

from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.evaluation.metrics import FINAL, PROBE, PROBE_ABANDON, PROBE_REPEAT
from fission_grpo.evaluation.paired import Contrast, Paired, contrast, pair
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.tasks.probe import ProbeItem, ProbeKind, probe_items, within_turn
from fission_grpo.types import Task

LOG = "{request}\n\nAnother assistant has already made this call:\n{call}\nand this is what it got:\n{text}\nTake over."
"""A user's message that reports another agent's wrong call."""


class Speaker(StrEnum):
    """Whose call it was."""

    OWN = "own"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindSpotPair:
    """The same error twice."""

    own: ProbeItem
    foreign: ProbeItem


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindSpot:
    """How much harder one's own error is to see than another's."""

    paired: Paired
    contrasts: tuple[Contrast, ...]
    """From own to foreign: next call right first, then the turn, repeats and abandoning."""

    @property
    def gap(self) -> Contrast:
        """Next call right, foreign minus own: positive where the model is blind to its own errors."""
        return self.contrasts[0]

    @property
    def relative(self) -> float:
        """1 - own / foreign, the measure of arXiv:2507.02778; NaN where no foreign error was mended."""
        foreign = self.gap.after.value
        return 1 - self.gap.before.value / foreign if foreign else math.nan


def bfcl_probe(seed: int = 0, *, limit: int | None = None) -> list[ProbeItem]:
    """One injected error in each of the first `limit` official Base entries, for the rest of its user turn."""
    items = map(within_turn, islice(probe_items(bfcl_entries(BfclCategory.BASE), seed, ProbeKind.MIXED), limit))
    return [replace(item, task=_tagged(item.task, part="probe")) for item in items]


def blind_spot_pairs(tasks: Sequence[Task], seed: int, *, limit: int | None = None) -> list[BlindSpotPair]:
    """At most one pair for each task at its beginning, balanced over error classes; a function of its arguments.

    To play both and to compare them: `probed` makes each record a probe's, `blind_spot` reads them.
    """
    items = map(within_turn, islice(probe_items(tasks, seed, ProbeKind.FIRST_CALL), limit))
    return [
        BlindSpotPair(own=_spoken(item, Speaker.OWN), foreign=_spoken(foreign(item), Speaker.FOREIGN)) for item in items
    ]


def foreign(item: ProbeItem) -> ProbeItem:
    """The same error as another agent's, reported by the user.

    Raises:
        ValueError: something other than the user's message stands before the wrong call.
    """
    *before, request, _call, _error = item.task.messages
    if request["role"] != "user":
        raise ValueError(f"task {item.task.id}: the wrong call follows a {request['role']} message; expected a user's")
    call = json.dumps({"name": item.wrong.name, "arguments": dict(item.wrong.arguments)}, ensure_ascii=False)
    report = LOG.format(request=request["content"], call=call, text=item.text)
    return replace(item, task=replace(item.task, messages=(*before, {**request, "content": report})))


def blind_spot(own: Sequence[EpisodeRecord], others: Sequence[EpisodeRecord], *, seed: int = 0) -> BlindSpot:
    """Compare both halves, pair by pair.

    Raises:
        DataError: a pair is there twice.
    """
    paired = pair(own, others)
    metrics = (PROBE, FINAL, PROBE_REPEAT, PROBE_ABANDON)
    return BlindSpot(paired=paired, contrasts=tuple(contrast(metric, paired, seed=seed) for metric in metrics))


def _spoken(item: ProbeItem, speaker: Speaker) -> ProbeItem:
    task = _tagged(item.task, part=f"blind spot, {speaker}", pair=item.task.id)
    return replace(item, task=replace(task, id=f"{task.id}{speaker}"))


def _tagged(task: Task, **tags: str) -> Task:
    return replace(task, meta={**task.meta, **tags})

"""What goes wrong in a run, said while it runs: nothing succeeds, the policy runs away, sampler and trainer disagree.

The first is `outlook.py`'s. Rows are those of `metrics.jsonl`, so that a summary can ask the same of a whole run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

from fission_grpo.run.outlook import Outlook

_Row: TypeAlias = Mapping[str, Any]

EARLY = 2
"""Steps at the beginning that later ones are compared with, as many at a time; ours: what runs away does so within
five."""
GROWN = 1.5
"""Times as many messages or tokens."""
FALLEN = 0.5
"""Times as much success."""
WORTH_LOSING = 0.1
"""Success at the beginning, below which there is nothing to fall from."""
GAP, LARGEST_GAP = "update/logprob_gap_mean", "update/logprob_gap"


def runaway(rows: Sequence[_Row], *, learning_rate: float, beta: float) -> str | None:
    """One sentence if the last steps say more and more, and succeed less and less, than the first ones.

    Args:
        rows: from the first step on.
        learning_rate, beta: of the run, for the remedy.
    """
    told = [row for row in rows if "success" in row]
    if len(told) < 2 * EARLY:
        return None
    first, last = told[:EARLY], told[-EARLY:]
    (right, now_right), (messages, now_messages), (tokens, now_tokens) = (
        (_mean(first, name), _mean(last, name)) for name in ("success", "turns", "completions/mean_length")
    )
    grown = now_messages >= GROWN * messages or now_tokens >= GROWN * tokens
    if right < WORTH_LOSING or now_right > FALLEN * right or not grown:
        return None
    return (
        f"the policy runs away from where it began: {now_messages:.1f} messages an episode of {now_tokens:.0f} tokens "
        f"each after {messages:.1f} of {tokens:.0f} in its first steps, and success {now_right:.2f} after {right:.2f}; "
        f"start anew with a lower trainer.learning_rate (now {learning_rate:g}) or a larger trainer.beta (now {beta:g})"
    )


class Alarms:
    """Everything that a run is watched for, each told when it is new."""

    def __init__(
        self,
        steps: int,
        *,
        learning_rate: float,
        beta: float,
        gap: float,
        gap_stops: bool = False,
        so_far: Iterable[_Row] = (),
    ) -> None:
        """Watch a run.

        Args:
            steps: of the run.
            learning_rate, beta: see `runaway`.
            gap: mean nats between sampler and trainer from which on it is told.
            gap_stops: and the run is to stop there.
            so_far: rows of a resumed run.
        """
        self.stop: str | None = None
        """Why the run is to stop; None as long as it may go on."""
        self._outlook = Outlook(steps)
        self._remedy = {"learning_rate": learning_rate, "beta": beta}
        self._gap = gap
        self._gap_stops = gap_stops
        self._gap_told = False
        self._rows: list[_Row] = list(so_far)
        self._ran = runaway(self._rows, **self._remedy) is not None

    def heed(self, step: int, metrics: _Row) -> Iterator[str]:
        """What is to be said after a step.

        Args:
            step: updates made, this one included.
            metrics: of the step, see `run.metrics`.
        """
        if hopeless := self._outlook.heed(step, metrics):
            yield hopeless
        if apart := self._apart(metrics):
            yield apart
        self._rows = [*self._rows[:EARLY], *self._rows[EARLY:][1 - EARLY :], metrics]
        said = runaway(self._rows, **self._remedy)
        if said and not self._ran:
            yield said
        self._ran = said is not None

    def _apart(self, metrics: _Row) -> str | None:
        gap = metrics.get(GAP, 0.0)
        if gap <= self._gap or self._gap_told:
            return None
        self._gap_told = True
        said = (
            f"sampler and trainer disagree by {gap:.3f} nats a token on average (at most "
            f"{metrics.get(LARGEST_GAP, gap):.2f}; trainer.gap_warning is {self._gap:g}), so that updates are of "
            "another policy than the one that sampled: with precision=bf16 choose fp32, and with fp32 look for what "
            "changes the model between sampling and training"
        )
        if self._gap_stops:
            self.stop = said
        return said


def _mean(rows: Sequence[_Row], name: str) -> float:
    return fmean(row.get(name, 0.0) for row in rows)

"""Whether a run has anything to learn from, said while it runs: who never succeeds is never rewarded for it."""

from __future__ import annotations

from collections.abc import Mapping

from fission_grpo.types import ErrorClass

PATIENCE = 5
"""Steps without any success after which it is said, and again whenever as many more have passed."""

HINTS: Mapping[ErrorClass | None, str] = {
    ErrorClass.FORMAT: "Most fail at the form of a call: ask `fission doctor MODEL` whether the template suits the "
    "model, and see whether rollouts.max_tokens cuts its messages",
    ErrorClass.UNKNOWN_TOOL: "Most fail by calling tools that are not on offer: take a model that knows more words "
    "than these tasks need (nano knows few)",
    None: "Most end without an error and are judged wrong all the same: see in the episodes of `fission report` "
    "whether the world's verdict is right, and whether rollouts.max_turns leaves room for the last call",
}
"""What to look at first, by the class of most first failures; None where calls did not fail."""
REMEDIES = (
    "what else helps: tasks of fewer calls among the others; showing how it is done before training "
    "(`fission sft` with the same settings, then --model FOLDER/policy); larger groups (trainer.group_size)"
)


class Outlook:
    """Counts the steps in which nothing came out right, neither at first nor as a recovery."""

    def __init__(self, steps: int) -> None:
        """Watch a run of so many steps."""
        self._steps = steps
        self._succeeded = False
        self._forget()

    def _forget(self) -> None:
        self._without = 0
        self._rollouts = 0.0
        self._masked = 0.0
        self._failures: dict[ErrorClass | None, float] = dict.fromkeys((None, *ErrorClass), 0.0)

    def heed(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """What is to be said after a step; None as long as there is hope, or it was said lately.

        Args:
            step: updates made, this one included.
            metrics: of the step, see `run.metrics`.
        """
        if metrics.get("success", 0.0) > 0 or metrics.get("fission/success", 0.0) > 0:
            self._succeeded = True
            self._forget()
            return None
        self._count(metrics)
        due = self._without % PATIENCE == 0 or (step == self._steps and not self._succeeded)
        return self._told() if due else None

    def _count(self, metrics: Mapping[str, float]) -> None:
        rollouts, masked = metrics.get("rollouts", 0.0), metrics.get("masked", 0.0)
        self._without += 1
        self._rollouts += rollouts
        self._masked += masked
        shares = {error: metrics.get(f"errors/{error}", 0.0) for error in ErrorClass}
        for error, share in ((None, 1 - sum(shares.values())), *shares.items()):
            self._failures[error] += share * (rollouts - masked)

    def _told(self) -> str:
        if self._masked == self._rollouts:
            return (
                f"in the last {self._without} step(s) all {self._masked:.0f} rollouts broke by faults that are not the "
                "model's, so that nothing was learned: `fission data check` tries the worlds, and traces.jsonl of the "
                "run names each fault"
            )
        most = max(self._failures, key=self._failures.__getitem__)
        hint = HINTS.get(most, f"Most fail first with an error of class {most} (docs/environments.md)")
        return (
            f"in the last {self._without} step(s) none of {self._rollouts:.0f} rollouts came out right, and no "
            f"recovery did: nothing shows this policy what right is. {hint}; {REMEDIES}"
        )

"""The first line of a report: one true sentence that needs no documentation, whatever came out."""

from __future__ import annotations

import math

from fission_grpo.evaluation.paired import Comparison
from fission_grpo.evaluation.statistics import Share
from fission_grpo.report.arms import trained_with
from fission_grpo.report.tables import NOTHING_VARIES, judgement, points

FEW_RUNS = 5
"""Below it the sentence says that the runs are few: the interval then knows training noise from too few values."""


def headline(recovery: Comparison, final: Comparison, first_attempts: Comparison) -> str:
    """What fission did for recovery, with its interval, for all tasks together, and for first attempts.

    Recovery is a share of the tasks in which the policy itself failed, which are other tasks in each arm: final success
    of all tasks, which are the same, stands beside it.

    Args:
        recovery: ERR, treatment against control.
        final: final success of the same arms.
        first_attempts: of the same arms.
    """
    treatment, control = trained_with(recovery.treatment), trained_with(recovery.baseline)
    return (
        f"{_runs(recovery)}, {_recovery(recovery, treatment, control)}; "
        f"of all tasks they solved {_share(final.after)} and {_share(final.before)}: {_in_short(final)}; "
        f"without any failed message: {_in_short(first_attempts)}."
    )


def _recovery(one: Comparison, treatment: str, control: str) -> str:
    if math.isnan(one.difference):
        sides = ((treatment, one.after), (control, one.before))
        flawless = " and ".join(f"a policy trained with {name}" for name, side in sides if not side.total)
        return f"no message of {flawless} failed, so nothing can be said of recovery"
    over = ", over all runs" if max(one.runs) > 1 else ""
    return (
        f"a policy trained with {treatment} still solved {_share(one.after)} of the held-out tasks in which one of its "
        f"own messages had failed ({_count(one.after)}{over}), and one trained with {control} solved "
        f"{_share(one.before)} ({_count(one.before)}): {_difference(one)}"
    )


def _share(share: Share) -> str:
    return f"{100 * share.value:.1f} %"


def _count(share: Share) -> str:
    return f"{share.successes} of {share.total}"


def _difference(one: Comparison) -> str:
    """In points, with its interval and what that settles."""
    change = f"{100 * one.difference:+.1f} points"
    low, high = 100 * one.interval.low, 100 * one.interval.high
    if low == high:
        return f"{change}, not settled, because {NOTHING_VARIES}"
    interval = f"{change} (95 % interval {low:+.1f} to {high:+.1f}, {_covers(one)})"
    if not one.interval.excludes_zero:
        return f"{interval}, not settled, because the interval holds 0"
    return f"{interval}, which is {judgement(one, settled=True)}"


def _runs(one: Comparison) -> str:
    control, treatment = one.runs
    if control != treatment:
        return f"In {treatment} and {control} training runs"
    return "In one training run each" if control == 1 else f"In {control} training runs each"


def _covers(one: Comparison) -> str:
    fewest, most = min(one.runs), max(one.runs)
    if most == 1:
        return "over tasks only: one run cannot tell what another would give"
    if fewest == 1:
        return "over tasks and the runs of the one that has several"
    return "over runs and tasks" if fewest >= FEW_RUNS else f"over tasks and {fewest} runs, which are few"


def _in_short(one: Comparison) -> str:
    if math.isnan(one.difference):
        return "none to count"
    settled = one.interval.excludes_zero and one.interval.low < one.interval.high
    return f"{points(one)} points, {judgement(one, settled=settled)}"

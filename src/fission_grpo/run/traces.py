"""Groups as lines of `traces.jsonl`: enough to redraw every tree and recompute every metric."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import Any

from fission_grpo.algorithm.advantages import Scale
from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.rewards import Reward
from fission_grpo.environments.dialogue import call_record
from fission_grpo.simulator.base import Feedback
from fission_grpo.types import ToolOutcome


def trace(group: Group, *, step: int, scale: Scale) -> dict[str, Any]:
    """One group as plain JSON values."""
    context = group.context
    return {
        "step": step,
        "group": group.id,
        "kind": group.kind.value,
        "task": group.task.id,
        "pulse": group.signal().value,
        "weight": group.weight,
        "depth": context.depth if context else 0,
        "parent": {
            "group": context.parent.group,
            "trajectory": context.parent.trajectory,
            "turn": context.parent.turn,
        }
        if context
        else None,
        "error": context.error.value if context and context.error else None,
        "feedback": list(context.feedback.texts) if context and context.feedback else None,
        **(_feedback(context.feedback) if context and context.feedback else {}),
        "prompt": group.task.messages[-1]["content"],
        "prompt_ids": list(group.members[0].trajectory.ids[: group.members[0].trajectory.prompt]),
        "trajectories": [
            _member(member, advantage)
            for member, advantage in zip(group.members, group.advantages(scale).tolist(), strict=True)
        ],
    }


def _feedback(feedback: Feedback) -> dict[str, Any]:
    """Who wrote it, what is known of leaks, and what it cost."""
    return {
        "feedback_origin": feedback.origin,
        "feedback_leakage": feedback.leakage.value,
        "feedback_fallback": feedback.fallback and feedback.fallback.value,
        "feedback_cost": asdict(feedback.cost),
    }


def _member(member: Member, advantage: float) -> dict[str, Any]:
    trajectory, failure = member.trajectory, member.failure
    return {
        "text": [turn.text for turn in trajectory.turns],
        "calls": [[call_record(call) for call in turn.parsed.calls] for turn in trajectory.turns],
        "replies": [[outcome.text for outcome in turn.outcomes] for turn in trajectory.turns],
        "outcomes": [[_outcome(outcome) for outcome in turn.outcomes] for turn in trajectory.turns],
        "malformed": [[failure.detail for failure in turn.parsed.failures] for turn in trajectory.turns],
        "end": trajectory.end.value,
        "fault": trajectory.fault or None,
        "verdict": None if trajectory.verdict is None else trajectory.verdict.error_type or "ok",
        "success": member.success,
        "reward": None if member.reward is None else reward_record(member.reward),
        "advantage": advantage,
        "failure": None
        if failure is None
        else {
            "error": failure.error.value if failure.error else None,
            "turn": failure.turn,
            "fault": failure.fault.value,
            "reason": failure.reason,
        },
        "ids": list(trajectory.ids[trajectory.prompt :]),
        "sampled": spans(trajectory.sampled[trajectory.prompt :]),
    }


def reward_record(reward: Reward) -> dict[str, Any]:
    """A reward with its terms, so that the scalar can be added up by hand."""
    terms = {term.name: {"value": term.value, "weight": term.weight, "why": term.why} for term in reward.terms}
    return {"total": reward.total, "scale": reward.scale, "terms": terms}


def _outcome(outcome: ToolOutcome) -> dict[str, Any]:
    return {"kind": outcome.kind.value, "error": outcome.error.value if outcome.error else None}


def spans(mask: tuple[bool, ...]) -> list[list[int]]:
    """The runs of True as [start, stop) pairs: a loss mask that a person can read."""
    runs: list[list[int]] = []
    place = 0
    for value, run in groupby(mask):
        length = len(list(run))
        if value:
            runs.append([place, place + length])
        place += length
    return runs

"""One fission tree, for people: x, its G trajectories, one failure with its feedback, and the G' recoveries.

Read from the plain objects of `traces.jsonl`, one a group; keys that are not needed are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fission_grpo.files import parse_json
from fission_grpo.simulator.base import Leakage
from fission_grpo.types import EndReason

LEAKAGE_WORDS: Mapping[str, str] = MappingProxyType(
    {
        Leakage.BLIND.value: "written without the reference",
        Leakage.CLEAN.value: "checked: no leak",
        Leakage.LEAKED.value: "leaked: replaced",
    }
)
"""What is known of a feedback text."""
END_WORDS: Mapping[str, str] = MappingProxyType(
    {
        EndReason.LENGTH.value: "cut off: token limit",
        EndReason.MAX_TURNS.value: "cut off: too many messages",
        EndReason.CONTEXT.value: "cut off: context window",
        EndReason.HARNESS_FAULT.value: "a fault of the harness: masked",
    }
)
"""How a trajectory ended that did not end by itself."""

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
_USER = re.compile(r"<\|im_start\|>user\n(?!<tool_response>)(.*?)<\|im_end\|>", re.DOTALL)
_SPECIAL = re.compile(r"<\|[^|>]*\|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One trajectory as a picture shows it."""

    turns: tuple[str, ...]
    """Each assistant message, calls written as `name(argument=value)`."""
    right: bool
    reward: float | None
    """None after a harness fault, which is not scored."""
    advantage: float | None
    error: str
    """Class of the failure, empty where there is none."""

    def fit(self, characters: int) -> str:
        """All messages on one line; without their arguments, and at last clipped, where it is too long."""
        line = " → ".join(self.turns)
        if len(line) > characters and len(self.turns) > 1:
            line = " → ".join(map(_without_arguments, self.turns))
        return _clip(line, characters)


@dataclass(frozen=True, slots=True, kw_only=True)
class FissionTree:
    """An exploration group and one fission group that grew from a failure in it."""

    task: str
    step: int
    """Step of the exploration group."""
    fission_step: int
    request: str
    """What the user asked."""
    branches: tuple[Branch, ...]
    failed: int
    """Index of the branch that was fissioned."""
    failed_turn: int
    """Which of its messages failed."""
    feedback: tuple[str, ...]
    origin: str
    """Which simulator wrote the feedback."""
    recoveries: tuple[Branch, ...]

    @property
    def rescues(self) -> int:
        """Recoveries that are right."""
        return sum(branch.right for branch in self.recoveries)

    @property
    def all_fail(self) -> bool:
        """Not one exploration trajectory was right."""
        return not any(branch.right for branch in self.branches)


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _without_arguments(turn: str) -> str:
    """The names of the calls; words shrink to an ellipsis in quotation marks."""
    return ", ".join(re.findall(r"([A-Za-z_][\w.]*)\(", turn)) if turn.endswith(")") else "“…”"


def readable(message: str) -> str:
    """An assistant message on one line: its calls in Python's notation, else its words."""
    calls = [_call(block) for block in _CALL.findall(message)]
    return ", ".join(calls) or " ".join(_SPECIAL.sub(" ", message).split())


def _call(block: str) -> str:
    try:
        call = parse_json(block)
        arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in call["arguments"].items())
        return f"{call['name']}({arguments})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(block.split())


def last_words(prompt: str) -> str:
    """What the user said last; the whole prompt where the template is not ChatML, or no template is in it."""
    users = _USER.findall(prompt)
    return str(users[-1]) if users else prompt


def _request(prompt: str) -> str:
    """On one line; only its end where there is more than the user's words."""
    words = last_words(prompt)
    return " ".join((words if words is not prompt else _SPECIAL.sub(" ", prompt)[-200:]).split())


def _branch(trajectory: Mapping[str, Any]) -> Branch:
    failure, reward = trajectory["failure"], trajectory["reward"]
    return Branch(
        turns=tuple(map(readable, trajectory["text"])),
        right=bool(trajectory["success"]),
        reward=reward["total"] if reward else None,
        advantage=trajectory["advantage"] if reward else None,
        error=str(failure["error"] or "") if failure else "",
    )


def _tree(group: Mapping[str, Any], fission_group: Mapping[str, Any]) -> FissionTree:
    parent = fission_group["parent"]
    return FissionTree(
        task=str(group["task"]),
        step=group["step"],
        fission_step=fission_group["step"],
        request=_request(group["prompt"]),
        branches=tuple(map(_branch, group["trajectories"])),
        failed=parent["trajectory"],
        failed_turn=parent["turn"],
        feedback=tuple(fission_group.get("feedback") or ()),
        origin=str(fission_group.get("feedback_origin") or "feedback"),
        recoveries=tuple(map(_branch, fission_group["trajectories"])),
    )


def fission_trees(traces: Iterable[Mapping[str, Any]]) -> Iterator[FissionTree]:
    """Every fission group whose parent group is in the traces too, in file order; deeper ones count as well."""
    known: dict[str, Mapping[str, Any]] = {}
    for trace in traces:
        known[str(trace["group"])] = trace
        parent = trace.get("parent")
        if parent is not None and str(parent["group"]) in known:
            yield _tree(known[str(parent["group"])], trace)


def most_telling(trees: Iterable[FissionTree]) -> FissionTree | None:
    """A tree that shows the mechanism, not a typical one: of a group that all failed, its recoveries mixed most evenly.

    A caption has to say that it was picked. None without trees.
    """

    def telling(tree: FissionTree) -> tuple[bool, float]:
        share = tree.rescues / max(len(tree.recoveries), 1)
        return tree.all_fail, share * (1 - share)

    return max(trees, key=telling, default=None)


def _text_line(branch: Branch, stem: str, width: int) -> str:
    reward = " " * 5 if branch.reward is None else f"{branch.reward:5.2f}"
    advantage = "" if branch.advantage is None else f" {branch.advantage:+6.2f}"
    head = f"{stem}{'✓' if branch.right else '✗'} {reward}{advantage}  {branch.error:<3}"
    return head + branch.fit(max(12, width - len(head)))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _stems(count: int, indent: str) -> list[str]:
    return [indent + ("└─ " if place == count - 1 else "├─ ") for place in range(count)]


def text_tree(tree: FissionTree, *, width: int = 110) -> str:
    """The tree for a terminal: mark, reward, advantage, error class, and what the policy wrote.

    Args:
        tree: what to draw.
        width: columns; longer lines are clipped with an ellipsis.
    """
    lines = [
        _clip(f"x  {_one_line(tree.request)}", width),
        f"   task {tree.task}, step {tree.step}; reward, advantage, error, calls",
    ]
    for place, stem in enumerate(_stems(len(tree.branches), "")):
        lines.append(_text_line(tree.branches[place], stem, width))
        if place == tree.failed:
            indent = "   " if place == len(tree.branches) - 1 else "│  "
            lines += [_clip(f"{indent}   ↳ {tree.origin}: {_one_line(text)}", width) for text in tree.feedback]
            recoveries = zip(tree.recoveries, _stems(len(tree.recoveries), indent + "   "), strict=True)
            lines += [_text_line(recovery, inner, width) for recovery, inner in recoveries]
    explored = "all failed" if tree.all_fail else "mixed"
    lines.append(
        f"   exploration {explored}; fission (step {tree.fission_step}): {tree.rescues}/{len(tree.recoveries)} right"
    )
    return "\n".join(lines)

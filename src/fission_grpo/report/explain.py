"""One trajectory of a run, explained from `traces.jsonl`: its reward to the last digit, its failure, its feedback.

Nothing is scored again: terms, weights and advantages are those that were trained on. What can be added up is added up
here, and a sum that is not the recorded one is said.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch

from fission_grpo.algorithm.advantages import Scale, group_advantages
from fission_grpo.errors import ConfigError
from fission_grpo.files import read_jsonl
from fission_grpo.report.tree import last_words, readable
from fission_grpo.run.folder import RunFolder

_ROUNDING = 1e-6
"""Advantages are kept in single precision."""
_WIDTH = 200
"""Most characters of a message, or of the answer of a tool, that a person is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One trajectory of a group."""

    trace: Mapping[str, Any]
    """Its group: a line of `traces.jsonl`."""
    place: int
    children: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """The fission groups that grew from it."""

    @property
    def name(self) -> str:
        """What `fission explain` calls it."""
        return f"{self.trace['group']}:{self.place}"

    @property
    def trajectory(self) -> Mapping[str, Any]:
        """As it stands in the trace."""
        found: Mapping[str, Any] = self.trace["trajectories"][self.place]
        return found

    @property
    def rewards(self) -> list[float | None]:
        """Of all siblings; None of one that a fault of ours spoiled."""
        return [one["reward"] and one["reward"]["total"] for one in self.trace["trajectories"]]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        one, trained = self.trajectory, sum(stop - start for start, stop in self.trajectory["sampled"])
        return {
            "trace": self.name,
            **{key: self.trace[key] for key in ("step", "kind", "task", "pulse")},
            "reward": one["reward"],
            "sum": one["reward"] and added_up(one["reward"]),
            "siblings": self.rewards,
            **self._baseline(),
            "advantage": one["advantage"],
            **{key: one[key] for key in ("success", "verdict", "end", "fault", "failure")},
            "context": self._context(self.trace) if self.trace["parent"] else None,
            "fissioned_into": [self._context(child) for child in self.children],
            "tokens": {
                "given": len(self.trace["prompt_ids"]),
                "sampled": trained,
                "spans": one["sampled"],
                "masked": len(one["ids"]) - trained,
            },
            "turns": [
                {"text": text, "replies": replies, "outcomes": outcomes}
                for text, replies, outcomes in zip(one["text"], one["replies"], one["outcomes"], strict=True)
            ],
        }

    def __str__(self) -> str:
        """For a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        one, told = self.trajectory, self.as_json()
        yield f"{self.name}   task {self.trace['task']}, step {self.trace['step']}, {self.trace['kind']}"
        yield f"asked: {_cut(last_words(self.trace['prompt']))}"
        if told["context"]:
            yield from _context_lines("recovers from", told["context"])
        yield ""
        for turn, (text, replies, outcomes) in enumerate(
            zip(one["text"], one["replies"], one["outcomes"], strict=True)
        ):
            yield f"message {turn}: {_cut(readable(text))}"
            for reply, outcome in zip(replies, outcomes, strict=True):
                yield f"  {' '.join(filter(None, (outcome['kind'], outcome['error'])))}: {_cut(reply)}"
        yield f"end: {one['end']}; verdict: {one['verdict'] or 'none'}; {'success' if one['success'] else 'no success'}"
        yield ""
        yield from _reward_lines(one["reward"], one["fault"])
        yield from self._advantage_lines(told)
        yield ""
        yield from _failure_lines(one["failure"])
        for context in told["fissioned_into"]:
            yield from _context_lines("became", context)
        yield from self._token_lines(told["tokens"])

    def _baseline(self) -> dict[str, Any]:
        """Mean and spread of the siblings, and how an advantage was made of them; None where nothing was."""
        valid = [reward for reward in self.rewards if reward is not None]
        mean, spread = (fmean(valid), pstdev(valid)) if valid else (None, None)
        return {"baseline": mean, "spread": spread, "scale": self._scale()}

    def _scale(self) -> str | None:
        """What the recorded advantages of the group were divided by; None where neither way gives them."""
        rewards_G = torch.tensor([reward or 0.0 for reward in self.rewards], dtype=torch.float64)
        valid_G = torch.tensor([reward is not None for reward in self.rewards])
        recorded_G = torch.tensor([one["advantage"] for one in self.trace["trajectories"]])
        ways = {scale: group_advantages(rewards_G, valid_G=valid_G, scale=scale) for scale in Scale}
        fits = (scale for scale, made_G in ways.items() if torch.allclose(made_G, recorded_G, rtol=_ROUNDING))
        return next((scale.value for scale in fits), None)

    def _advantage_lines(self, told: Mapping[str, Any]) -> Iterator[str]:
        if self.trajectory["reward"] is None:
            return
        shown = ", ".join("masked" if reward is None else repr(reward) for reward in self.rewards)
        yield f"siblings: {shown}"
        yield f"baseline = {told['baseline']!r}, the mean of {sum(reward is not None for reward in self.rewards)}"
        total, mean, spread = told["reward"]["total"], told["baseline"], told["spread"]
        made = {
            Scale.STD.value: f"({total!r} - ({mean!r})) / ({spread!r} + 0.0001)",
            Scale.NONE.value: f"{total!r} - ({mean!r})",
        }
        if self.trace["pulse"] != "alive":
            yield f"advantage = {told['advantage']!r}: the group is {self.trace['pulse']}, nothing is learnt from it"
        else:
            way = made.get(told["scale"] or "", "what was recorded, and not what the rewards give")
            yield f"advantage = {told['advantage']!r} = {way}"

    def _token_lines(self, tokens: Mapping[str, Any]) -> Iterator[str]:
        spans = ", ".join(f"{start}-{stop - 1}" for start, stop in tokens["spans"])
        spoiled = self.trajectory["reward"] is None
        trained = "masked all the same: it has no reward" if spoiled else "trained on"
        yield f"tokens: {tokens['given']} given, {tokens['sampled']} sampled and {trained} ({spans or 'none'})"
        yield f"masked: {tokens['masked']} behind the prompt that the policy did not sample (answers of tools, marks)"

    def _context(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The corrective context of a fission group."""
        parent = group["parent"]
        return {
            "group": group["group"],
            "parent": f"{parent['group']}:{parent['trajectory']}",
            "turn": parent["turn"],
            "error": group["error"],
            "feedback": group["feedback"],
            "origin": group.get("feedback_origin"),
            "leakage": group.get("feedback_leakage"),
            "fallback": group.get("feedback_fallback"),
            "successes": sum(bool(one["success"]) for one in group["trajectories"]),
            "recoveries": len(group["trajectories"]),
        }


def explain_trace(run: Path, trace: str) -> list[Explained]:
    """One trajectory, `GROUP:PLACE`, or all of a group, `GROUP`.

    Raises:
        ConfigError: the run has no traces, or none of this name.
        DataError: the file is damaged.
    """
    group, colon, written = trace.partition(":")
    traces = _traces(run)
    found = traces.get(group)
    if found is None:
        near = difflib.get_close_matches(group, traces, n=3, cutoff=0.0)
        raise ConfigError(f"{run} has no group {group!r} among its {len(traces)}; the nearest are {', '.join(near)}")
    count = len(found["trajectories"])
    if colon and not (written.isdecimal() and int(written) < count):
        raise ConfigError(f"{trace}: the group has {count} trajectories; expected {group}:0 to {group}:{count - 1}")
    places = [int(written)] if colon else list(range(count))
    return [Explained(trace=found, place=place, children=_children(traces, group, place)) for place in places]


def groups_of_last_step(run: Path) -> list[str]:
    """One line for each group of the last step: what can be explained.

    Raises:
        ConfigError, DataError: see `explain_trace`.
    """
    traces = list(_traces(run).values())
    return [_group_line(trace) for trace in traces if trace["step"] == traces[-1]["step"]]


def added_up(reward: Mapping[str, Any]) -> float:
    """The total of a recorded reward, from its terms: the very sum that was trained on."""
    terms = reward["terms"].values()
    return float(reward["scale"] * sum(term["weight"] * term["value"] for term in terms))


def _traces(run: Path) -> dict[str, Mapping[str, Any]]:
    file = RunFolder(run).traces
    if not file.is_file():
        raise ConfigError(f"{run} holds no traces.jsonl; give the --output of a training run")
    found: dict[str, Mapping[str, Any]] = {
        str(trace["group"]): trace for trace in read_jsonl(file, "group", "kind", "step", "trajectories")
    }
    if not found:
        raise ConfigError(f"{file} holds no group yet; ask again once a step is done")
    return found


def _children(traces: Mapping[str, Mapping[str, Any]], group: str, place: int) -> list[Mapping[str, Any]]:
    parents = ((trace, trace.get("parent")) for trace in traces.values())
    return [trace for trace, one in parents if one and (str(one["group"]), one["trajectory"]) == (group, place)]


def _group_line(trace: Mapping[str, Any]) -> str:
    rewards = [one["reward"] and one["reward"]["total"] for one in trace["trajectories"]]
    shown = " ".join("masked" if reward is None else f"{reward:.3f}" for reward in rewards)
    return f"{trace['group']}   task {trace['task']}   {shown}"


def _reward_lines(reward: Mapping[str, Any] | None, fault: str | None) -> Iterator[str]:
    if reward is None:
        yield f"reward: none, masked{f' by a fault of ours: {fault}' if fault else ''}"
        return
    width = max(map(len, reward["terms"]), default=0)
    for name, term in reward["terms"].items():
        part = term["weight"] * term["value"]
        yield f"  {name:<{width}}  {term['weight']!r} * {term['value']!r} = {part!r}   {_cut(term['why'])}"
    total = added_up(reward)
    odd = "" if total == reward["total"] else f", but {reward['total']!r} was recorded"
    yield f"reward = {total!r} = {reward['scale']!r} * the sum of these{odd}"


def _failure_lines(failure: Mapping[str, Any] | None) -> Iterator[str]:
    if failure is None:
        yield "failure: none"
    else:
        yield f"failure: {failure['error'] or 'no error class'} in message {failure['turn']}, by the {failure['fault']}"
        yield f"  why (for us; never shown to the policy): {_cut(failure['reason'])}"


def _context_lines(what: str, context: Mapping[str, Any]) -> Iterator[str]:
    right = f"{context['successes']} of {context['recoveries']} recoveries right"
    yield f"{what} {context['parent']}, message {context['turn']} ({context['error']}): {context['group']}, {right}"
    fallback = f", as a fallback ({context['fallback']})" if context["fallback"] else ""
    for text in context["feedback"] or ():
        yield f"  feedback by {context['origin']}, leak verdict {context['leakage']}{fallback}: {_cut(text)}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]}..."

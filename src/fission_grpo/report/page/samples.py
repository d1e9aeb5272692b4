"""The trajectories that a page carries: drawn by a seed in whole families, written down once, and safe to embed.

A family is an exploration group with the fission groups that grew from it, so that every tree on the page is whole.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from fission_grpo.evaluation.events import ErrorEvent, error_events
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.report.page.episodes import episode_of
from fission_grpo.report.page.sources import PageRun, Trace
from fission_grpo.report.page.vocabulary import Vocabulary
from fission_grpo.report.tree import fission_trees, last_words, most_telling, readable
from fission_grpo.types import GroupKind

PICKED = 20
"""How many are called best, worst or random."""
TELLING = 4
"""Stretches of the run of which the most telling tree is on the page, whatever is drawn."""

Family = Sequence[Trace]


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """The episodes of one evaluation that a page may show."""

    run: str
    part: str
    records: Sequence[EpisodeRecord]
    fixed: frozenset[str] = frozenset()
    """Tasks that the baseline got wrong and this run right."""
    broken: frozenset[str] = frozenset()


@dataclass(slots=True)
class Payload:
    """What the script of the page reads; texts stand in it once."""

    strings: dict[str, int] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    vocabulary: list[str] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    trees: list[int] = field(default_factory=list)
    """Groups that are fission groups, in order."""
    left_out: list[str] = field(default_factory=list)
    """One sentence for each thing that is not whole."""

    def text(self, words: str) -> int:
        """The place of a text."""
        return self.strings.setdefault(words, len(self.strings))

    def run(self, name: str) -> int:
        """The place of a run."""
        if name not in self.runs:
            self.runs.append(name)
        return self.runs.index(name)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "strings": list(self.strings),
            "runs": self.runs,
            "vocab": self.vocabulary,
            "groups": self.groups,
            "items": self.items,
            "trees": self.trees,
        }


def embedded(value: Any) -> Markup:
    """JSON that no text inside it can turn into markup, script or the end of the element around it.

    What HTML or an older script engine could take for something else is written as an escape, which reads back as the
    same text: angle brackets, the ampersand, and the two line separators. `]]>` and `<!--` fall with the brackets.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def payload_of(runs: Sequence[PageRun], episodes: Sequence[Episodes], *, samples: int, seed: int) -> Payload:
    """Choose what is shown, and write it down.

    Args:
        runs: training runs with traces.
        episodes: of evaluations.
        samples: most trajectories and episodes in all; every source gets its fair share.
        seed: of the choice.
    """
    found = Payload()
    sizes = [sum(len(trace["trajectories"]) for trace in run.traces) for run in runs]
    sizes += [len(one.records) for one in episodes]
    shares = fair_shares(samples, sizes)
    for run, share in zip(runs, shares, strict=False):
        _add_run(found, run, share, seed)
    for one, share in zip(episodes, shares[len(runs) :], strict=True):
        _add_episodes(found, one, share, seed)
    return found


def fair_shares(total: int, sizes: Sequence[int]) -> list[int]:
    """How much of `total` each source gets: as much as it has, and none more than another that wants more."""
    shares = [0] * len(sizes)
    left = total
    for rank, place in enumerate(sorted(range(len(sizes)), key=lambda place: sizes[place])):
        shares[place] = min(sizes[place], left // (len(sizes) - rank))
        left -= shares[place]
    return shares


# Training


def families(traces: Iterable[Trace]) -> list[Family]:
    """Groups by the exploration group that they descend from, in file order."""
    root: dict[str, str] = {}
    found: dict[str, list[Trace]] = {}
    for trace in traces:
        name, parent = str(trace["group"]), trace.get("parent")
        root[name] = name if parent is None else root.get(str(parent["group"]), name)
        found.setdefault(root[name], []).append(trace)
    return list(found.values())


def chosen_families(all_families: Sequence[Family], *, most: int, seed: int) -> list[Family]:
    """Whole families of `most` trajectories at most: the most telling trees of the run, then by lot; in file order."""
    order = list(range(len(all_families)))
    random.Random(seed).shuffle(order)
    ranked = [*_telling(all_families), *order]
    kept, left = set(), most
    for place in dict.fromkeys(ranked):
        size = sum(len(trace["trajectories"]) for trace in all_families[place])
        if size <= left:
            kept.add(place)
            left -= size
    return [all_families[place] for place in sorted(kept)]


def _telling(all_families: Sequence[Family]) -> Iterator[int]:
    """Of each stretch of the run the family with the most telling tree."""
    length = max(1, -(-len(all_families) // TELLING))
    for start in range(0, len(all_families), length):
        places = {
            tree: place
            for place in range(start, min(start + length, len(all_families)))
            for tree in fission_trees(all_families[place])
        }
        if (best := most_telling(places)) is not None:
            yield places[best]


def _add_run(payload: Payload, run: PageRun, most: int, seed: int) -> None:
    everything = families(run.traces)
    kept = chosen_families(everything, most=most, seed=seed)
    vocabulary = Vocabulary.of(run, payload.vocabulary)
    places: dict[str, int] = {}
    first = len(payload.items)
    for family in kept:
        for trace in family:
            places[str(trace["group"])] = len(payload.groups)
            payload.groups.append(_group(payload, run, trace, places, vocabulary))
            if trace["kind"] == GroupKind.FISSION and str(trace["parent"]["group"]) in places:
                payload.trees.append(places[str(trace["group"])])
            for place, trajectory in enumerate(trace["trajectories"]):
                payload.items.append(_item(payload, trace, trajectory, places, place, vocabulary))
    added = payload.items[first:]
    _mark(added, seed, score=lambda item: item["reward"], sound=lambda item: item["reward"] is not None)
    total = sum(len(trace["trajectories"]) for trace in run.traces)
    if len(added) < total:
        payload.left_out.append(
            f"{run.name}: {len(added):,} of {total:,} trajectories, in whole trees drawn by seed {seed}; "
            f"--samples {total} shows all, and traces.jsonl holds them."
        )


def _group(
    payload: Payload, run: PageRun, trace: Trace, places: Mapping[str, int], vocabulary: Vocabulary | None
) -> dict[str, Any]:
    parent = trace.get("parent")
    return {
        "run": payload.run(run.name),
        "step": trace["step"],
        "kind": str(trace["kind"]),
        "task": payload.text(str(trace["task"])),
        "request": payload.text(last_words(trace["prompt"])),
        "prompt": vocabulary.places(trace["prompt_ids"]) if vocabulary else [],
        "parent": None
        if parent is None or str(parent["group"]) not in places
        else [places[str(parent["group"])], parent["trajectory"], parent["turn"]],
        "error": trace.get("error"),
        "feedback": [payload.text(text) for text in trace.get("feedback") or ()],
        "origin": trace.get("feedback_origin"),
        "leakage": trace.get("feedback_leakage"),
        "fallback": trace.get("feedback_fallback"),
        "first": len(payload.items),
        "count": len(trace["trajectories"]),
    }


def _item(
    payload: Payload,
    trace: Trace,
    trajectory: Mapping[str, Any],
    places: Mapping[str, int],
    place: int,
    vocabulary: Vocabulary | None,
) -> dict[str, Any]:
    reward, failure = trajectory["reward"], trajectory["failure"]
    return {
        "group": places[str(trace["group"])],
        "place": place,
        "ok": bool(trajectory["success"]),
        "reward": None if reward is None else round(reward["total"], 4),
        "advantage": round(trajectory["advantage"], 4),
        "terms": [
            [payload.text(name), round(term["value"], 4), round(term["weight"], 4), payload.text(term["why"])]
            for name, term in (reward["terms"] if reward else {}).items()
        ],
        "end": trajectory["end"],
        "verdict": trajectory["verdict"],
        "fault": trajectory["fault"],
        "failure": None
        if failure is None
        else [failure["error"], failure["turn"], failure["fault"], payload.text(failure["reason"])],
        **_after_errors(payload, error_events(episode_of(trace, trajectory))),
        "turns": [
            _turn(payload, text, zip(replies, outcomes, strict=True), malformed)
            for text, replies, outcomes, malformed in zip(
                *(trajectory[key] for key in ("text", "replies", "outcomes", "malformed")), strict=True
            )
        ],
        "ids": vocabulary.places(trajectory["ids"]) if vocabulary else [],
        "sampled": trajectory["sampled"],
        "tags": [],
    }


def _turn(
    payload: Payload, text: str, answers: Iterable[tuple[str, Mapping[str, Any]]], malformed: Sequence[str]
) -> list[Any]:
    """The text as sampled, the same readably, the replies with kind and class, and what is malformed about it."""
    replies = [[payload.text(reply), outcome["kind"], outcome["error"]] for reply, outcome in answers]
    return [payload.text(text), payload.text(readable(text)), replies, [payload.text(one) for one in malformed]]


def _after_errors(payload: Payload, events: Sequence[ErrorEvent]) -> dict[str, Any]:
    """Class, tool and fate of the first error, and how many there are."""
    if not events:
        return {"errors": 0}
    first = events[0]
    tool = None if first.tool is None else payload.text(first.tool)
    return {"errors": len(events), "class": first.error.value, "tool": tool, "fate": first.fate.value}


# Evaluations


def _add_episodes(payload: Payload, episodes: Episodes, most: int, seed: int) -> None:
    changed = episodes.fixed | episodes.broken
    order = list(range(len(episodes.records)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda place: episodes.records[place].task not in changed)
    kept = [episodes.records[place] for place in sorted(order[:most])]
    run = payload.run(episodes.run)
    added = [_episode_item(payload, record, run, episodes) for record in kept]
    payload.items += added
    _mark(
        added,
        seed,
        score=lambda item: (1 + item["errors"]) * (1 if item["ok"] else -1),
        sound=lambda item: item["end"] != "harness_fault",
    )
    if len(kept) < len(episodes.records):
        payload.left_out.append(
            f"{episodes.run}, {episodes.part}: {len(kept):,} of {len(episodes.records):,} episodes, those that changed "
            f"sides first and the others drawn by seed {seed}; --samples shows more."
        )


def _episode_item(payload: Payload, record: EpisodeRecord, run: int, episodes: Episodes) -> dict[str, Any]:
    tags = [name for name, tasks in (("fixed", episodes.fixed), ("broken", episodes.broken)) if record.task in tasks]
    probe = record.probe
    return {
        "run": run,
        "part": episodes.part,
        "task": payload.text(record.task),
        "family": payload.text(str(record.meta.get("family", ""))),
        "ok": record.ok,
        "end": record.end.value,
        "verdict": None if record.verdict is None else record.verdict.error_type or "ok",
        "detail": payload.text("" if record.verdict is None else str(record.verdict.detail)),
        "probe": None
        if probe is None
        else [
            probe.error.value,
            payload.text(_call_text(probe.call.name, probe.call.arguments)),
            probe.next_call_right,
        ],
        **_after_errors(payload, error_events(record)),
        "turns": [
            _turn(
                payload,
                turn.text,
                [(one.text, {"kind": one.kind.value, "error": one.error}) for one in turn.outcomes],
                [failure.detail for failure in turn.failures],
            )
            for turn in record.turns
        ],
        "asked": [[place, payload.text(words)] for place, words in _asked(record)],
        "tags": tags,
    }


def _asked(record: EpisodeRecord) -> Iterator[tuple[int, str]]:
    """The messages of the policy that are the first of a user turn, each with what the user said there."""
    served = None
    for place, turn in enumerate(record.turns):
        if turn.user_turn != served and turn.user_turn < len(record.asked):
            yield place, record.asked[turn.user_turn]
        served = turn.user_turn


def _call_text(name: str, arguments: Mapping[str, Any]) -> str:
    inside = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())
    return f"{name}({inside})"


def _mark(
    items: Sequence[dict[str, Any]],
    seed: int,
    *,
    score: Callable[[dict[str, Any]], float],
    sound: Callable[[dict[str, Any]], bool],
) -> None:
    """Tag the best, the worst and some by lot; of equal ones the later, which a riper policy made."""
    judged = [item for item in items if sound(item)]
    ranked = sorted(judged, key=score)
    lowest = sorted(judged, key=lambda item: -score(item))[-PICKED:]
    lot = random.Random(seed).sample(judged, min(PICKED, len(judged)))
    for tag, picked in (("best", ranked[-PICKED:]), ("worst", lowest), ("random", lot)):
        for item in picked:
            item["tags"].append(tag)

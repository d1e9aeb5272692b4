"""Our own held-out episodes and fixed-error probes, the same for every arm, and how a policy plays them.

It plays for real: it sees every true error text, may retry, and decides when it is done.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from fission_grpo.call_matching import call_key
from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.transcript import Transcript
from fission_grpo.environments.base import Environments
from fission_grpo.errors import ConfigError
from fission_grpo.evaluation.records import EpisodeRecord, probed, read_records, record_episode, write_records
from fission_grpo.files import read_json, write_text
from fission_grpo.policy.base import Policy, Sampling
from fission_grpo.rollout import Horizon, RolloutSettings, Trajectory, render_prompts, rollout, start_from
from fission_grpo.tasks.probe import ProbeItem, ProbeKind, probe_items
from fission_grpo.tasks.synthesis.api_sets import set_of
from fission_grpo.tasks.synthesis.families import SEEN_APIS
from fission_grpo.tasks.synthesis.generator import Mixture, Split, synthesise
from fission_grpo.types import Task, ToolCall, Turn, Verdict

AT_ONCE = 1024
"""Worlds that exist side by side: bounds memory."""

PARTS = ("episodes", "transfer", "mixed", "precondition")
"""Of a suite, and of the evaluation of it."""
COMPLETE = "complete.json"
"""Written last: whoever finds it finds all parts."""
HIDDEN_SHARE = 4
"""Tasks drawn for each precondition probe item: only some worlds miss something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Tasks and probes of one split."""

    episodes: tuple[Task, ...]
    transfer: tuple[Task, ...]
    """Episodes on an API that was never trained on."""
    mixed: tuple[ProbeItem, ...]
    """All kinds of injected errors, balanced over error classes."""
    precondition: tuple[ProbeItem, ...]
    """The natural premature call only."""


@lru_cache(maxsize=2)
def build_suite(
    *,
    split: Split = Split.HELDOUT,
    seed: int = 0,
    size: int = 300,
    apis: tuple[str, ...] = SEEN_APIS,
    mixture: Mixture | None = None,
    tools: tuple[int, int] = (6, 8),
) -> Suite:
    """A function of its arguments: every arm, everywhere, meets the same suite. A process builds it once.

    Args:
        split: HELDOUT is what is reported; VALIDATION is for choosing settings, and holds no transfer slice.
        size: episodes, and items of each probe; the transfer slice has a third as many.
    """
    episodes = synthesise(seed, size, apis=apis, split=split, mixture=mixture, tools=tools)
    to_probe = synthesise(seed + 1, size * HIDDEN_SHARE, apis=apis, split=split, mixture=mixture, tools=tools)
    transfer: list[Task] = []
    if split is Split.HELDOUT:
        unseen = set_of(apis).heldout
        transfer = synthesise(seed, size // 3, apis=unseen, split=split, mixture=mixture, tools=tools)
    return Suite(
        episodes=tuple(episodes),
        transfer=tuple(transfer),
        mixed=tuple(probe_items(to_probe[:size], seed, ProbeKind.MIXED)),
        precondition=tuple(islice(probe_items(to_probe, seed, ProbeKind.PRECONDITION), size)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All records of one policy on one suite."""

    episodes: tuple[EpisodeRecord, ...]
    transfer: tuple[EpisodeRecord, ...] = ()
    mixed: tuple[EpisodeRecord, ...] = ()
    precondition: tuple[EpisodeRecord, ...] = ()

    @property
    def parts(self) -> dict[str, tuple[EpisodeRecord, ...]]:
        """The records by the name of their part."""
        return {part: getattr(self, part) for part in PARTS}

    def save(self, folder: Path) -> None:
        """One JSONL file for each part."""
        save_parts(folder, self.parts)

    @staticmethod
    def load(folder: Path) -> Evaluation:
        """The parts that a complete evaluation has: all, or of tasks of the user's own its episodes.

        Raises:
            ConfigError: its list of parts cannot be read, or names a part that is not there.
            DataError: a record cannot be read.
        """
        remedy = "restore it or evaluate again"
        held = read_json(folder / COMPLETE, PARTS[0], remedy=remedy)
        places = {part: folder / f"{part}.jsonl" for part in PARTS if part in held}
        if missing := [place for place in places.values() if not place.exists()]:
            raise ConfigError(f"{folder / COMPLETE} lists {missing[0].stem}, and {missing[0]} is not there; {remedy}")
        return Evaluation(**{part: read_records(place) for part, place in places.items()})


def save_parts(folder: Path, parts: Mapping[str, Sequence[EpisodeRecord]]) -> None:
    """One JSONL file for each part, then how many there are of each; in between, the folder is not complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / COMPLETE).unlink(missing_ok=True)
    for part, records in parts.items():
        write_records(folder / f"{part}.jsonl", records)
    write_text(folder / COMPLETE, json.dumps({part: len(records) for part, records in parts.items()}) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """A policy with everything it needs to be evaluated, greedily."""

    policy: Policy
    chat: ChatFormat
    environments: Environments
    rollouts: RolloutSettings

    def play(
        self,
        tasks: Sequence[Task],
        *,
        begin: Callable[[], None] = lambda: None,
        report: Callable[[int], None] = lambda done: None,
        ended: Callable[[int, Trajectory], None] | None = None,
    ) -> list[Trajectory]:
        """One trajectory for each task, through all of its user turns.

        Args:
            begin: called when every prompt is known to fit, before anything is played.
            report: told how many more are done.
            ended: told each trajectory as soon as it has ended, with the place of its task.
        Raises:
            ConfigError: a prompt leaves no room for an answer; nothing has been played then.
        """
        most = self.rollouts.max_tokens
        prompts = render_prompts(tasks, chat=self.chat, window=self.policy.context_window, max_tokens=most)
        begin()
        trajectories: list[Trajectory] = []
        for first in range(0, len(tasks), AT_ONCE):
            batch = tasks[first : first + AT_ONCE]
            trajectories += rollout(
                [
                    start_from(task, Transcript(prompt), task.messages, environments=self.environments)
                    for task, prompt in zip(batch, prompts[first : first + AT_ONCE], strict=True)
                ],
                policy=self.policy,
                chat=self.chat,
                sampling=Sampling(max_tokens=most, temperature=0.0),
                horizons=[Horizon.EPISODE] * len(batch),
                max_turns=self.rollouts.max_turns,
                seed=0,
                report=report,
                ended=None if ended is None else partial(_shifted, ended, first),
            )
        return trajectories


def _shifted(ended: Callable[[int, Trajectory], None], first: int, place: int, trajectory: Trajectory) -> None:
    ended(first + place, trajectory)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedItem:
    """One episode of an evaluation."""

    part: str
    task: Task
    probe: ProbeItem | None = None
    """An injected error that it continues after."""

    @property
    def key(self) -> tuple[str, str]:
        """Part and task."""
        return self.part, self.task.id

    def record(self, trajectory: Trajectory) -> EpisodeRecord:
        """What is kept of it; without a world, the last message is judged by the calls that are right next."""
        verdict = trajectory.verdict
        if self.task.world is None and trajectory.valid:
            verdict = _against_target(trajectory.turns, self.task.target)
        record = record_episode(self.task, trajectory.turns, verdict=verdict, end=trajectory.end)
        return probed(self.probe, record) if self.probe else record


def _against_target(turns: Sequence[Turn], target: Sequence[ToolCall]) -> Verdict:
    """Whether the calls of the last message are those of the target, in any order; numbers are compared by value."""
    wanted = Counter(map(call_key, target))
    if turns and not turns[-1].parsed.failures and Counter(map(call_key, turns[-1].parsed.calls)) == wanted:
        return Verdict(ok=True, matched=1.0)
    return Verdict(ok=False, error_type="other_than_gold", detail=f"wanted {', '.join(sorted(wanted)) or 'words'}")


def suite_items(suite: Suite) -> list[PlayedItem]:
    """All of a suite; probes are continuations: is the next call right, and does the policy get there in the end?"""
    return [
        *(PlayedItem(part="episodes", task=task) for task in suite.episodes),
        *(PlayedItem(part="transfer", task=task) for task in suite.transfer),
        *(PlayedItem(part="mixed", task=item.task, probe=item) for item in suite.mixed),
        *(PlayedItem(part="precondition", task=item.task, probe=item) for item in suite.precondition),
    ]


def play_items(
    items: Sequence[PlayedItem],
    player: Player,
    *,
    held: Mapping[tuple[str, str], EpisodeRecord] = MappingProxyType({}),
    begin: Callable[[], None] = lambda: None,
    keep: Callable[[str, EpisodeRecord], None] = lambda part, record: None,
    report: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """All in one go, so that no part waits for the slowest dialogue of another; see `Player.play`.

    Args:
        held: records that are there already, by `PlayedItem.key`; these are not played.
        keep: told each record as soon as its episode has ended.
    """
    missing = [item for item in items if item.key not in held]
    records = {item.key: held[item.key] for item in items if item.key in held}

    def ended(place: int, trajectory: Trajectory) -> None:
        item = missing[place]
        records[item.key] = item.record(trajectory)
        keep(item.part, records[item.key])

    report(len(records))
    player.play([item.task for item in missing], begin=begin, report=report, ended=ended)
    return Evaluation(
        **{part: tuple(records[item.key] for item in items if item.part == part) for part in PARTS},
    )

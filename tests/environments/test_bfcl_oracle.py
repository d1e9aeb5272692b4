"""Our texts and verdicts equal the official ones, on every gold answer and on thousands of wrong ones."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest

pytest.importorskip("bfcl_eval", reason="the official benchmark is not installed")

from bfcl_corruptions import CALL_CORRUPTIONS, EPISODE_CORRUPTIONS, Turns, corrupted, played
from bfcl_official import official_run

from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.environments.bfcl.verdict import TurnError
from fission_grpo.types import Task, Verdict

pytestmark = pytest.mark.early

CORRUPTED_PER_ENTRY = 5
"""800 entries: 4,000 corrupted episodes."""
_SET = re.compile(r"Must be one of \{.*?\}")
"""Order of a set of strings differs from process to process."""


def ours(environment: BfclEnvironment, task: Task, turns: Turns) -> tuple[Verdict, list[list[str]]]:
    environment.reset(task)
    texts = []
    for turn, calls in enumerate(turns):
        if turn:
            environment.next_turn()
        texts.append([environment.execute(call).text for call in calls])
    return environment.score(), texts


def asked(kind: str, task: Task, turns: Turns) -> str:
    texts = kind == "gold" or task.meta["scenario"] % 3 == 0
    return json.dumps({"category": task.meta["category"], "id": task.id, "turns": played(turns), "texts": texts})


@dataclass(frozen=True, slots=True)
class Compared:
    """One episode, judged twice."""

    kind: str
    """Of corruption; "gold" for the 800 gold answers."""
    task: Task
    verdict: Verdict
    texts: list[list[str]]
    official: dict[str, Any]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> list[Compared]:
    rng = random.Random(20260323)
    tasks = [task for category in BfclCategory for task in bfcl_entries(category)]
    episodes = [("gold", task, [list(calls) for calls in task.gold]) for task in tasks]
    for _ in range(CORRUPTED_PER_ENTRY):
        episodes += [(kind, task, turns) for task in tasks for kind, turns in [corrupted(rng, task)]]
    environment = BfclEnvironment()
    questions = [asked(*episode) for episode in episodes]
    with official_run("bfcl_official_checker.py", questions, tmp_path_factory.mktemp("bfcl")) as answers:
        mine = [ours(environment, task, turns) for _, task, turns in episodes]
        theirs = answers()
    return [
        Compared(kind, task, verdict, texts, record)
        for (kind, task, _), (verdict, texts), record in zip(episodes, mine, theirs, strict=True)
    ]


def test_all_800_gold_answers_are_right(compared: list[Compared]) -> None:
    gold = [one for one in compared if one.kind == "gold"]
    assert len(gold) == 800
    assert all(one.verdict == Verdict(ok=True, matched=1.0) and one.official["ok"] for one in gold)


def test_verdict_and_error_type_equal_the_official_ones(compared: list[Compared]) -> None:
    differing = [
        (one.kind, one.task.id, one.verdict, one.official["error"])
        for one in compared
        if (one.verdict.ok, one.verdict.error_type) != (one.official["ok"], one.official["error"])
    ]
    assert differing == []
    assert len(compared) == 800 * (1 + CORRUPTED_PER_ENTRY)


def test_texts_equal_the_official_ones_byte_for_byte(compared: list[Compared]) -> None:
    pairs = [
        (one.task.id, mine, theirs)
        for one in compared
        if one.official["texts"] is not None
        for mine, theirs in zip(chain(*one.texts), chain(*one.official["texts"]), strict=True)
    ]
    assert len(pairs) > 10_000
    assert [pair for pair in pairs if pair[1] != pair[2] and _SET.sub("", pair[1]) != _SET.sub("", pair[2])] == []


def test_the_corruptions_reach_every_kind_and_every_verdict(compared: list[Compared]) -> None:
    assert {one.kind for one in compared} == {"gold", *CALL_CORRUPTIONS, *EPISODE_CORRUPTIONS}
    verdicts = Counter(one.verdict.error_type for one in compared if one.kind != "gold")
    assert set(verdicts) == {"", *map(str, TurnError)}
    assert min(verdicts.values()) > 50

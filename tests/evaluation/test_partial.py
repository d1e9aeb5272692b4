"""An evaluation on tasks of ours or of the user's can be stopped at any moment, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_policies import DONE, ENVIRONMENTS, chat, script

from fission_grpo.commands.heldout import play_into
from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.errors import DataError, EnvironmentFault
from fission_grpo.evaluation.heldout import Evaluation, PlayedItem, Player, build_suite, play_items, suite_items
from fission_grpo.evaluation.partial import PartialEvaluation
from fission_grpo.evaluation.records import read_records
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.rollout import RolloutSettings
from fission_grpo.tasks.synthesis.generator import Split
from fission_grpo.types import Task

ASKED = {"model": "scripted"}
ITEMS = suite_items(build_suite(split=Split.HELDOUT, seed=3, size=3, apis=("TwitterAPI",), tools=(2, 3)))


class Stopped(Exception):  # noqa: N818 - it is no error
    """As a kill, from inside."""


def player(*, stop_after: int | None = None) -> tuple[Player, list[str]]:
    """One that says that it is done, and notes each prompt; stopped where one more would be asked for."""
    prompts: list[str] = []
    done: Callable[[str], str] = script(DONE)

    def answer(text: str) -> str:
        if len(prompts) == stop_after:
            raise Stopped
        prompts.append(text)
        return done(text)

    policy = ScriptedPolicy(chat().renderer.tokenizer, answer, eos_id=chat().eos_id)
    return Player(policy=policy, chat=chat(), environments=ENVIRONMENTS, rollouts=RolloutSettings()), prompts


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    play_into(folder, ITEMS, player()[0], asked=ASKED, resume=False)
    return folder


def test_every_item_of_a_suite_has_a_key_of_its_own() -> None:
    assert len({item.key for item in ITEMS}) == len(ITEMS) == 3 + 1 + 3 + 3


@pytest.mark.parametrize("played", range(len(ITEMS)))
def test_what_is_played_is_kept_wherever_it_was_stopped(tmp_path: Path, whole: Path, played: int) -> None:
    with pytest.raises(Stopped):
        play_into(tmp_path, ITEMS, player(stop_after=played)[0], asked=ASKED, resume=False)
    assert sum(len(read_records(file)) for file in tmp_path.glob("*.partial.jsonl")) == played
    assert not (tmp_path / "complete.json").exists()
    going_on, prompts = player()
    found = play_into(tmp_path, ITEMS, going_on, asked=ASKED, resume=True)
    assert len(prompts) == len(ITEMS) - played
    assert files(tmp_path) == files(whole)
    assert found == Evaluation.load(whole) == play_items(ITEMS, player()[0])


def test_stopped_again_and_again_it_comes_to_its_end(tmp_path: Path, whole: Path) -> None:
    for _ in ITEMS:
        try:
            play_into(tmp_path, ITEMS, player(stop_after=1)[0], asked=ASKED, resume=True)
        except Stopped:
            continue
    assert files(tmp_path) == files(whole)


def test_half_a_line_is_played_again(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(Stopped):
        play_into(tmp_path, ITEMS, player(stop_after=2)[0], asked=ASKED, resume=False)
    log = tmp_path / "episodes.partial.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    going_on, prompts = player()
    with pytest.warns(UserWarning, match="the last line was cut off"):
        play_into(tmp_path, ITEMS, going_on, asked=ASKED, resume=True)
    assert len(prompts) == len(ITEMS) - 1
    assert files(tmp_path) == files(whole)


def test_a_damaged_line_is_named_and_nothing_is_played(tmp_path: Path) -> None:
    (tmp_path / "episodes.partial.jsonl").write_text("no record\n")
    asked, prompts = player()
    with pytest.raises(DataError, match=r"episodes\.partial\.jsonl: 1 problem"):
        play_into(tmp_path, ITEMS, asked, asked=ASKED, resume=True)
    assert prompts == []


def test_a_finished_evaluation_stays_until_the_next_one_is_whole(tmp_path: Path, whole: Path) -> None:
    play_into(tmp_path, ITEMS, player()[0], asked=ASKED, resume=False)
    with pytest.raises(Stopped):
        play_into(tmp_path, ITEMS, player(stop_after=4)[0], asked=ASKED, resume=False)
    assert Evaluation.load(tmp_path) == Evaluation.load(whole)


def test_of_a_finished_evaluation_nothing_is_played_again(tmp_path: Path, whole: Path) -> None:
    play_into(tmp_path, ITEMS, player()[0], asked=ASKED, resume=False)
    again, prompts = player()
    play_into(tmp_path, ITEMS, again, asked=ASKED, resume=True)
    assert prompts == []
    assert files(tmp_path) == files(whole)


def test_an_episode_that_a_fault_of_ours_broke_is_played_again(tmp_path: Path) -> None:
    (item, *_) = ITEMS
    broken = replace(player()[0], environments={"bfcl": BrokenEnvironment})
    found = play_into(tmp_path, [item], broken, asked=ASKED, resume=False)
    assert found.episodes[0].harness_fault
    going_on, prompts = player()
    assert not play_into(tmp_path, [item], going_on, asked=ASKED, resume=True).episodes[0].harness_fault
    assert len(prompts) == 1


class BrokenEnvironment(BfclEnvironment):
    """One whose worlds cannot be built today."""

    def reset(self, task: Task) -> None:
        raise EnvironmentFault("no world today")


def test_tasks_of_the_users_own_are_one_part(tmp_path: Path) -> None:
    items = [PlayedItem(part="episodes", task=item.task) for item in ITEMS[:2]]
    play_into(tmp_path, items, player()[0], asked=ASKED, resume=False)
    assert sorted(files(tmp_path)) == ["complete.json", "episodes.jsonl", "settings.json"]
    assert PartialEvaluation(tmp_path, resume=False).held == {}

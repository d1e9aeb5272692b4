"""Synthesised tasks prove themselves, are a function of the seed, and keep their splits apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fission_grpo.environments.bfcl.environment import BfclEnvironment, bfcl_tools
from fission_grpo.environments.schema import call_problems
from fission_grpo.errors import ConfigError
from fission_grpo.tasks.dialogue import premature_calls
from fission_grpo.tasks.gold_chain import canonical, chain_of, fingerprint, proves_itself, replays, texts_of
from fission_grpo.tasks.synthesis.families import HELDOUT_APIS, SEEN_APIS
from fission_grpo.tasks.synthesis.generator import Mixture, Split, synthesise
from fission_grpo.tasks.synthesis.overlap import SHORTEST_CHAIN, Shared, official_overlap, overlap
from fission_grpo.types import ErrorClass, Task, ToolCall

EPISODES = Mixture(two_turns=0.3)


@pytest.fixture(scope="module")
def train() -> list[Task]:
    return synthesise(0, 300, mixture=EPISODES)


@pytest.fixture(scope="module")
def splits(train: list[Task]) -> dict[str, list[Task]]:
    return {
        "train": train,
        "validation": synthesise(0, 120, split="validation", mixture=EPISODES),
        "heldout": synthesise(0, 120, split="heldout", mixture=EPISODES),
        "heldout_api": synthesise(0, 60, split="heldout", apis=HELDOUT_APIS, mixture=EPISODES),
    }


def test_every_task_proves_itself(splits: dict[str, list[Task]]) -> None:
    environment = BfclEnvironment()
    assert all(proves_itself(environment, task) for tasks in splits.values() for task in tasks)


def test_ablation_needs_every_call(train: list[Task]) -> None:
    environment = BfclEnvironment()
    long = [task for task in train if len(chain_of(task)) > 1]
    for task in long[:60]:
        assert replays(environment, task)
        assert not any(replays(environment, task, without=i) for i in range(len(chain_of(task))))


def test_the_ablation_filter_rejects_a_filler_call() -> None:
    drawn = synthesise(0, 60, apis=["VehicleControlAPI"])
    task = next(task for task in drawn if task.meta["family"] == "fuel")
    look = ToolCall(name="displayCarStatus", arguments={"option": "battery"})
    # The official checker counts answers of all turns so far: the second look fetches nothing that the first did not.
    padded = replace(task, tools=bfcl_tools(task.meta["apis"]), gold=((look,), (look, *task.gold[0])), followups=("",))
    environment = BfclEnvironment()
    assert replays(environment, padded)
    assert replays(environment, padded, without=1)
    assert not proves_itself(environment, padded)
    assert proves_itself(environment, replace(padded, gold=((look,), task.gold[0])))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), split=st.sampled_from(list(Split)))
def test_synthesis_is_a_function_of_its_arguments(seed: int, split: Split) -> None:
    assert synthesise(seed, 6, split=split, mixture=EPISODES) == synthesise(seed, 6, split=split, mixture=EPISODES)


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert synthesise(4, 30)[:10] == synthesise(4, 10)


def test_seeds_give_other_worlds() -> None:
    assert not {offence for offence in overlap(synthesise(1, 40), synthesise(2, 40)) if offence.shared is Shared.WORLD}


def keys_of(task: Task) -> set[str]:
    assert task.world is not None
    keys = {"\n".join(texts_of(task)), canonical(task.world.config)}
    return keys | ({canonical(chain_of(task))} if len(chain_of(task)) >= SHORTEST_CHAIN else set())


def test_splits_share_no_text_no_world_and_no_long_chain(splits: dict[str, list[Task]]) -> None:
    owners: dict[str, str] = {}
    for split, tasks in splits.items():
        for task in tasks:
            for key in keys_of(task):
                assert owners.setdefault(key, split) == split


def test_texts_and_ids_are_unique_within_a_split(splits: dict[str, list[Task]]) -> None:
    for tasks in splits.values():
        assert len({texts_of(task) for task in tasks}) == len(tasks)
        assert len({task.id for task in tasks}) == len(tasks)


def test_heldout_splits_use_heldout_wordings(splits: dict[str, list[Task]]) -> None:
    assert {task.meta["wording"] for task in splits["train"]} == set(range(6))
    assert min(task.meta["wording"] for task in splits["heldout"]) >= 6


def test_the_heldout_api_is_only_for_the_heldout_split(splits: dict[str, list[Task]]) -> None:
    assert {task.meta["slice"] for task in splits["heldout_api"]} == {"heldout_api"}
    assert {task.meta["slice"] for task in splits["heldout"]} == {"seen_api"}
    for split in ("train", "validation"):
        with pytest.raises(ConfigError, match="MessageAPI is held out"):
            synthesise(0, 1, apis=["MessageAPI"], split=split)


def test_nothing_is_shared_with_the_official_entries(splits: dict[str, list[Task]]) -> None:
    assert official_overlap(task for tasks in splits.values() for task in tasks) == []


def test_targets_and_gold_fit_the_tools_on_offer(splits: dict[str, list[Task]]) -> None:
    for task in (task for tasks in splits.values() for task in tasks):
        assert task.target == task.gold[0][:1]
        assert all(not call_problems(call, task.tools) for call in chain_of(task))
        names = [tool["function"]["name"] for tool in task.tools]
        assert len(set(names)) == len(names) <= 10
        assert len(names) >= 6


def test_the_mixture_is_met(train: list[Task]) -> None:
    longest = Counter(min(max(map(len, task.gold)), 3) for task in train)
    shares = [longest[size] / len(train) for size in (1, 2, 3)]
    # 300 draws from (.45, .35, .20): three standard errors are .086, .083, .069.
    assert shares == pytest.approx([0.45, 0.35, 0.20], abs=0.086)
    assert 0.22 < sum(len(task.gold) == 2 for task in train) / len(train) < 0.38
    assert all(len(turn) <= 4 for task in train for turn in task.gold)
    assert {api for task in train for api in task.meta["apis"]} == set(SEEN_APIS)


def test_turns_match_user_messages(train: list[Task]) -> None:
    assert all(len(task.gold) == 1 + len(task.followups) for task in train)


def test_hidden_tasks_answer_the_premature_call_with_an_official_error(train: list[Task]) -> None:
    hidden = [task for task in train if task.meta["hidden"]]
    assert len(hidden) > 80
    environment = BfclEnvironment()
    for task in hidden:
        found = premature_calls(task, environment=environment)
        assert found, task
        for position, call in found:
            assert call in task.gold[position.turn]


def test_premature_errors_are_about_the_state_of_the_world(train: list[Task]) -> None:
    errors: Counter[ErrorClass | None] = Counter()
    environment = BfclEnvironment()
    for task in (task for task in train if task.meta["hidden"]):
        position, call = premature_calls(task, environment=environment)[0]
        if position.turn == 0 and position.done == 0:
            environment.reset(task)
            errors[environment.execute(call).error] += 1
    assert set(errors) == {ErrorClass.PRECONDITION, ErrorClass.NOT_FOUND}


def test_hidden_state_is_not_in_the_prompt() -> None:
    # One request, two worlds: the same wording can be met either way, so no wording may give the state away.
    tasks = synthesise(11, 300, mixture=Mixture(two_parts=(0.0, 0.0)))
    logins = [task for task in tasks if any(t["function"]["name"] == "trading_login" for t in task.tools)]
    by_wording: dict[tuple[str, int], set[bool]] = {}
    for task in logins:
        by_wording.setdefault((task.meta["family"], task.meta["wording"]), set()).add(task.meta["hidden"])
    assert {True, False} in by_wording.values()


def test_impossible_requests_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="unknown APIs"):
        synthesise(0, 1, apis=["WeatherAPI"])
    with pytest.raises(ConfigError, match="unknown APIs"):
        synthesise(0, 1, apis=[])
    with pytest.raises(ConfigError, match="shares must lie"):
        Mixture(two_turns=1.5)
    with pytest.raises(ConfigError, match="add up to 1"):
        Mixture(calls=(0.5, 0.5, 0.5))


def test_fingerprints_are_of_values_not_of_writing() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})

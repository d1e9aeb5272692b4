"""Tasks over the office: drawn by the same machinery as those over BFCL's classes, and with the same promises."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from fission_grpo.commands.data import check_file, make_tasks
from fission_grpo.environments.office.environment import office_environment
from fission_grpo.environments.schema import call_problems
from fission_grpo.environments.shipped import SHIPPED
from fission_grpo.errors import ConfigError
from fission_grpo.evaluation.heldout import build_suite
from fission_grpo.tasks.gold_chain import canonical, chain_of, proves_itself, replays, texts_of
from fission_grpo.tasks.probe import ProbeKind, probe_items
from fission_grpo.tasks.synthesis.api_sets import OFFICE_APIS, expand_sets, tools_by_name
from fission_grpo.tasks.synthesis.generator import Mixture, Split, synthesise
from fission_grpo.tasks.synthesis.lookalikes import lookalikes
from fission_grpo.tasks.synthesis.overlap import SHORTEST_CHAIN
from fission_grpo.tasks.training_set import SYNTHETIC, SyntheticSettings, training_set
from fission_grpo.types import ErrorClass, Task

SEEN = ("Calendar", "Mail", "Warehouse", "Bank")
EPISODES = Mixture(two_turns=0.3)
HARD = Mixture(calls=(0.0, 0.1, 0.6, 0.3), two_parts=(1.0, 1.0), two_apis=0.5, two_unmet=0.6, lookalikes=1.0)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Task]]:
    return {
        "train": synthesise(0, 80, apis=SEEN, mixture=EPISODES),
        "validation": synthesise(0, 40, apis=SEEN, split="validation", mixture=EPISODES),
        "heldout": synthesise(0, 40, apis=SEEN, split="heldout", mixture=EPISODES),
        "transfer": synthesise(0, 20, apis=("Staff",), split="heldout", mixture=EPISODES),
    }


@pytest.fixture(scope="module")
def hard() -> list[Task]:
    return synthesise(2, 40, apis=SEEN, mixture=HARD, tools=(10, 11))


def worlds_of(task: Task) -> list[str]:
    assert task.world is not None
    return [canonical(state) for state in task.world.config["initial"].values()]


def test_every_task_proves_itself(splits: dict[str, list[Task]], hard: list[Task]) -> None:
    environment = office_environment()
    tasks = [*hard, *(task for tasks in splits.values() for task in tasks)]
    assert {task.world.environment for task in tasks if task.world} == {"office"}
    assert all(proves_itself(environment, task) for task in tasks)
    assert all(not call_problems(call, task.tools) for task in tasks for call in chain_of(task))


def test_splits_share_no_text_no_world_no_wording_and_no_long_chain(splits: dict[str, list[Task]]) -> None:
    owners: dict[str, str] = {}
    for split, tasks in splits.items():
        for task in tasks:
            keys = {"\n".join(texts_of(task)), *worlds_of(task)}
            keys |= {canonical(chain_of(task))} if len(chain_of(task)) >= SHORTEST_CHAIN else set()
            assert all(owners.setdefault(key, split) == split for key in keys)
    assert {task.meta["wording"] for task in splits["train"]} == set(range(6))
    assert min(task.meta["wording"] for task in splits["heldout"]) >= 6
    assert {task.meta["slice"] for task in splits["transfer"]} == {"heldout_api"}


def test_tasks_are_a_function_of_the_seed() -> None:
    first = synthesise(4, 12, apis=SEEN, mixture=EPISODES)
    assert first[:5] == synthesise(4, 5, apis=SEEN, mixture=EPISODES)
    others = synthesise(5, 12, apis=SEEN, mixture=EPISODES)
    assert not {shared for task in first for shared in worlds_of(task)} & {
        w for task in others for w in worlds_of(task)
    }


def test_half_of_what_is_needed_is_missing(splits: dict[str, list[Task]]) -> None:
    train = splits["train"]
    hidden = [task for task in train if task.meta["hidden"]]
    assert 0.3 < len(hidden) / len(train) < 0.75  # a half of one setup, more where a request has several
    premature = list(probe_items(train, 0, ProbeKind.PRECONDITION))
    assert len(premature) == len(hidden)
    assert {item.error for item in premature} <= {ErrorClass.PRECONDITION, ErrorClass.NOT_FOUND}


def test_hard_tasks_have_two_parts_lacks_and_lookalikes(hard: list[Task]) -> None:
    assert all("+" in task.meta["family"] for task in hard)
    assert {len(task.meta["apis"]) for task in hard} == {1, 2}
    assert sum(len(chain_of(task)) >= 4 for task in hard) > len(hard) / 2
    paying = [task for task in hard if "carry_out" in task.meta["family"]]
    assert paying
    for task in paying:  # there is room for the nearest of each needed tool
        assert {tool["function"]["name"] for tool in task.tools} & {"prepare_payment", "revoke_payment"}


def test_the_nearest_wrong_tool_looks_right() -> None:
    tools = tools_by_name("Bank")
    for right, wrong in {"block_card": "unblock_card", "add_payee": "find_payee"}.items():
        others = [tool for name, tool in tools.items() if name != right]
        assert next(lookalikes([(tools[right], "", others)])) == wrong


def test_errors_can_be_put_into_tasks(hard: list[Task]) -> None:
    items = list(probe_items(hard, 0))
    assert len(items) == len(hard)
    met = Counter(item.error for item in items)
    assert set(met) >= {error for error in ErrorClass if "E1" <= error <= "E6"}
    environment = office_environment()
    for item in items:  # the error does no harm: what is right next and all that follows still solves the task
        assert replays(environment, replace(item.task, messages=item.task.messages[:1]))


def test_a_repair_made_twice_is_a_conflict_and_does_no_harm(hard: list[Task]) -> None:
    environment, conflicts = office_environment(), 0
    for task in hard:
        environment.reset(task)
        for call in chain_of(task):
            environment.execute(call)
            if call.name in ("open_calendar", "connect_mailbox", "clock_on", "verify_customer"):
                again = environment.execute(call)
                assert again.error is ErrorClass.CONFLICT
                conflicts += 1
        assert environment.score().ok
    assert conflicts > 20


def test_the_suite_of_a_run_on_the_office_is_of_the_office() -> None:
    apis = SyntheticSettings(apis=("office",)).apis
    suite = build_suite(split=Split.HELDOUT, seed=0, size=6, apis=apis)
    assert {api for task in suite.episodes for api in task.meta["apis"]} <= set(SEEN)
    assert {api for task in suite.transfer for api in task.meta["apis"]} == {"Staff"}
    assert len(suite.mixed) == len(suite.precondition) == 6


def test_the_name_of_a_set_stands_for_its_worlds() -> None:
    assert SyntheticSettings(apis=("office",)).apis == expand_sets(["office"]) == SEEN
    assert set(OFFICE_APIS) - set(SEEN) == {"Staff"}
    assert SyntheticSettings(apis=("bfcl",)) == SyntheticSettings()
    with pytest.raises(ValidationError, match="choose those of one set"):
        SyntheticSettings(apis=("TradingBot", "Bank"))
    with pytest.raises(ConfigError, match="Staff is held out"):
        synthesise(0, 1, apis=["Staff"])


def test_training_may_begin_at_any_decision_and_behind_errors() -> None:
    synthetic = SyntheticSettings(apis=("office",), count=10, decision_positions=True, continuations=True)
    tasks = training_set(SYNTHETIC, synthetic, environments=SHIPPED)
    assert len(tasks) > 20
    assert any("!" in task.id for task in tasks)
    environment = office_environment()
    for task in tasks:  # what is recorded is replayed
        environment.reset(task)


def test_a_file_of_office_tasks_is_made_and_checked(tmp_path: Path) -> None:
    made = make_tasks(tmp_path / "office.jsonl", split=Split.VALIDATION, count=8, apis=expand_sets(["office"]))
    lines = [json.loads(line) for line in made.file.read_text("utf-8").splitlines()]
    assert {line["world"]["environment"] for line in lines} == {"office"}
    assert check_file(made.file).problems == ()

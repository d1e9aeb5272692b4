"""Families keep their promises: values are named literally, held-out wordings use known words, habits are harmless."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest

from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.environments.shipped import environment_for
from fission_grpo.tasks.synthesis.api_sets import OFFICE_APIS, expand_sets, set_of
from fission_grpo.tasks.synthesis.families import APIS, OPTIONAL_APIS, SEEN_APIS
from fission_grpo.tasks.synthesis.families.family import InitialState, RejectedDraw, RequestGenerator, Wordings, literal
from fission_grpo.tasks.synthesis.generator import synthesise
from fission_grpo.types import OutcomeKind, Task, ToolCall

EVERY_API = {**APIS, **OFFICE_APIS}
FAMILIES = [
    pytest.param(api, generator, id=f"{api}-{generator.name}")
    for api in EVERY_API
    for generator in EVERY_API[api].generators
]
WORDINGS = [
    pytest.param(wordings, id=name)
    for api in EVERY_API
    for generator in EVERY_API[api].generators
    for name, wordings in [
        (generator.name, generator.wordings),
        *((setup.name, setup.notes) for setup in generator.setups),
    ]
]


OFFICE_SEEN = expand_sets(["office"])


def words_of(template: str) -> set[str]:
    return set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", template.lower())))


def slots_of(template: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", template))


@pytest.mark.parametrize("wordings", WORDINGS)
def test_heldout_wordings_are_new_sentences_of_known_words(wordings: Wordings) -> None:
    known = set().union(*map(words_of, wordings.train))
    assert len(wordings.train) >= 6
    assert len(wordings.heldout) >= 2
    assert not set(wordings.train) & set(wordings.heldout)
    assert all(words_of(template) <= known for template in wordings.heldout)


@pytest.mark.parametrize("wordings", WORDINGS)
def test_all_wordings_of_a_meaning_name_the_same_values(wordings: Wordings) -> None:
    assert len({frozenset(slots_of(template)) for template in wordings.train + wordings.heldout}) == 1


def test_no_heldout_wording_is_a_training_wording_of_a_sibling() -> None:
    apis = (*SEEN_APIS, *OPTIONAL_APIS, *OFFICE_APIS)
    generators = [generator for api in apis for generator in EVERY_API[api].generators]
    train = {template for generator in generators for template in generator.wordings.train}
    heldout = {template for generator in generators for template in generator.wordings.heldout}
    assert not train & heldout


@pytest.mark.parametrize("api, generator", FAMILIES)
def test_every_wording_can_be_filled_from_every_draw(api: str, generator: RequestGenerator) -> None:
    filled = 0
    for seed in range(20):
        rng = Random(seed)
        initial = InitialState(rng=rng, state=EVERY_API[api].initial_state(rng))
        try:
            draw = generator.draw(initial)
        except RejectedDraw:
            continue
        slots = {key: literal(value) for key, value in draw.slots.items()}
        for setup in generator.setups:
            fix = setup.arrange(initial, draw, unmet := rng.random() < 0.5)
            assert unmet or not fix.calls
            for template in setup.notes.train + setup.notes.heldout:
                assert "{" not in template.format(**{key: literal(value) for key, value in fix.slots.items()})
        for template in generator.wordings.train + generator.wordings.heldout:
            assert "{" not in template.format(**slots)
        filled += 1
    assert filled >= 10


@pytest.mark.parametrize("api", EVERY_API)
def test_every_family_of_an_api_gets_through(api: str) -> None:
    split = "heldout" if api in set_of([api]).heldout else "train"
    tasks = synthesise(3, 250 if api in APIS else 100, apis=[api], split=split)
    seen = {name for task in tasks for name in task.meta["family"].split("+")}
    assert seen == {generator.name for generator in EVERY_API[api].generators}


GIVEN_BY_CONVENTION = {"activate", "unlock", "door"}
"""Arguments whose value a request cannot copy: two truth values, and the list of all four doors in a repair."""


@pytest.mark.parametrize(
    "apis, split",
    [(SEEN_APIS, "train"), (OPTIONAL_APIS, "train"), (OFFICE_SEEN, "train"), (("Staff",), "heldout")],
    ids=["seen", "optional", "office", "staff"],
)
def test_every_value_of_a_request_is_in_its_text_or_in_an_earlier_answer(apis: tuple[str, ...], split: str) -> None:
    for task in synthesise(5, 250 if apis[0] in APIS else 100, apis=apis, split=split):
        told = task.messages[0]["content"]
        environment = environment_for(task)
        environment.reset(task)
        for call in task.gold[0]:
            for name, value in call.arguments.items():
                values = list(value.values()) if isinstance(value, dict) else [value]
                named = all(literal(v) in told or str(v) in told for v in values)
                assert named or name in GIVEN_BY_CONVENTION, (told, call)
            told += environment.execute(call).text


def premeditated(task: Task) -> Task | None:
    """The task with its login made first although nobody asked: None where there is no login in the text."""
    for tool, (first, second) in {
        "trading_login": ("username", "password"),
        "ticket_login": ("username", "password"),
        "authenticate_twitter": ("username", "password"),
    }.items():
        offered = any(t["function"]["name"] == tool for t in task.tools)
        told = re.findall(r'"([a-z]+\d\d)"', task.messages[0]["content"])
        if offered and len(told) >= 2 and not task.meta["hidden"] and "+" not in task.meta["family"]:
            return replace(task, target=(ToolCall(name=tool, arguments={first: told[0], second: told[1]}),))
    return None


def test_logging_in_when_already_logged_in_is_harmless() -> None:
    habits = [task for task in map(premeditated, synthesise(7, 300)) if task]
    assert len(habits) > 30
    environment = BfclEnvironment()
    for task in habits:
        environment.reset(task)
        for call in (*task.target, *task.gold[0]):
            assert environment.execute(call).kind is OutcomeKind.SUCCESS
        assert environment.score().ok, task


def test_locking_and_braking_when_ready_is_harmless() -> None:
    lock = ToolCall(
        name="lockDoors",
        arguments={"unlock": False, "door": ["driver", "passenger", "rear_left", "rear_right"]},
    )
    brake = ToolCall(name="pressBrakePedal", arguments={"pedalPosition": 1.0})
    ready = [t for t in synthesise(9, 200, apis=["VehicleControlAPI"]) if t.meta["family"] == "start"]
    assert len(ready) > 10
    environment = BfclEnvironment()
    for task in ready:
        environment.reset(task)
        for call in (lock, brake, task.gold[0][-1]):
            assert environment.execute(call).kind is OutcomeKind.SUCCESS
        assert environment.score().ok

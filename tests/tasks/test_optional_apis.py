"""TravelAPI and MathAPI: drawn only where they are named, and their worlds really say no."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from fission_grpo.environments.bfcl.environment import BFCL, BfclEnvironment, bfcl_tools
from fission_grpo.tasks.dialogue import premature_calls
from fission_grpo.tasks.gold_chain import canonical, proves_itself
from fission_grpo.tasks.synthesis.families import OPTIONAL_APIS, SEEN_APIS
from fission_grpo.tasks.synthesis.families.arithmetic import IMPERIAL, LENGTH_UNITS
from fission_grpo.tasks.synthesis.families.family import call
from fission_grpo.tasks.synthesis.families.travel import DOLLAR
from fission_grpo.tasks.synthesis.families.travel_world import AIRPORTS, ROUTES
from fission_grpo.tasks.synthesis.generator import Mixture, synthesise
from fission_grpo.tasks.synthesis.overlap import official_overlap
from fission_grpo.types import OutcomeKind, Task, ToolCall, ToolOutcome, World

ALONE = Mixture(two_parts=(0.0, 0.0))


@pytest.fixture(scope="module")
def travel() -> list[Task]:
    return synthesise(0, 300, apis=["TravelAPI"], mixture=ALONE)


@pytest.fixture
def bare() -> BfclEnvironment:
    """Both classes as they come, with no scenario."""
    environment = BfclEnvironment()
    world = World(environment=BFCL, config={"classes": list(OPTIONAL_APIS), "initial": {}})
    environment.reset(Task(id="bare", messages=(), tools=bfcl_tools(OPTIONAL_APIS), world=world))
    return environment


def of_family(tasks: list[Task], *names: str) -> list[Task]:
    found = [task for task in tasks if task.meta["family"] in names]
    assert len(found) >= 5
    return found


def outcomes(task: Task, calls: tuple[ToolCall, ...]) -> tuple[list[ToolOutcome], bool]:
    environment = BfclEnvironment()
    environment.reset(task)
    return [environment.execute(made) for made in calls], environment.score().ok


def told_login(task: Task) -> Mapping[str, Any]:
    """The arguments of a login that nobody needs, as the world and the text have them."""
    assert task.world is not None
    state = task.world.config["initial"]["TravelAPI"]
    names = {key: state[key] for key in ("user_first_name", "user_last_name")}
    return {"client_id": "x", "client_secret": "x", "refresh_token": "x", "grant_type": state["token_scope"], **names}


def test_named_nowhere_they_are_drawn_nowhere() -> None:
    assert not set(OPTIONAL_APIS) & set(SEEN_APIS)
    told = canonical(
        [[task.meta, task.messages, task.gold, task.world and task.world.config] for task in synthesise(0, 50)]
    )
    # Taken before these families existed: whoever trained or evaluated then gets the same tasks now.
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "b1f5361de7ea67e3"


@pytest.mark.parametrize("split", ["train", "validation", "heldout"])
@pytest.mark.parametrize("api", OPTIONAL_APIS)
def test_tasks_prove_themselves_and_share_nothing_with_the_official_entries(api: str, split: str) -> None:
    tasks = synthesise(1, 60, apis=[api], split=split, mixture=Mixture(two_turns=0.3))
    environment = BfclEnvironment()
    assert all(proves_itself(environment, task) for task in tasks)
    assert official_overlap(tasks) == []


def test_what_is_missing_is_answered_with_the_official_words(travel: list[Task]) -> None:
    texts: set[str] = set()
    environment = BfclEnvironment()
    for task in travel:
        for position, early in premature_calls(task, environment=environment):
            if position.done == 0:
                (first, *_), _ = outcomes(task, (early,))
                texts.add(first.text)
    said = " ".join(texts)
    for words in (
        "Token expired",
        "Invalid access token",
        "Card not registered",
        "Booking not found",
        "Exceeded budget limit",
        "Balance is less than budget limit",
    ):
        assert words in said


def test_an_unverified_traveller_is_turned_away_until_they_log_in(travel: list[Task]) -> None:
    hidden = [task for task in of_family(travel, "verify") if task.meta["hidden"]]
    assert hidden
    for task in hidden:
        (early,), _ = outcomes(task, task.gold[0][-1:])
        assert early.kind is OutcomeKind.SOFT_FAILURE
        (_, late), right = outcomes(task, task.gold[0])
        assert late.kind is OutcomeKind.SUCCESS
        assert right


def test_a_login_too_many_is_harmless(travel: list[Task]) -> None:
    accounts = ("balance", "balance_by_holder", "set_budget", "budget_by_currency", "invoice", "cancel", "verify")
    for task in (task for task in of_family(travel, *accounts) if not task.meta["hidden"]):
        made, right = outcomes(task, (call("authenticate_travel", **told_login(task)), *task.gold[0]))
        assert all(outcome.kind is OutcomeKind.SUCCESS for outcome in made)
        assert right, task


def test_a_card_registered_twice_is_refused_and_harmless(travel: list[Task]) -> None:
    for task in (task for task in of_family(travel, "book") if not task.meta["hidden"]):
        assert task.world is not None
        (book,) = task.gold[0]
        card = task.world.config["initial"]["TravelAPI"]["credit_card_list"][book.arguments["card_id"]]
        again = {key: value for key, value in card.items() if key != "balance"}
        register = call("register_credit_card", access_token=book.arguments["access_token"], **again)
        made, right = outcomes(task, (register, book))
        assert "Card already registered" in made[0].text
        assert right, task


def test_the_users_token_does_not_tell_whether_it_still_holds(travel: list[Task]) -> None:
    needy = [task for task in travel if any(t["function"]["name"] == "authenticate_travel" for t in task.tools)]
    met = {(task.meta["family"], task.meta["wording"]): set[bool]() for task in needy}
    for task in needy:
        met[task.meta["family"], task.meta["wording"]].add(task.meta["hidden"])
    assert sum(len(kinds) == 2 for kinds in met.values()) > 10


def test_the_tables_of_the_travel_agency_are_the_official_ones(bare: BfclEnvironment) -> None:
    for city, airport in AIRPORTS.items():
        assert f'"{airport}"' in bare.execute(call("get_nearest_airport_by_city", location=city)).text
    for start, goal in ROUTES:
        told = {"travel_from": start, "travel_to": goal, "travel_date": "2031-01-01", "travel_class": "economy"}
        assert bare.execute(call("get_flight_cost", **told)).kind is OutcomeKind.SUCCESS
    for currency, rate in DOLLAR.items():
        made = bare.execute(call("compute_exchange_rate", base_currency="USD", target_currency=currency, value=1))
        assert made.text == f'{{"exchanged_value": {rate}.0}}'


def test_the_units_that_convert_at_once_are_the_official_ones(bare: BfclEnvironment) -> None:
    pairs = {"si_unit_conversion": list(permutations(LENGTH_UNITS, 2))}
    pairs["imperial_si_conversion"] = [*IMPERIAL, *((unit_out, unit_in) for unit_in, unit_out in IMPERIAL)]
    for name, both in pairs.items():
        for unit_in, unit_out in both:
            made = bare.execute(call(name, value=3, unit_in=unit_in, unit_out=unit_out))
            assert made.kind is OutcomeKind.SUCCESS


def test_some_conversions_need_a_step_between_and_the_error_says_so() -> None:
    for task in of_family(synthesise(0, 150, apis=["MathAPI"], mixture=ALONE), "by_metres"):
        first, second = task.gold[0]
        direct = replace(
            second, arguments={**second.arguments, **{key: first.arguments[key] for key in ("value", "unit_in")}}
        )
        made, right = outcomes(task, (direct, *task.gold[0]))
        assert [outcome.is_error for outcome in made] == [True, False, False]
        assert "is not supported" in made[0].text
        assert right


def test_numbers_stay_short_and_precisions_small() -> None:
    for task in synthesise(2, 200, apis=["MathAPI"], mixture=ALONE):
        for made in task.gold[0]:
            assert made.arguments.get("precision", 0) <= 12
            assert all(len(repr(value)) <= 8 for value in made.arguments.values() if isinstance(value, int | float))

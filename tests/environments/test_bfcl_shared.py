"""What policy and gold share in the official checker they share in ours; names and keys are read as it reads them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest

pytest.importorskip("bfcl_eval", reason="the official benchmark is not installed")

from bfcl_corruptions import Turns, played
from bfcl_official import official_run
from bfcl_parity import (
    BOTH_SHARE,
    RESPELT,
    SHARED,
    STRAY,
    Episode,
    may_share,
    our_play,
    our_verdict,
    random_episode,
    same_texts,
)

from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.environments.bfcl.official import BFCL_CLASSES, added_cards, official_class
from fission_grpo.environments.bfcl.verdict import world_key
from fission_grpo.environments.bfcl.world import BfclWorld, spelled
from fission_grpo.environments.limits import CallLimits
from fission_grpo.errors import EnvironmentFault
from fission_grpo.evaluation.bfcl.world import JudgedWorld
from fission_grpo.types import Task, ToolCall, Verdict

pytestmark = pytest.mark.early

RANDOM_EPISODES = 2_000
"""About 12 CPU seconds; `benchmarks/parity.py` goes through 100,000."""
TASKS = {task.id: task for category in BfclCategory for task in bfcl_entries(category)}
LIMITS = CallLimits()


def with_call(entry: str, turn: int, name: str, **arguments: Any) -> Episode:
    """Gold, and one more call at the beginning of a turn."""
    turns = [list(calls) for calls in TASKS[entry].gold]
    turns[turn].insert(0, ToolCall(name=name, arguments=arguments))
    return Episode(TASKS[entry], turns, ("by hand",))


CARD = "2345678923456789"
BY_HAND = (
    with_call(
        "multi_turn_long_context_177",
        1,
        "purchase_insurance",
        access_token="abc123xyz",
        insurance_type="travel",
        insurance_cost=50.0,
        booking_id="booking_401",
        card_id=CARD,
    ),
    with_call("multi_turn_base_8", 3, "mention", tweet_id=1, mentioned_usernames=["@bob"]),
)
"""Gold with a call too many, which changes gold's own world by as much."""


def apart(task: Task, turns: Turns) -> Verdict:
    """As in training, where nobody else's calls reach a world."""
    environment = BfclEnvironment()
    environment.reset(task)
    for turn, calls in enumerate(turns):
        if turn:
            environment.next_turn()
        for call in calls:
            environment.execute(call)
    return environment.score()


def respellings() -> list[str]:
    """White space of all kinds, Python's and others', around a name or key."""
    rng, parts = random.Random(5), (" ", "\t", "\n", "\r", "\r\n", "\f", "\v", "\u00a0", "\u3000", "\ufeff", "\x1c")
    return ["", *parts, *("".join(rng.choices(parts, k=rng.randint(2, 4))) for _ in range(200))]


SPACES = respellings()
WIDE = "\uff44oor"
"""Full width; its NFKC form is `door`."""
ODD_CALLS = [
    *(ToolCall(name=space + "lockDoors", arguments={"unlock": True, "door": []}) for space in SPACES),
    *(ToolCall(name="lockDoors" + space, arguments={"unlock": True, "door": []}) for space in SPACES),
    *(ToolCall(name="lockDoors", arguments={space + "unlock": True, "door": []}) for space in SPACES),
    *(ToolCall(name="lockDoors", arguments={"unlock": True, "door" + space: []}) for space in SPACES),
    *(
        ToolCall(name=name, arguments={"unlock": True, "door": []})
        for name in ("\uff4cockDoors", "lock\uff24oors", "lock Doors")
    ),
    *(
        ToolCall(name="lockDoors", arguments={"unlock": True, key: []})
        for key in (WIDE, "do\u00bar", "d oor", "\u1e0boor", "")
    ),
    ToolCall(name="lockDoors", arguments={"unlock": True, "door": [], WIDE: []}),
    ToolCall(name="lockDoors", arguments={"unlock": True, "door": [], "door ": []}),
]
VEHICLE = "multi_turn_base_50"


@dataclass(frozen=True, slots=True)
class Answers:
    """What the official code says."""

    by_hand: list[dict[str, Any]]
    random: list[dict[str, Any]]
    odd_calls: list[str]
    changed: list[str]


def random_episodes() -> list[Episode]:
    rng, tasks = random.Random(19), [task for task in TASKS.values() if may_share(task)]
    return [random_episode(rng, tasks[place % len(tasks)]) for place in range(RANDOM_EPISODES)]


def asked(one: Episode) -> dict[str, Any]:
    place = {"category": one.task.meta["category"], "id": one.task.id}
    return {**place, "gold": played(one.task.gold), "turns": played(one.turns), "texts": True}


EPISODES = random_episodes()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    odd = {"category": "base", "id": VEHICLE, "turns": played([ODD_CALLS]), "texts": True, "gold": [[]]}
    questions = [*map(asked, BY_HAND), *map(asked, EPISODES), odd, {"changed": True}]
    folder = tmp_path_factory.mktemp("shared")
    with official_run("bfcl_official_checker.py", map(json.dumps, questions), folder) as found:
        *episodes, calls, changed = found()
    hands = len(BY_HAND)
    return Answers(episodes[:hands], episodes[hands:], calls["texts"][0], changed["changed"])


def test_what_the_policy_does_to_shared_things_happens_to_gold(answers: Answers) -> None:
    for one, theirs in zip(BY_HAND, answers.by_hand, strict=True):
        assert theirs["ok"]
        assert our_verdict(one.task, one.turns) == our_play(one.task, one.turns)[0] == Verdict(ok=True, matched=1.0)
        assert apart(one.task, one.turns).error_type == "multi_turn:instance_state_mismatch"


def test_random_episodes_that_share_are_judged_officially(answers: Answers) -> None:
    differing, elsewhere = [], 0
    for one, theirs in zip(EPISODES, answers.random, strict=True):
        (verdict, texts), known = our_play(one.task, one.turns), our_verdict(one.task, one.turns)
        if (verdict.ok, verdict.error_type) != (theirs["ok"], theirs["error"]) or verdict != known:
            differing.append((one.task.id, one.kinds, verdict, known, theirs["error"]))
        if not same_texts(texts, theirs["texts"]):
            differing.append((one.task.id, one.kinds, texts, theirs["texts"]))
        elsewhere += RESPELT not in one.kinds and apart(one.task, one.turns) != verdict
    assert differing == []
    assert elsewhere > 50  # worlds apart would have judged otherwise
    kinds = set(chain(*(one.kinds for one in EPISODES)))
    assert {SHARED, BOTH_SHARE, STRAY, RESPELT} < kinds
    assert sum(theirs["ok"] for theirs in answers.random) > 200


def test_nothing_else_in_the_official_modules_outlives_a_call(answers: Answers) -> None:
    """Beside what the checker script puts back after each episode: the default lists and the added cards.

    The weather report is written anew before each look at it. What `MathAPI` sets for the process, it sets before each
    use.
    """
    assert answers.changed == ["long_context.LONG_WEATHER_EXTENSION", "vehicle_control.LONG_WEATHER_EXTENSION"]


def mutable(node: Any, path: str, found: dict[int, str]) -> dict[int, str]:
    """Every mutable thing that is reachable, by identity, with the attribute of the class that leads to it."""
    inner = vars(node) if hasattr(node, "__dict__") else node
    if id(node) in found or not isinstance(inner, dict | list | set | tuple):
        return found
    found[id(node)] = path
    for key, value in inner.items() if isinstance(inner, dict) else enumerate(inner):
        mutable(value, path if "." in path else f"{path}.{key}", found)
    return found


@pytest.mark.parametrize("long_context", [False, True])
def test_two_official_instances_share_the_added_cards_and_bookings_alone(long_context: bool) -> None:
    shared = set()
    for name in BFCL_CLASSES:
        loaded = [official_class(name)() for _ in range(2)]
        for instance in loaded:
            if name != "MathAPI":
                state = {"root": {"home": {"type": "directory", "contents": {}}}} if name == "GorillaFileSystem" else {}
                instance._load_scenario(state, long_context=long_context)
        first, second = (mutable(instance, name, {}) for instance in loaded)
        shared |= {first[key] for key in first.keys() & second.keys()}
    assert shared == ({"TravelAPI.credit_card_list", "TravelAPI.booking_record"} if long_context else set())


def test_a_pair_shares_what_official_instances_do() -> None:
    classes = ["TravelAPI", "TwitterAPI", "GorillaFileSystem"]
    policy, gold = BfclWorld.pair(world_key({"classes": classes, "long_context": True}))
    cards = [world.instances["TravelAPI"].credit_card_list for world in (policy, gold)]
    assert cards[0] is not cards[1]
    assert all(cards[0][number] is cards[1][number] for number in added_cards())
    assert policy.defaults["post_tweet"] is gold.defaults["post_tweet"]
    assert policy.instances["GorillaFileSystem"].root is not gold.instances["GorillaFileSystem"].root
    assert not policy.disturbed()
    cards[1][CARD]["balance"] -= 50.0
    assert policy.disturbed()
    cards[1][CARD]["balance"] += 50.0
    gold.defaults["post_tweet"]["mentions"].append("@bob")
    assert policy.disturbed()
    assert not BfclWorld.pair(world_key({"classes": classes, "long_context": True}))[0].disturbed()


def test_names_and_keys_are_read_as_the_official_executor_reads_them(answers: Answers) -> None:
    world = BfclWorld.initial(world_key({"classes": ["VehicleControlAPI"]}))
    read = list(map(spelled, ODD_CALLS))
    mine = ["Error" not in world.call(call.name, call.arguments, LIMITS) for call in read]
    theirs = ["Error" not in text for text in answers.odd_calls]
    assert [call for call, one, other in zip(ODD_CALLS, mine, theirs, strict=True) if one != other] == []
    assert 300 < sum(mine) < len(mine) - 200


def test_reading_a_name_takes_time_that_grows_with_its_length_alone() -> None:
    for space in (" ", "\n", "\f", " \f", "\t\n"):
        name = space * 200_000 + "x y"
        assert spelled(ToolCall(name=name, arguments={})).name == name


def test_worlds_in_training_take_names_and_keys_as_they_are() -> None:
    task = TASKS[VEHICLE]
    odd, plain = ToolCall(name="lockDoors ", arguments={}), ToolCall(name="lockDoors", arguments={"door ": []})
    environment = BfclEnvironment()
    environment.reset(task)
    assert environment.execute(odd).text == "Error during execution: name 'lockDoors ' is not defined"
    assert "unexpected keyword argument 'door '" in environment.execute(plain).text


def test_a_judged_world_does_not_go_back() -> None:
    world = JudgedWorld(TASKS[VEHICLE])
    with pytest.raises(EnvironmentFault, match="go back"):
        world.restore(world.snapshot())

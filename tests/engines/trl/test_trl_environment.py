"""TRL's `environment_factory` objects in the hands of our stages: restored by replay, and judged by themselves."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest

from fission_grpo.engines.trl.environment import ReplayedEnvironment, WorldPool
from fission_grpo.engines.trl.tasks import EnvironmentRows
from fission_grpo.errors import ConfigError, EnvironmentFault
from fission_grpo.types import ErrorClass, OutcomeKind, Task, ToolCall


class IncrementEnv:
    """The example of TRL's documentation, which makes up its own tasks; rolls dice, and can be asked asynchronously."""

    def reset(self, **kwargs: Any) -> str | None:
        self.counter = 0
        self.target = random.randint(1, 1000)
        return f"Increment the counter by {self.target}."

    def get_reward(self) -> float:
        return float(self.counter == self.target)

    def increment(self, step: int) -> int:
        """
        Increment the internal counter.

        Args:
            step: Value to add to the counter.

        Returns:
            The updated counter value.
        """
        if step == 0:
            raise ValueError("step is zero")
        self.counter += step
        return self.counter

    def roll(self) -> int:
        """Add what a die shows."""
        self.counter += random.randint(1, 6) + int(np.random.randint(1, 7))
        return self.counter

    async def wait(self) -> str:
        """Do nothing for a while."""
        return "waited"

    @staticmethod
    def help(topic: str) -> str:
        """Explain something.

        Args:
            topic: what to explain
        """
        return f"there is no help on {topic}"


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def task_of(rows: EnvironmentRows, **row: Any) -> Task:
    return rows.read([{"prompt": [{"role": "user", "content": "Now. "}], **row}], seed=7, name="test")[0]


def opened(rows: EnvironmentRows, task: Task) -> ReplayedEnvironment:
    assert task.world is not None
    environment = rows.environments[task.world.environment]()
    environment.reset(task)
    assert isinstance(environment, ReplayedEnvironment)
    return environment


def test_public_methods_are_tools_and_siblings_share_what_reset_makes_up() -> None:
    rows = EnvironmentRows(IncrementEnv)
    state = random.getstate()
    task = task_of(rows)
    one, other = opened(rows, task), opened(rows, task)
    assert random.getstate() == state  # a world's random numbers are its own
    assert [tool["function"]["name"] for tool in task.tools] == ["help", "increment", "roll", "wait"]
    assert task.messages[-1]["content"] == f"Now. Increment the counter by {one._subject.target}."
    assert one._subject.target == other._subject.target
    assert one._subject is not other._subject
    assert [one.execute(call("roll")).text for _ in range(3)] == [other.execute(call("roll")).text for _ in range(3)]
    later = rows.read([{}], seed=7, name="later")[0]
    assert later.messages[-1]["content"] != task.messages[-1]["content"].removeprefix("Now. ")


def test_a_snapshot_is_plain_and_brings_any_object_back() -> None:
    rows = EnvironmentRows(IncrementEnv)
    task = task_of(rows)
    first = opened(rows, task)
    for one in (call("increment", step=4), call("roll"), call("increment", step=0), call("wait")):
        first.execute(one)
    snapshot, hashed = pickle.loads(pickle.dumps(first.snapshot())), first.state_hash()
    next_roll = first.execute(call("roll")).text
    rows.release()
    second = opened(rows, task)
    second.restore(snapshot)
    assert second.state_hash() == hashed
    assert second.execute(call("roll")).text == next_roll


def test_what_a_tool_raises_is_told_and_what_the_schema_forbids_is_not_run() -> None:
    rows = EnvironmentRows(IncrementEnv)
    environment = opened(rows, task_of(rows))
    raised = environment.execute(call("increment", step=0))
    assert (raised.kind, raised.text) == (OutcomeKind.ERROR, "error: step is zero")
    wrong = environment.execute(call("increment", step="3"))
    assert (wrong.kind, wrong.error) == (OutcomeKind.ERROR, ErrorClass.ARGUMENT_TYPE)
    assert environment.execute(call("decrement", step=3)).error is ErrorClass.UNKNOWN_TOOL
    assert environment.execute(call("wait")).text == "waited"
    assert environment.execute(call("help", topic="x")).text == "there is no help on x"
    assert environment._subject.counter == 0


def test_the_object_judges_itself() -> None:
    rows = EnvironmentRows(IncrementEnv)
    environment = opened(rows, task_of(rows))
    assert (environment.score().ok, environment.score().reward) == (False, 0.0)
    environment.execute(call("increment", step=environment._subject.target))
    verdict = environment.score()
    assert (verdict.ok, verdict.reward, verdict.subject) == (True, 1.0, environment._subject)


class Clock:
    """Does not do the same again."""

    made = 0

    def reset(self, **row: Any) -> None:
        pass

    def tick(self) -> int:
        """Count on."""
        Clock.made += 1
        return Clock.made


def test_a_replay_that_is_answered_otherwise_is_a_fault_that_names_the_call() -> None:
    rows = EnvironmentRows(Clock)
    environment = opened(rows, task_of(rows))
    environment.execute(call("tick"))
    with pytest.raises(EnvironmentFault, match="tick answered '1', but '2' when the same calls were replayed"):
        environment.restore(environment.snapshot())


def test_objects_are_made_once_and_used_again() -> None:
    made = []

    def factory() -> Clock:
        made.append(Clock())
        return made[-1]

    pool = WorldPool(factory, name="clock")
    assert {id(pool.borrow()), id(pool.borrow())} == {id(one) for one in made}
    pool.take_back()
    pool.borrow()
    assert len(made) == 2


def test_functions_are_tools_too_and_several_environments_are_chosen_by_a_column() -> None:
    def shout(text: str) -> str:
        """Say it loudly.

        Args:
            text: what to say
        """
        return text.upper()

    alone = EnvironmentRows(None, [shout])
    assert opened(alone, task_of(alone)).execute(call("shout", text="hi")).text == "HI"
    both = EnvironmentRows({"a": IncrementEnv, "b": Clock}, [shout])
    assert [tool["function"]["name"] for tool in task_of(both, environment="b").tools] == ["shout", "tick"]
    with pytest.raises(ConfigError, match="environment=None; expected one of a, b"):
        task_of(both)
    nothing = EnvironmentRows(None)
    assert task_of(nothing).world is None


class NoReset:
    """Cannot begin."""


@pytest.mark.parametrize(
    ("factory", "sentence"), [(NoReset, "has no method reset"), (lambda: 1 / 0, "ZeroDivisionError")]
)
def test_a_factory_that_cannot_work_is_refused(factory: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        EnvironmentRows(factory)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [({"prompt": "text"}, "expected messages"), ({"images": []}, "images cannot be recovered from")],
)
def test_a_row_that_cannot_work_is_refused(row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        EnvironmentRows(IncrementEnv).read([{"prompt": [{"role": "user", "content": ""}], **row}], seed=0, name="")

"""Fixed errors from a user's own tools: wrong calls that their own world has refused."""

from __future__ import annotations

from dataclasses import replace

from fission_grpo.environments.functions.imported import environments_of
from fission_grpo.errors import ToolError
from fission_grpo.simulator_lab.corpus import OwnTasks
from fission_grpo.tasks.probe import ProbeKind, can_be_probed, probe_items
from fission_grpo.types import ErrorClass, Task, ToolCall, World


class Oven:
    """Must be hot before anything is baked; breaks at names that it does not know."""

    def reset(self, hot: bool) -> None:
        self.hot = hot
        self.baked: list[str] = []

    def heat(self) -> str:
        """Heat the oven."""
        self.hot = True
        return "hot"

    def bake(self, what: str) -> str:
        """Bake something.

        Args:
            what: bread or rolls
        """
        if not self.hot:
            raise ToolError("not ready; heat it first")
        self.baked.append({"bread": "a loaf", "rolls": "six rolls"}[what])
        return "baked"


ENVIRONMENTS = environments_of({"oven": Oven})
HEAT, BAKE = ToolCall(name="heat", arguments={}), ToolCall(name="bake", arguments={"what": "bread"})


def baking(hot: bool) -> Task:
    environment = ENVIRONMENTS["oven"]()
    task = Task(
        id=f"hot-{hot}",
        messages=({"role": "user", "content": "Bake a bread."},),
        tools=(),
        world=World(environment="oven", config={"hot": hot}),
        gold=((BAKE,) if hot else (HEAT, BAKE),),
    )
    environment.reset(task)
    return replace(task, tools=environment.tools)


def test_a_gold_call_that_comes_too_early_is_the_world_s_own_precondition() -> None:
    tasks = [baking(hot=True), baking(hot=False)]
    (item,) = probe_items(tasks, 0, ProbeKind.PRECONDITION, environments=ENVIRONMENTS)
    assert (item.task.id, item.wrong, item.error) == ("hot-False/0.0!", BAKE, ErrorClass.PRECONDITION)
    assert item.text == "not ready; heat it first"
    assert item.task.target == (HEAT,)


def test_a_wrong_call_that_breaks_its_tool_is_told_and_no_item() -> None:
    broken: list[str] = []
    tasks = [baking(hot=True)]
    items = list(probe_items(tasks, 0, environments=ENVIRONMENTS, broken=broken.append))
    assert [item.task.id for item in items] == ["hot-True/0.0!"]
    assert items[0].error is not ErrorClass.LIMIT
    # Of the nine kinds, made-up values and paths are names that the oven does not know.
    assert any("KeyError" in fault for fault in broken)
    assert list(probe_items(tasks, 0, environments=ENVIRONMENTS)) == items


def test_what_cannot_be_probed() -> None:
    task = baking(hot=True)
    assert can_be_probed(task)
    assert not can_be_probed(replace(task, gold=()))
    assert not can_be_probed(replace(task, gold=((),)))
    assert not can_be_probed(replace(task, world=None))
    begun = (*task.messages, {"role": "assistant", "content": "Sure."}, {"role": "user", "content": "Go on."})
    assert not can_be_probed(replace(task, messages=begun))


def test_records_for_a_simulator_are_made_from_ones_own_tasks() -> None:
    found = OwnTasks(tasks=[baking(hot=False), replace(baking(hot=True), gold=())], environments=ENVIRONMENTS)
    calls = found.wrong_calls(0)
    assert {one.api for one in calls} == {"oven"}
    (early,) = (one for one in calls if one.name.endswith("premature"))
    assert (early.call, early.outcome.text) == (BAKE, "not ready; heat it first")
    assert not any("KeyError" in one.outcome.text for one in calls)
    again = found.wrong_calls(0)
    assert [(one.name, one.call, one.outcome.text) for one in again] == [
        (one.name, one.call, one.outcome.text) for one in calls
    ]

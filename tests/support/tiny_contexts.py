"""Corrective contexts that differ in nothing but their tokens, for the tests of what keeps them."""

from __future__ import annotations

from dataclasses import replace

from fission_grpo.algorithm.context import CorrectiveContext, Parent
from fission_grpo.simulator.base import Feedback
from fission_grpo.types import ErrorClass, Task

TEMPLATE = CorrectiveContext(
    task=Task(id="t", messages=(), tools=()),
    x_ids=(),
    error_ids=(),
    feedback_ids=(),
    messages=(),
    before=(),
    snapshot=None,
    feedback=Feedback(texts=("no",), origin="test"),
    error=ErrorClass.FORMAT,
    depth=1,
    parent=Parent(group="g", trajectory=0, turn=0),
    policy_version=0,
)


def context(number: int, version: int) -> CorrectiveContext:
    """Equal numbers are equal failures."""
    return replace(TEMPLATE, x_ids=(7,), error_ids=(number,), feedback_ids=(version,), policy_version=version)

"""Failed calls for a simulator to explain, and a writer that explains them by a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fission_grpo.simulator.base import Case, Cost, FailedCall
from fission_grpo.simulator.prompts import Candidate, NoCandidate, Prompt
from fission_grpo.types import ErrorClass, OutcomeKind, ParsedMessage, ToolCall
from fission_grpo.types import ToolOutcome as Outcome

TOOL = {
    "type": "function",
    "function": {
        "name": "cd",
        "description": "",
        "parameters": {"type": "object", "properties": {"folder": {"type": "string"}}, "required": ["folder"]},
    },
}
WRONG, RIGHT = ToolCall(name="cd", arguments={"folder": "x"}), ToolCall(name="cd", arguments={"folder": "archive"})
ERROR = Outcome(kind=OutcomeKind.ERROR, text='{"error": "cd: x: No such directory"}', error=ErrorClass.NOT_FOUND)
NOTHING = Outcome(kind=OutcomeKind.SUCCESS, text="None")


def case(
    *calls: ToolCall, outcomes: Sequence[Outcome] = (), failures: Any = (), error: ErrorClass, tools: Any = (TOOL,)
) -> Case:
    failed = FailedCall(
        messages=({"role": "user", "content": "go there"},),
        tools=tuple(tools),
        text="",
        parsed=ParsedMessage(content="", calls=calls, failures=tuple(failures)),
        outcomes=tuple(outcomes),
        error=error,
    )
    return Case(failed=failed, reference=(RIGHT,))


EXPLICIT = case(WRONG, outcomes=[ERROR], error=ErrorClass.NOT_FOUND)
SILENT = case(WRONG, outcomes=[NOTHING], error=ErrorClass.SILENT)


@dataclass
class Scribe:
    """Answers by a function, and remembers what it was asked."""

    answer: Callable[[Prompt], Candidate | NoCandidate]
    name: str = "scribe"
    remote: bool = False
    asked: list[Prompt] = field(default_factory=list)

    def write(self, prompts: Sequence[Prompt]) -> list[Candidate | NoCandidate]:
        self.asked += prompts
        return [self.answer(prompt) for prompt in prompts]


def says(text: str) -> Scribe:
    return Scribe(lambda prompt: Candidate(text=text, cost=Cost(tokens=3, seconds=0.5)))

"""The tool messages that answer an assistant message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fission_grpo.agents.base import Answer
from fission_grpo.chat.parse import call_id
from fission_grpo.types import Message, ToolOutcome


def tool_replies(answer: Answer, outcomes: Sequence[ToolOutcome]) -> list[Message]:
    """One message for each outcome, under the ids of the answer's own calls; ours where it has none."""
    asked = answer.message.get("tool_calls") or ()
    ids = [call["id"] for call in asked if isinstance(call, Mapping) and "id" in call]
    if len(ids) != len(outcomes):
        ids = [call_id(place) for place in range(len(outcomes))]
    return [
        {"role": "tool", "tool_call_id": id_, "content": outcome.text}
        for id_, outcome in zip(ids, outcomes, strict=True)
    ]

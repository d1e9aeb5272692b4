"""What `rules` adds where the world refuses a value and does not say which."""

from __future__ import annotations

from typing import Any

import pytest
from simulator_cases import case

from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.types import ErrorClass, OutcomeKind, ToolCall, ToolOutcome

TRIP = {
    "type": "function",
    "function": {
        "name": "fly",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {
                "card_id": {"type": "string", "description": "The card that pays."},
                "place_a": {"type": "string", "description": "Code of the airport of departure."},
                "place_b": {"type": "string", "description": "Code of the airport of arrival."},
                "travelDate": {"type": "string", "description": "In the form YYYY-MM-DD."},
            },
        },
    },
}
CALL = ToolCall(name="fly", arguments={"card_id": "77", "place_a": "ROM", "place_b": "OSL", "travelDate": "now"})


def told(text: str, error: ErrorClass, call: ToolCall = CALL) -> str:
    outcome = ToolOutcome(kind=OutcomeKind.ERROR, text=text, error=error)
    failed: Any = case(call, outcomes=[outcome], error=error, tools=[TRIP]).failed
    return RulesSimulator().diagnose([failed])[0].texts[0]


@pytest.mark.parametrize(
    ("text", "error", "suspects"),
    [
        ("Card not registered", ErrorClass.NOT_FOUND, "'card_id'"),
        ("Invalid date format.", ErrorClass.ILLEGAL_VALUE, "'travelDate'"),
        ("No route between the airports.", ErrorClass.NOT_FOUND, "'place_a', 'place_b'"),
        ("Not found.", ErrorClass.NOT_FOUND, "'card_id', 'place_a', 'place_b', 'travelDate'"),
    ],
)
def test_a_refused_value_that_the_world_does_not_name_is_looked_for(
    text: str, error: ErrorClass, suspects: str
) -> None:
    assert told(text, error) == f"{text}\nhint: look at {suspects}"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("No airport OSL.", ErrorClass.NOT_FOUND),
        ("The card id is unknown.", ErrorClass.NOT_FOUND),
        ("Log in first.", ErrorClass.PRECONDITION),
        ("Exists already.", ErrorClass.CONFLICT),
    ],
)
def test_a_world_that_names_it_or_means_another_thing_is_left_alone(text: str, error: ErrorClass) -> None:
    assert told(text, error) == text


def test_a_call_without_arguments_has_none_to_look_at() -> None:
    assert told("Not found.", ErrorClass.NOT_FOUND, ToolCall(name="fly", arguments={})) == "Not found."

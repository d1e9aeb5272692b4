"""Requests to `MathAPI`: no state and no login, so only answers count; some conversions take a step in between.

Numbers stay short: whatever a call takes over from an earlier answer is exact in a few digits.
"""

from __future__ import annotations

from random import Random
from typing import Any

from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import (
    Api,
    Draw,
    InitialState,
    RequestGenerator,
    Wordings,
    call,
    one_call,
)

LENGTH_UNITS = ("km", "m", "cm", "mm", "um", "nm")
"""What the official class converts among themselves."""

IMPERIAL = (("cm", "in"), ("m", "ft"), ("m", "yd"), ("km", "miles"), ("kg", "lb"), ("celsius", "fahrenheit"))
"""What it converts into each other, either way; any other pair is an error."""


def _initial_state(rng: Random) -> dict[str, Any]:
    return {}


def _number(initial: InitialState) -> float:
    """A whole number or one in quarters."""
    return vocabulary.price(initial.rng, 2, 900) if initial.rng.random() < 0.4 else initial.rng.randint(2, 900)


def _numbers(initial: InitialState, count: int | None = None) -> list[int]:
    return initial.rng.sample(range(2, 300), count or initial.rng.randint(3, 6))


def _precision(initial: InitialState) -> int:
    return initial.rng.randint(3, 12)


def _mean(initial: InitialState) -> Draw:
    return one_call("mean", numbers=_numbers(initial))


def _deviation(initial: InitialState) -> Draw:
    return one_call("standard_deviation", numbers=_numbers(initial))


def _logarithm(initial: InitialState) -> Draw:
    return one_call("logarithm", value=_number(initial), base=initial.rng.randint(2, 20), precision=_precision(initial))


def _root(initial: InitialState) -> Draw:
    return one_call("square_root", number=_number(initial), precision=_precision(initial))


def _power(initial: InitialState) -> Draw:
    return one_call("power", base=initial.rng.randint(2, 30), exponent=initial.rng.randint(2, 6))


def _percentage(initial: InitialState) -> Draw:
    return one_call("percentage", part=_number(initial), whole=_number(initial))


def _divide(initial: InitialState) -> Draw:
    return one_call("divide", a=_number(initial), b=_number(initial))


def _absolute(initial: InitialState) -> Draw:
    return one_call("absolute_value", number=-_number(initial))


def _round(initial: InitialState) -> Draw:
    number = initial.rng.randint(10_000, 9_999_999) / 10_000
    return one_call("round_number", number=number, decimal_places=initial.rng.randint(1, 3))


def _si(initial: InitialState) -> Draw:
    unit_in, unit_out = vocabulary.several(initial.rng, LENGTH_UNITS, 2, 2)
    return one_call("si_unit_conversion", value=_number(initial), unit_in=unit_in, unit_out=unit_out)


def _imperial(initial: InitialState) -> Draw:
    unit_in, unit_out = vocabulary.several(initial.rng, initial.rng.choice(IMPERIAL), 2, 2)
    return one_call("imperial_si_conversion", value=_number(initial), unit_in=unit_in, unit_out=unit_out)


def _by_metres(initial: InitialState) -> Draw:
    """Nothing converts this pair at once: the error says so, and metres lie between."""
    value, unit_out = initial.rng.randint(2, 900), initial.rng.choice(("ft", "yd"))
    calls = (
        call("si_unit_conversion", value=value, unit_in="km", unit_out="m"),
        call("imperial_si_conversion", value=value * 1000.0, unit_in="m", unit_out=unit_out),
    )
    return Draw(slots={"value": value, "unit_in": "km", "unit_out": unit_out}, calls=calls)


def _share(initial: InitialState) -> Draw:
    numbers = _numbers(initial)
    calls = (call("sum_values", numbers=numbers), call("percentage", part=numbers[0], whole=sum(numbers)))
    return Draw(slots={"numbers": numbers, "part": numbers[0]}, calls=calls)


def _spread(initial: InitialState) -> Draw:
    numbers = _numbers(initial)
    highest, lowest = max(numbers), min(numbers)
    look = (call("max_value", numbers=numbers), call("min_value", numbers=numbers))
    return Draw(slots={"numbers": numbers}, calls=(*look, call("subtract", a=highest, b=lowest)))


def _rounded_mean(initial: InitialState) -> Draw:
    numbers = _numbers(initial, count=4)
    calls = (call("mean", numbers=numbers), call("round_number", number=sum(numbers) / 4, decimal_places=1))
    return Draw(slots={"numbers": numbers, "decimal_places": 1}, calls=calls)


def _side(initial: InitialState) -> Draw:
    a, b, precision = initial.rng.randint(2, 90), initial.rng.randint(2, 90), _precision(initial)
    calls = (call("multiply", a=a, b=b), call("square_root", number=a * b, precision=precision))
    return Draw(slots={"a": a, "b": b, "precision": precision}, calls=calls)


def _split(initial: InitialState) -> Draw:
    a, b, heads = _number(initial), _number(initial), initial.rng.randint(2, 12)
    return Draw(slots={"a": a, "b": b, "heads": heads}, calls=(call("add", a=a, b=b), call("divide", a=a + b, b=heads)))


CONVERT = Wordings(
    train=(
        "convert {value} {unit_in} to {unit_out}",
        "how much is {value} {unit_in} in {unit_out}",
        "give me {value} {unit_in} in {unit_out}",
        "I have {value} {unit_in} and need {unit_out}, convert it",
        "what are {value} {unit_in} in {unit_out}, convert them",
        "change {value} from {unit_in} to {unit_out}",
    ),
    heldout=("convert {value} from {unit_in} to {unit_out}", "I need {value} {unit_in} in {unit_out}, convert them"),
)
"""Whether one call is enough is the world's to tell."""

MATH = Api(
    name="MathAPI",
    initial_state=_initial_state,
    generators=(
        RequestGenerator(name="si", draw=_si, topic="units", wordings=CONVERT),
        RequestGenerator(name="imperial", draw=_imperial, topic="units", weight=1.5, wordings=CONVERT),
        RequestGenerator(name="by_metres", draw=_by_metres, topic="units", weight=2.0, wordings=CONVERT),
        RequestGenerator(
            name="mean",
            draw=_mean,
            topic="mean",
            wordings=Wordings(
                train=(
                    "compute the mean of {numbers}",
                    "what is the mean of {numbers}",
                    "give me the average of {numbers}",
                    "find the average of the numbers {numbers}",
                    "the numbers are {numbers}, what is their mean",
                    "take {numbers} and tell me the mean",
                ),
                heldout=("find the mean of {numbers}", "take the numbers {numbers} and compute their average"),
            ),
        ),
        RequestGenerator(
            name="deviation",
            draw=_deviation,
            wordings=Wordings(
                train=(
                    "compute the standard deviation of {numbers}",
                    "what is the standard deviation of {numbers}",
                    "give me the standard deviation of {numbers}",
                    "find the deviation, the standard one, of the numbers {numbers}",
                    "the numbers are {numbers}, what is their standard deviation",
                    "take {numbers} and tell me the standard deviation",
                ),
                heldout=(
                    "find the standard deviation of {numbers}",
                    "take the numbers {numbers} and compute their standard deviation",
                ),
            ),
        ),
        RequestGenerator(
            name="logarithm",
            draw=_logarithm,
            wordings=Wordings(
                train=(
                    "compute the logarithm of {value} to base {base} with precision {precision}",
                    "what is the log of {value} in base {base}, precision {precision}",
                    "with precision {precision}, find the logarithm of {value} for the base {base}",
                    "give me the base {base} logarithm of {value}, precision {precision}",
                    "take the log of {value} to the base {base} with a precision of {precision}",
                    "find the log in base {base} of {value} with precision {precision}",
                ),
                heldout=(
                    "find the logarithm of {value} to the base {base}, precision {precision}",
                    "give me the log of {value} in base {base} with a precision of {precision}",
                ),
            ),
        ),
        RequestGenerator(
            name="root",
            draw=_root,
            wordings=Wordings(
                train=(
                    "compute the square root of {number} with precision {precision}",
                    "what is the square root of {number}, precision {precision}",
                    "take the root of {number} with a precision of {precision}",
                    "give me the square root of {number} to precision {precision}",
                    "with precision {precision}, find the square root of {number}",
                    "find the root of {number}, the precision is {precision}",
                ),
                heldout=(
                    "find the square root of {number} with a precision of {precision}",
                    "take the square root of {number} to precision {precision}",
                ),
            ),
        ),
        RequestGenerator(
            name="power",
            draw=_power,
            wordings=Wordings(
                train=(
                    "raise {base} to the power of {exponent}",
                    "compute {base} to the power {exponent}",
                    "what is {base} raised to {exponent}",
                    "give me {base} with exponent {exponent}",
                    "take the power {exponent} of {base}",
                    "the base is {base} and the exponent {exponent}, compute the power",
                ),
                heldout=("give me {base} raised to the power {exponent}", "take {base} to the power of {exponent}"),
            ),
        ),
        RequestGenerator(
            name="percentage",
            draw=_percentage,
            wordings=Wordings(
                train=(
                    "what percentage is {part} of {whole}",
                    "compute {part} as a percentage of {whole}",
                    "how many percent of {whole} is {part}",
                    "give me the percentage that {part} is of {whole}",
                    "of {whole} I have {part}, what percentage is that",
                    "find out what percent {part} is of the whole {whole}",
                ),
                heldout=(
                    "find the percentage that {part} is of {whole}",
                    "what percent of the whole {whole} is {part}",
                ),
            ),
        ),
        RequestGenerator(
            name="divide",
            draw=_divide,
            wordings=Wordings(
                train=(
                    "divide {a} by {b}",
                    "what is {a} divided by {b}",
                    "compute {a} divided by {b}",
                    "take {a} and divide it by {b}",
                    "give me {a} over {b}",
                    "how much is {a} over {b}, divide it",
                ),
                heldout=("give me {a} divided by {b}", "compute {a} over {b}"),
            ),
        ),
        RequestGenerator(
            name="absolute",
            draw=_absolute,
            weight=0.5,
            wordings=Wordings(
                train=(
                    "what is the absolute value of {number}",
                    "compute the absolute value of {number}",
                    "give me {number} without its sign",
                    "take the absolute of {number}",
                    "find the value of {number} without the sign",
                    "drop the sign of {number}, I need the absolute value",
                ),
                heldout=("find the absolute value of {number}", "I need {number} without the sign"),
            ),
        ),
        RequestGenerator(
            name="round",
            draw=_round,
            weight=0.7,
            wordings=Wordings(
                train=(
                    "round {number} to {decimal_places} decimal places",
                    "give me {number} rounded to {decimal_places} places",
                    "what is {number} rounded to {decimal_places} decimal places",
                    "round the number {number}, keep {decimal_places} places",
                    "keep {decimal_places} decimal places of {number}, round it",
                    "to {decimal_places} places, round {number}",
                ),
                heldout=(
                    "round the number {number} to {decimal_places} places",
                    "give me the number {number} rounded to {decimal_places} decimal places",
                ),
            ),
        ),
        RequestGenerator(
            name="share",
            draw=_share,
            wordings=Wordings(
                train=(
                    "add up {numbers} and tell me what percentage of the sum {part} is",
                    "what percentage is {part} of the sum of {numbers}",
                    "compute the sum of {numbers} and the share of {part} in percent",
                    "of the sum of {numbers}, how many percent is {part}",
                    "sum up {numbers}, then give me {part} as a percentage of that sum",
                    "the values are {numbers}: find their sum and the percentage of {part}",
                ),
                heldout=(
                    "find the sum of {numbers} and tell me what percentage of that sum {part} is",
                    "sum up the values {numbers} and compute the share of {part} as a percentage",
                ),
            ),
        ),
        RequestGenerator(
            name="spread",
            draw=_spread,
            wordings=Wordings(
                train=(
                    "find the maximum and the minimum of {numbers} and subtract them",
                    "subtract the lowest of {numbers} from the highest, find both first",
                    "what is the maximum of {numbers} less the minimum, find all three",
                    "get the highest and the lowest of {numbers} and their difference",
                    "how far apart are the maximum and the minimum of {numbers}, find both and subtract",
                    "the values are {numbers}: find the highest, the lowest and the difference",
                ),
                heldout=(
                    "get the maximum and the minimum of {numbers} and their difference",
                    "find the highest and the lowest of the values {numbers}, and subtract them",
                ),
            ),
        ),
        RequestGenerator(
            name="rounded_mean",
            draw=_rounded_mean,
            topic="mean",
            wordings=Wordings(
                train=(
                    "compute the mean of {numbers} and round it to {decimal_places} decimal place",
                    "what is the mean of {numbers}, rounded to {decimal_places} place",
                    "give me the average of {numbers}, then round it to {decimal_places} place",
                    "find the average of the numbers {numbers} and round that, {decimal_places} decimal place",
                    "to {decimal_places} decimal place, round the mean of {numbers}",
                    "take the mean of {numbers} and give it to me rounded to {decimal_places} place",
                ),
                heldout=(
                    "find the mean of {numbers} and round it to {decimal_places} place",
                    "give me the average of the numbers {numbers}, rounded to {decimal_places} decimal place",
                ),
            ),
        ),
        RequestGenerator(
            name="side",
            draw=_side,
            wordings=Wordings(
                train=(
                    "multiply {a} by {b} and take the square root of that with precision {precision}",
                    "what is the square root of {a} times {b}, multiply first, precision {precision}",
                    "compute the product of {a} and {b}, then its root with precision {precision}",
                    "with precision {precision}, find the root of the product of {a} and {b}",
                    "take {a} times {b} and compute the square root, precision {precision}",
                    "find the square root of the product {a} by {b} to a precision of {precision}",
                ),
                heldout=(
                    "multiply {a} by {b} and find the square root of the product with precision {precision}",
                    "compute {a} times {b}, then take the root of that with a precision of {precision}",
                ),
            ),
        ),
        RequestGenerator(
            name="split",
            draw=_split,
            wordings=Wordings(
                train=(
                    "add {a} and {b} and divide that by {heads}",
                    "add {a} to {b}, then split it into {heads} equal parts",
                    "what is {a} plus {b}, divided by {heads}, add first",
                    "split the sum of {a} and {b} into {heads} parts",
                    "compute {a} plus {b} and divide the sum by {heads}",
                    "the sum of {a} and {b} is for {heads} people, divide it",
                ),
                heldout=(
                    "add {a} and {b}, then divide the sum by {heads}",
                    "split {a} plus {b} into {heads} equal parts",
                ),
            ),
        ),
    ),
)

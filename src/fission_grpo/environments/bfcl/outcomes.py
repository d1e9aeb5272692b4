"""What a BFCL result text means: an answer, a soft no, or an error, and of which class.

Detector and taxonomy are data: ordered tables of compiled patterns, first match wins.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from fission_grpo.environments.bfcl.world import EXECUTION_ERROR
from fission_grpo.types import ErrorClass, OutcomeKind

Pattern: TypeAlias = tuple[re.Pattern[str], ErrorClass]


def _table(*rows: tuple[ErrorClass, str]) -> tuple[Pattern, ...]:
    return tuple((re.compile(pattern, re.DOTALL), error) for error, pattern in rows)


ERROR_CLASSES: tuple[Pattern, ...] = _table(
    # The call itself is wrong: only the interpreter says these.
    (ErrorClass.LIMIT, r"^call refused: |^maximum recursion depth exceeded"),
    (ErrorClass.UNKNOWN_TOOL, r"^name '.*' is not defined$|^Function call .* is not allowed\.$"),
    (ErrorClass.ARGUMENT_SCHEMA, r"^[\w.]+\(\) (got an unexpected keyword argument|missing \d+ required) "),
    (ErrorClass.ARGUMENT_SCHEMA, r"^[\w.]+\(\) (got multiple values for|takes \d+ positional|takes from \d+ to) "),
    # The world is not ready.
    (ErrorClass.PRECONDITION, r"^User not authenticated|^No user is currently|^Token |^Invalid access token$"),
    (
        ErrorClass.PRECONDITION,
        r"^All doors must be locked|^Brake pedal needs|^Must press the brake|^Fuel tank is empty",
    ),
    (ErrorClass.PRECONDITION, r"^Start the engine before|^Market is closed|^Insufficient funds|budget limit$"),
    (ErrorClass.PRECONDITION, r": Directory not empty$|^Current directory is already the root"),
    # It has happened already.
    (ErrorClass.CONFLICT, r": File exists$|already exists( in directory .*)?\.$|^Card already registered$"),
    (ErrorClass.CONFLICT, r"^Ticket with ID .* is already |Order is already completed\.$"),
    # A value outside its domain.
    (ErrorClass.ILLEGAL_VALUE, r"^Invalid (priority|mode|ignition|headlight|option|speed|date|travel class|fields)"),
    (ErrorClass.ILLEGAL_VALUE, r": Invalid character$|^wc: invalid mode |: Unsupported path\.|: path not allowed in "),
    (
        ErrorClass.ILLEGAL_VALUE,
        r"must be positive( values)?\.$|must be between \d+ and \d+\.$|cannot be (negative\.|zero)$",
    ),
    (ErrorClass.ILLEGAL_VALUE, r"^Cannot (calculate|find|divide|fill) |^Conversion (from|resulted) |^int too large"),
    (ErrorClass.ILLEGAL_VALUE, r"Numerical result out of range|^Exceeds the limit|^math domain|^valid range for prec"),
    (ErrorClass.ILLEGAL_VALUE, r"^time data |^unconverted data|^day is out of range"),
    # A value that names nothing here.
    (ErrorClass.NOT_FOUND, r"not found( |\.|$)|: No such (file|directory)|not registered|^No available |^404$"),
    (ErrorClass.NOT_FOUND, r": (Is|Not) a (directory|file)|^Invalid (stock symbol|departure|destination)"),
    (ErrorClass.NOT_FOUND, r"^'[^']{2,}'$"),  # a KeyError; of one character it comes from a string taken for a list
    # A value of the wrong type: the backends' words for it, and the raw leaks of Python that are left.
    (ErrorClass.ARGUMENT_TYPE, r""),
)
"""Error message -> class, first match wins; the last row matches everything."""

_SOFT = re.compile(
    r'^\{"(authentication_status|success|follow_status|unfollow_status)": false\}$'
    r'|^\{"(login_status|verification_status)": false, "'  # alone, `login_status` is the answer to a question
    r'|^\{"(nearest_airport": "Unknown|symbol": "Stock not found|zipcode": "00000|retweet_status": "Already retweeted)"'
)
"""Answers that mean no."""

_ERROR_KEY = ('"error"', "'error'", "Error:")
"""One of these is in every explicit error without the executor's prefix: long answers are rarely parsed in vain."""


def classify(text: str) -> tuple[OutcomeKind, ErrorClass | None]:
    """How a call ended, read from the text it gave back.

    An explicit error is the executor's prefix, or a top-level `error` key, or a list whose first item is such a thing.
    None of the official gold results is one. A soft no is no error. The class is None exactly for a success.
    """
    message = error_message(text)
    if message is None:
        return (OutcomeKind.SOFT_FAILURE, ErrorClass.SOFT) if _SOFT.match(text) else (OutcomeKind.SUCCESS, None)
    error = next(error for pattern, error in ERROR_CLASSES if pattern.search(message))
    return (OutcomeKind.TIMEOUT if error is ErrorClass.LIMIT else OutcomeKind.ERROR, error)


def error_message(text: str) -> str | None:
    """What an explicit error says, without its wrapping; None when the text is no explicit error."""
    if text.startswith(EXECUTION_ERROR):
        return text.removeprefix(EXECUTION_ERROR)
    if not any(key in text for key in _ERROR_KEY):
        return None
    value = _parsed(text)
    if isinstance(value, list) and value:
        value = value[0]
        if isinstance(value, str) and value.startswith("Error:"):
            return value.removeprefix("Error:").strip()
    if isinstance(value, Mapping) and "error" in value:
        return str(value["error"])
    return None


def _parsed(text: str) -> Any:
    """JSON where the executor wrote JSON, a Python literal where it wrote `str(value)`, else None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None

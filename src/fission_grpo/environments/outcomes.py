"""What a BFCL result text means: an answer, a soft no, or an error, and of which class.

Detector and taxonomy are data: ordered tables of compiled patterns, first match wins.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from fission_grpo.environments.bfcl_world import EXECUTION_ERROR
from fission_grpo.types import ErrorClass, OutcomeKind

Pattern: TypeAlias = tuple[re.Pattern[str], ErrorClass]


def _table(*rows: tuple[ErrorClass, str]) -> tuple[Pattern, ...]:
    return tuple((re.compile(pattern, re.DOTALL), error) for error, pattern in rows)


ERROR_CLASSES: tuple[Pattern, ...] = _table(
    # The call itself is wrong: only the interpreter says these.
    (ErrorClass.LIMIT, r"^call refused: |^maximum recursion depth exceeded"),
    (ErrorClass.UNKNOWN_TOOL, r"^name '.*' is not defined$|^Function call .* is not allowed\.$"),
    (ErrorClass.ARGUMENT_SCHEMA, r"\(\) got an unexpected keyword argument|\(\) missing \d+ required "),
    (ErrorClass.ARGUMENT_SCHEMA, r"\(\) got multiple values for |\(\) takes \d+ positional|\(\) takes from \d+ to "),
    # The world is not ready.
    (ErrorClass.PRECONDITION, r"(?i)not authenticated|logged in|log in|^token |access token"),
    (
        ErrorClass.PRECONDITION,
        r"^All doors must be locked|^Brake pedal needs|^Must press the brake|^Fuel tank is empty",
    ),
    (ErrorClass.PRECONDITION, r"^Start the engine before|^Market is closed|^Insufficient funds|budget limit$"),
    (ErrorClass.PRECONDITION, r": Directory not empty$|^Current directory is already the root"),
    # It has happened already.
    (ErrorClass.CONFLICT, r": File exists$|already exists|already registered|[Oo]rder is already completed"),
    (ErrorClass.CONFLICT, r"^Ticket with ID .* is already "),
    # A value outside its domain.
    (ErrorClass.ILLEGAL_VALUE, r"^[Ii]nvalid (priority|mode|ignition|headlight|option|speed|date|travel class|fields)"),
    (
        ErrorClass.ILLEGAL_VALUE,
        r": Invalid character$|: invalid mode '|Unsupported path|path not allowed in destination",
    ),
    (ErrorClass.ILLEGAL_VALUE, r"must be positive|must be between|cannot be (negative|zero)|is not supported$"),
    (
        ErrorClass.ILLEGAL_VALUE,
        r"^Cannot (calculate|find|divide|fill)|too large|out of range|^Exceeds the limit|^math domain",
    ),
    (
        ErrorClass.ILLEGAL_VALUE,
        r"^time data |^unconverted data|does not match format|^valid range for prec|^day is out",
    ),
    # A value that names nothing here.
    (ErrorClass.NOT_FOUND, r"[Nn]ot found|No such (file|directory)|not registered|^No available |^404$"),
    (ErrorClass.NOT_FOUND, r": (Is a|Not a) (directory|file)|^Invalid (stock symbol|departure|destination)|^'..+'$"),
    # A value of the wrong type; what is left are raw leaks of Python (TypeError, AttributeError, KeyError, ...).
    (ErrorClass.ARGUMENT_TYPE, r""),
)
"""Error message -> class, first match wins; the last row matches everything."""

_SOFT = re.compile(
    r'^\{"(authentication_status|success|follow_status|unfollow_status)": false\}$'
    r'|^\{"(login_status|verification_status)": false, "'  # alone, `login_status` is the answer to a question
    r'|^\{"(nearest_airport": "Unknown|symbol": "Stock not found|zipcode": "00000|retweet_status": "Already retweeted)"'
)
"""Answers that mean no."""

_MAY_BE_ERROR = re.compile(r"""["']error["']|\["']Error:""")
"""What every explicit error without the executor's prefix contains; a file that talks of errors seldom does."""


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
    if not _MAY_BE_ERROR.search(text):
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

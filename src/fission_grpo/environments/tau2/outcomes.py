"""What a result of the tau2 telecom domain means. Whether it is an error is not read from its text: tau2 says so."""

from __future__ import annotations

import re

from fission_grpo.environments.bfcl.outcomes import ERROR_CLASSES, Pattern
from fission_grpo.types import ErrorClass, OutcomeKind

ERROR_PREFIX = "Error: "
"""How tau2 begins the text of every exception of a tool; so do our refusals."""
TAU2_LIMIT_ERROR = ERROR_PREFIX + "call refused: "
"""How a call that hit one of our caps is answered (class E8)."""

TAU2_ERROR_CLASSES: tuple[Pattern, ...] = (
    *(
        (re.compile(pattern, re.DOTALL), error)
        for error, pattern in (
            (ErrorClass.UNKNOWN_TOOL, r"^Tool '.*' not found\.$"),
            (ErrorClass.PRECONDITION, r"^Line must be (active|suspended) to "),
            (ErrorClass.CONFLICT, r"^A bill is already awaiting payment"),
            (ErrorClass.ILLEGAL_VALUE, r"^Refuel amount must be positive$|^Unknown ID format or type: "),
            # pydantic's report on the one structured argument, the APN settings
            (ErrorClass.ARGUMENT_SCHEMA, r"^\d+ validation errors? for .*\[type=(missing|extra_forbidden),"),
            (ErrorClass.ILLEGAL_VALUE, r"^\d+ validation errors? for .*\[type=enum,"),
        )
    ),
    *ERROR_CLASSES,
)
"""Error message -> class, first match wins; Python's own words and the last row are those of BFCL."""

_SOFT = re.compile(
    r"^Failed to set network mode: |^Error\. (App|Permission) '|^App '.*' not found on this phone\.$"
    r"|^Cannot change Wi-Fi settings while|^(VPN already connected|No VPN connection to connect)\."
    r"|^No active VPN connection to disconnect\.|^You do not have a payment request\.$"
    r"|^Roaming was already (en|dis)abled$",
    re.DOTALL,
)
"""Answers that mean no, and that tau2 does not count as errors."""


def classify_tau2(text: str, *, error: bool) -> tuple[OutcomeKind, ErrorClass | None]:
    """How a call ended.

    Args:
        text: what the model sees.
        error: tau2's own flag.
    """
    if not error:
        return (OutcomeKind.SOFT_FAILURE, ErrorClass.SOFT) if _SOFT.match(text) else (OutcomeKind.SUCCESS, None)
    if text.startswith(TAU2_LIMIT_ERROR):
        return OutcomeKind.TIMEOUT, ErrorClass.LIMIT
    message = text.removeprefix(ERROR_PREFIX)
    return OutcomeKind.ERROR, next(kind for pattern, kind in TAU2_ERROR_CLASSES if pattern.search(message))

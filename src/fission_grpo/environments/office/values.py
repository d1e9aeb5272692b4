"""Days, times and amounts as the tools of the office take them: text and numbers that are checked before use."""

from __future__ import annotations

import re
from datetime import date

from fission_grpo.errors import ToolError

_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")


def checked_day(text: str) -> str:
    """A day as `2026-05-17`.

    Raises:
        ToolError: it is written in another way, or no such day is in the calendar.
    """
    try:
        written = date.fromisoformat(text).isoformat()
    except ValueError:
        written = ""
    if written != text:  # `20260517` is ISO, too, and would not be found among the days of the others
        raise ToolError(f"invalid day {text!r}: write it as YYYY-MM-DD")
    return text


def minutes_past_midnight(text: str) -> int:
    """A time of day such as `09:30`, in minutes.

    Raises:
        ToolError: it is written in another way.
    """
    if not _TIME.fullmatch(text):
        raise ToolError(f"invalid time {text!r}: write it as HH:MM, from 00:00 to 23:59")
    return int(text[:2]) * 60 + int(text[3:])


def time_of_day(minutes: int) -> str:
    """Minutes past midnight as `09:30`."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def checked_amount(amount: float, what: str = "amount") -> float:
    """A sum of money above nothing.

    Raises:
        ToolError: it is not.
    """
    if amount <= 0:
        raise ToolError(f"invalid {what} {amount:g}: it must be above 0")
    return float(amount)

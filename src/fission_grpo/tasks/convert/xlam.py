"""xLAM and APIGen: `query`, `tools` and `answers`, the last two as JSON text. One decision point a row."""

from __future__ import annotations

from fission_grpo.tasks.convert.calls import calls_of
from fission_grpo.tasks.convert.dialogue import point_of
from fission_grpo.tasks.convert.form import Draft, Form, RowError, SourceRow, wanted
from fission_grpo.tasks.convert.tools import tools_of


def _records(row: SourceRow) -> list[Draft]:
    tools = tools_of(row["tools"])
    try:
        gold = calls_of(row["answers"], tools)
    except ValueError as error:
        raise RowError("the answers are no calls", str(error)) from error
    return [point_of([{"role": "user", "content": wanted(row, "query", str)}], tools, gold)]


XLAM = Form(name="xlam", marks=("query", "tools", "answers"), records=_records)

"""Errors by class and by tool, and what the policy made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fission_grpo.evaluation.metrics import fates, recovery_by_class, recovery_by_tool
from fission_grpo.evaluation.paired import EvaluatedArm
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.report.flow import Fates
from fission_grpo.report.page.charts import Slice, fate_slices, flow_chart
from fission_grpo.report.page.markdown import html_of
from fission_grpo.report.tables import classes_glossary, error_name, macro_table
from fission_grpo.types import ErrorClass


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowPanel:
    """Where the errors of one run, or of one part of a run, went."""

    title: str
    total: int
    slices: tuple[Slice, ...]
    chart: Markup


def flow_panel(title: str, counts: Fates) -> FlowPanel:
    """Ribbons, and one bar that sums them up."""
    total = sum(sum(row.values()) for row in counts.values())
    return FlowPanel(title=title, total=total, slices=fate_slices(counts), chart=flow_chart(counts, title=title))


def flow_panels(arms: Sequence[EvaluatedArm], *, titled: str = "") -> list[FlowPanel]:
    """One for each arm, its runs together.

    Args:
        titled: what stands before the name of the arm, where other panels stand beside them.
    """
    return [flow_panel(f"{titled}, {arm.name}" if titled else arm.name, fates(arm.records)) for arm in arms]


def recovery_tables(arms: Sequence[EvaluatedArm]) -> list[Markup]:
    """Recovery by class and by tool, as in `summary.md`; what was spent stands elsewhere on the page."""
    runs: list[Sequence[EpisodeRecord]] = [run for arm in arms for run in arm.runs.values()]
    by_class = macro_table(recovery_by_class(runs), arms, error_name, costs={})
    by_tool = macro_table(recovery_by_tool(runs), arms, lambda tool: f"`{tool}`", costs={})
    return [html_of(_without_costs(table)) for table in (by_class, by_tool)]


def _without_costs(table: str) -> str:
    return "\n".join(line for line in table.split("\n") if not line.startswith("| *Spent by a run*"))


def glossary(errors: Iterable[ErrorClass]) -> Markup:
    """The classes that occur, in words."""
    return html_of(classes_glossary(errors))

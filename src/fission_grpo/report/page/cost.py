"""What a run spent: time by phase, tokens, simulator calls; the table is that of `summary.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fission_grpo.evaluation.paired import EvaluatedArm
from fission_grpo.report.costs import PHASES, budget_table
from fission_grpo.report.page.charts import Slice, slices
from fission_grpo.report.page.markdown import html_of
from fission_grpo.report.page.sources import PageRun
from fission_grpo.report.results import MetricsRows
from fission_grpo.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE
from fission_grpo.report.tables import effort_table
from fission_grpo.types import GroupKind

SEEN = 0.005
"""Share of the time below which a phase is not shown."""
PHASE_COLOURS = dict(zip(PHASES, (GREY, BLUE, PURPLE, ORANGE, GREEN), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Of one run."""

    name: str
    seconds: float
    phases: tuple[Slice, ...]
    sentence: str


def spending(run: PageRun) -> Spending:
    """Where the time went, and what sharing and the simulator cost."""
    sums = {name: sum(float(row.get(name) or 0.0) for row in run.rows) for name in _KEYS}
    seconds = {phase: sums[f"time/{phase}"] for phase in PHASES}
    return Spending(
        name=run.name,
        seconds=sum(seconds.values()),
        phases=slices(
            {
                phase: (spent, PHASE_COLOURS[phase])
                for phase, spent in seconds.items()
                if spent >= SEEN * sum(seconds.values())
            }
        ),
        sentence=" ".join(filter(None, (_tokens(sums), _simulator(run)))),
    )


_KEYS = (
    *(f"time/{phase}" for phase in PHASES),
    *("generate/sampled", "generate/raw", "generate/prefilled", "generate/decoded"),
    *("update/unique_tokens", "update/raw_tokens"),
)


def _tokens(sums: Mapping[str, float]) -> str:
    unique, raw = sums["update/unique_tokens"], sums["update/raw_tokens"]
    words = f"{sums['generate/sampled']:,.0f} tokens were sampled"
    if unique:
        words += (
            f"; {unique:,.0f} were trained on, shared prefixes once ({raw / unique:.1f} times as many as separate rows)"
        )
    return f"{words}."


def _simulator(run: PageRun) -> str:
    given = [trace for trace in run.traces if trace["kind"] == GroupKind.FISSION]
    if not given:
        return ""
    costs = [trace.get("feedback_cost") or {} for trace in given]
    tokens = sum(one.get("tokens", 0) + one.get("prompt_tokens", 0) for one in costs)
    seconds = sum(one.get("seconds", 0.0) for one in costs)
    origins = sorted({str(trace.get("feedback_origin")) for trace in given})
    price = f"{tokens:,} tokens and {seconds:,.0f} seconds" if tokens else "no tokens"
    return f"The simulator ({', '.join(origins)}) wrote the feedback of {len(given):,} contexts for {price}."


def budget(arms: Mapping[str, Sequence[MetricsRows]]) -> Markup:
    """The table of what each arm spent."""
    return html_of(budget_table(arms))


def effort(arms: Sequence[EvaluatedArm]) -> Markup:
    """What a recovery takes in an evaluation."""
    return html_of(effort_table(arms))


def duration(seconds: float) -> str:
    """`2 h 05 min`, `4 min 10 s` or `12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

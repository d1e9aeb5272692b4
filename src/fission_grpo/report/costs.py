"""What each arm spent: beside every table, so that nobody reads a difference without its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fission_grpo.files import read_json
from fission_grpo.report.results import DEMONSTRATIONS, MetricsRows, Results
from fission_grpo.report.tables import markdown_table

PHASES = ("collect", "explore", "observe", "recover", "update")
"""Of a training step, by the names that `metrics.jsonl` gives their times."""


def budget_table(curves: Mapping[str, Sequence[MetricsRows]]) -> str:
    """What each arm spent, as means over its runs, from the rows of `metrics.jsonl`."""
    spent: tuple[tuple[str, Callable[[MetricsRows], float]], ...] = (
        ("updates", _updates),
        ("rollouts", _rollouts),
        ("of these recoveries", lambda run: _sum(run, "fission/rollouts")),
        ("of these before the first update, for a pool", lambda run: _sum(run, "collect/rollouts")),
        ("sampled tokens", _sampled),
        ("trained tokens, shared prefixes once", _trained),
        ("trained tokens, separate rows", lambda run: _sum(run, "update/raw_tokens")),
        ("seconds", lambda run: _sum(run, *(f"time/{phase}" for phase in PHASES))),
    )
    rows = [[title, *(f"{_mean(count, runs):,.0f}" for runs in curves.values())] for title, count in spent]
    return markdown_table(["Spent (mean of runs)", *curves], rows)


def arm_costs(results: Results, curves: Mapping[str, Sequence[MetricsRows]]) -> dict[str, str]:
    """What each policy spent, in one line; those that nothing is known of are left out.

    Args:
        curves: by arm, of each run.
    """
    return {**_demonstrated(results), **{arm: _cost(runs) for arm, runs in curves.items()}}


def _cost(runs: Sequence[MetricsRows]) -> str:
    sampled, trained = (_short(_mean(count, runs)) for count in (_sampled, _trained))
    return f"{_mean(_rollouts, runs):,.0f} rollouts; {sampled} tokens sampled, {trained} trained"


def _demonstrated(results: Results) -> dict[str, str]:
    """The same in every seed; folders older than the account of what was shown have none."""
    path = results.demonstrated(results.seeds[0])
    if not path.exists():
        return {}
    shown = read_json(path, "demonstrations", "clean", "updates", remedy="delete it, or run the demonstrations again")
    words = f"{shown['demonstrations']:,} error-and-fix + {shown['clean']:,} clean rows, {shown['updates']} updates"
    return {DEMONSTRATIONS: words}


def _short(tokens: float) -> str:
    if tokens >= 999_500:
        return f"{tokens / 1e6:.2f} M"
    return f"{tokens / 1e3:.0f} k" if tokens >= 10_000 else f"{tokens:,.0f}"


def _updates(run: MetricsRows) -> float:
    """One a step, but where recoveries have a step of their own; rows of older runs do not say it."""
    return sum(float(row.get("update/updates", 1.0)) for row in run)


def _rollouts(run: MetricsRows) -> float:
    return _sum(run, "rollouts", "fission/rollouts", "collect/rollouts")


def _sampled(run: MetricsRows) -> float:
    return _sum(run, "generate/sampled")


def _trained(run: MetricsRows) -> float:
    return _sum(run, "update/unique_tokens")


def _mean(count: Callable[[MetricsRows], float], runs: Sequence[MetricsRows]) -> float:
    return sum(map(count, runs)) / max(len(runs), 1)


def _sum(run: MetricsRows, *names: str) -> float:
    return sum(float(row.get(name, 0.0)) for row in run for name in names)

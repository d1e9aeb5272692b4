"""Runs against a baseline as Markdown: differences, what changed sides, what was left out, and what noise allows."""

from __future__ import annotations

from collections.abc import Sequence

from fission_grpo.evaluation.blind_spot import BlindSpot
from fission_grpo.evaluation.compare_runs import PartContrast, RunComparison
from fission_grpo.evaluation.metrics import Better
from fission_grpo.evaluation.paired import Contrast, Paired
from fission_grpo.report.tables import judgement, markdown_table, p_value, points

LISTED = 40
"""Most entries spelled out in a line; all of them are in the JSON."""


def comparison_markdown(comparison: RunComparison) -> str:
    """The whole comparison."""
    runs = [f"- **{run.name}**: `{run.path}`" for run in comparison.runs]
    parts = [_part(one) for one in comparison.contrasts]
    return "\n".join(["# Comparison", "\nThe baseline is the first.\n", *runs, *parts]) + "\n"


def contrasts_table(contrasts: Sequence[Contrast], baseline: str, treatment: str) -> str:
    """Paired differences in points."""
    header = ["", baseline, treatment, "difference [95 %]", "p (swap)", "fixed / broken"]
    return markdown_table(header, [_row(one) for one in contrasts])


def verdict_of(one: Contrast) -> str:
    """One sentence: the difference, and whether it settles anything."""
    settled = one.p_value is not None and one.p_value < 0.05 and one.interval.excludes_zero
    return f"{one.title}: {points(one)} points, p = {p_value(one)}: {judgement(one, settled=settled)}."


def noise_statement(one: Contrast, paired: Paired) -> str:
    """What this comparison could have seen."""
    size = f"{paired.entries} entries in {paired.scenarios} scenarios"
    if one.change.resolvable is None:
        return f"Noise: on {size} the runs never differ in {one.title.lower()}, so nothing is known of the variance."
    smallest = 100 * one.change.resolvable
    return (
        f"Noise: with {size} and this much disagreement of the runs, a true difference in {one.title.lower()} must "
        f"be about {smallest:.1f} points to be found with 80 % power (5 %, two-sided). A smaller one may be there and "
        "go unseen. Other samples of the same models (temperature, seeds) are not in this figure."
    )


def blind_spot_markdown(found: BlindSpot) -> str:
    """Both sides of the blind-spot probe and the gap."""
    paired = found.paired
    relative = "undefined" if found.relative != found.relative else f"{100 * found.relative:.1f} %"
    return "\n".join(
        [
            contrasts_table(found.contrasts, "own error", "another's error"),
            f"{verdict_of(found.gap)} Relative blind spot (1 - own / another's): {relative}.\n",
            f"{paired.entries} pairs. {_left_out(paired)}\n",
        ]
    )


def _part(one: PartContrast) -> str:
    lines = [
        f"\n## {one.treatment} against {one.baseline}: {one.part}\n",
        f"{paired_sentence(one.paired)} {_left_out(one.paired)}\n",
        verdict_of(one.headline),
        f"\n{noise_statement(one.headline, one.paired)}\n",
        contrasts_table(one.contrasts, one.baseline, one.treatment),
        f"Newly fixed ({len(one.headline.fixed)}): {_listed(one.headline.fixed)}\n",
        f"Newly broken ({len(one.headline.broken)}): {_listed(one.headline.broken)}\n",
    ]
    return "\n".join(lines)


def paired_sentence(paired: Paired) -> str:
    """On what the runs are compared."""
    return f"{paired.entries} entries in both runs, {paired.scenarios} scenarios."


def _left_out(paired: Paired) -> str:
    if not paired.excluded:
        return "Nothing was excluded."
    reasons = {
        "only in the baseline": paired.only_before,
        "only in the treatment": paired.only_after,
        "met a harness fault": paired.faulty,
    }
    named = "; ".join(f"{len(names)} {reason}: {_listed(names)}" for reason, names in reasons.items() if names)
    return f"**{paired.excluded} entries are excluded**: {named}."


def _row(one: Contrast) -> list[str]:
    sides = f"{len(one.fixed)} / {len(one.broken)}" if one.metric.better is Better.HIGHER else "-"
    return [one.metric.heading, str(one.before), str(one.after), points(one), p_value(one), sides]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:LISTED]) or "none"
    return f"{shown}, and {len(names) - LISTED} more" if len(names) > LISTED else shown

"""The comparison of all arms as `summary.md` with its pictures, read back from the files that the arms left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from fission_grpo.evaluation.group_outcomes import GroupAccount, account_groups, group_outcome
from fission_grpo.evaluation.heldout import Evaluation
from fission_grpo.evaluation.metrics import (
    EPISODE_METRICS,
    ERR,
    FINAL,
    FIRST_ATTEMPT,
    PROBE,
    PROBE_METRICS,
    Metric,
    measure,
)
from fission_grpo.evaluation.paired import Comparison, EvaluatedArm, compare_arms
from fission_grpo.files import read_jsonl, write_text
from fission_grpo.report.figures import curves_figure, rates_figure, read_metrics
from fission_grpo.report.results import DEMONSTRATIONS, WARM_START, Results
from fission_grpo.report.style import arm_colours
from fission_grpo.report.tables import (
    budget_table,
    comparisons_table,
    effort_table,
    groups_table,
    markdown_table,
    metrics_table,
    probes_by_class_table,
    repeats_table,
    verdict_sentence,
)
from fission_grpo.report.tree import fission_trees, most_telling, text_tree
from fission_grpo.report.tree_figure import tree_figure

HEADLINES = (("grpo-decision", "fission-decision"), ("grpo-matched", "fission"))
"""Pairs that differ in nothing but fission: in the paper's setting, and in whole episodes."""
PAIRS = (*HEADLINES, ("grpo-decision", "fission"))
"""Which arms are compared, where both were run."""
FISSIONED = tuple(treatment for _, treatment in HEADLINES)


def write_summary(results: Results) -> None:
    """Read every evaluation back and write `summary.md` with its pictures."""
    evaluations = _load(results)
    arms = _arms(evaluations, "episodes")
    probes = {part: _arms(evaluations, part) for part in ("mixed", "precondition", "transfer")}
    comparisons = _comparisons(arms, probes)
    colours = arm_colours([arm.name for arm in arms])
    rates_figure(arms, (FINAL, ERR, FIRST_ATTEMPT), results.folder / "episodes.png", colours=colours)
    rates_figure(probes["mixed"], PROBE_METRICS, results.folder / "probe.png", colours=colours)
    curves = {arm: [read_metrics(results.run(arm, seed).metrics) for seed in results.seeds] for arm in results.arms}
    curves_figure(curves, results.folder / "curves.png", colours=colours)
    accounts = {arm: _account(results, arm) for arm in results.arms}
    sections = [
        "# Quickstart: what fission teaches",
        *(
            f"- *{part}*: {verdict_sentence(one)}"
            for part, ones in comparisons.items()
            for one in ones
            if (one.baseline, one.treatment) in HEADLINES
        ),
        f"\n{results.size} held-out tasks; {len(results.seeds)} training seed(s). "
        "Cells: rate (count) with Wilson 95 % intervals over pooled runs, somewhat too narrow where runs share tasks; "
        "differences: paired bootstrap over tasks and seeds.",
        "\n## At a glance\n",
        _glance(arms, probes),
        "\n## Fixed-error probe, all kinds of errors\n\n![probe](probe.png)\n",
        metrics_table(probes["mixed"], PROBE_METRICS),
        probes_by_class_table(probes["mixed"]),
        "\n## Fixed-error probe, unmet preconditions only\n",
        metrics_table(probes["precondition"], PROBE_METRICS),
        "\n## Held-out episodes\n\n![episodes](episodes.png)\n",
        metrics_table(arms, EPISODE_METRICS),
        "\nIdentical repeats by error class:\n",
        repeats_table(arms),
        effort_table(arms),
        "\n## An API never trained on (transfer)\n",
        metrics_table(probes["transfer"], (FIRST_ATTEMPT, FINAL, ERR)),
        "\n## Paired differences\n",
        *(f"\n{part}:\n\n{comparisons_table(ones)}" for part, ones in comparisons.items() if ones),
        "\n## What each arm spent\n",
        budget_table(curves),
        "\n## Groups without signal\n\n![curves](curves.png)\n",
        groups_table(accounts),
        *_tree_section(results),
    ]
    write_text(results.summary, "\n".join(sections) + "\n")
    write_text(
        results.folder / "summary.json",
        json.dumps([{"on": part, **_flat(one)} for part, ones in comparisons.items() for one in ones], indent=2) + "\n",
    )


def _glance(arms: Sequence[EvaluatedArm], probes: Mapping[str, Sequence[EvaluatedArm]]) -> str:
    """One row for each arm, the numbers that matter most."""
    header = ["", "first attempt", "final success", "ERR", "probe: next call", "probe: solved", "precondition: solved"]
    rows = [
        [
            arm.name,
            *(str(measure(metric, arm.records)) for metric in (FIRST_ATTEMPT, FINAL, ERR)),
            *(str(measure(metric, mixed.records)) for metric in (PROBE, FINAL)),
            str(measure(FINAL, precondition.records)),
        ]
        for arm, mixed, precondition in zip(arms, probes["mixed"], probes["precondition"], strict=True)
    ]
    return markdown_table(header, rows)


def _account(results: Results, arm: str) -> GroupAccount:
    """Each run by itself, because group ids repeat from run to run; then all of them together."""
    first, *others = (
        account_groups(outcome for outcome in map(group_outcome, read_jsonl(results.run(arm, seed).traces)) if outcome)
        for seed in results.seeds
    )
    return sum(others, start=first)


def _tree_section(results: Results) -> Iterator[str]:
    arm = next((arm for arm in FISSIONED if arm in results.arms), None)
    if arm is None:
        return
    runs = [list(read_jsonl(results.run(arm, seed).traces)) for seed in results.seeds]
    tree = most_telling([tree for run in runs for tree in fission_trees(run)])
    if tree is not None:
        tree_figure(tree, results.folder / "tree.png")
        yield "\n## One fission tree (chosen because it tells much)\n\n![tree](tree.png)\n"
        yield f"```\n{text_tree(tree)}\n```"


def _comparisons(
    arms: Sequence[EvaluatedArm], probes: Mapping[str, Sequence[EvaluatedArm]]
) -> dict[str, list[Comparison]]:
    """Paired comparisons, by what they were measured on."""
    by_name = {arm.name: arm for arm in arms}
    pairs = [pair for pair in PAIRS if set(pair) <= by_name.keys()]
    starts = [(WARM_START, treatment) for treatment in FISSIONED if treatment in by_name]
    found = {"held-out episodes": _compare(by_name, (*pairs, *starts), (FIRST_ATTEMPT, FINAL, ERR))}
    for part, title in (("mixed", "probe, all kinds of errors"), ("precondition", "probe, unmet preconditions")):
        found[title] = _compare({arm.name: arm for arm in probes[part]}, pairs, (PROBE, FINAL))
    return found


def _compare(
    by_name: Mapping[str, EvaluatedArm], pairs: Sequence[tuple[str, str]], metrics: Sequence[Metric]
) -> list[Comparison]:
    return [compare_arms(metric, by_name[a], by_name[b]) for a, b in pairs for metric in metrics]


def _load(results: Results) -> dict[str, dict[int, Evaluation]]:
    """Every evaluation by arm and seed."""
    seeds = {WARM_START: (0,), **dict.fromkeys((DEMONSTRATIONS, *results.arms), results.seeds)}
    return {
        name: {seed: Evaluation.load(results.evaluation(name, seed)) for seed in of_arm}
        for name, of_arm in seeds.items()
    }


def _arms(evaluations: Mapping[str, Mapping[int, Evaluation]], part: str) -> list[EvaluatedArm]:
    return [
        EvaluatedArm(name=name, runs={seed: getattr(evaluation, part) for seed, evaluation in runs.items()})
        for name, runs in evaluations.items()
    ]


def _flat(comparison: Comparison) -> dict[str, object]:
    return {
        "metric": comparison.metric.name,
        "baseline": comparison.baseline,
        "treatment": comparison.treatment,
        "difference": comparison.difference,
        "low": comparison.interval.low,
        "high": comparison.interval.high,
        "tasks": comparison.tasks,
        "runs": list(comparison.runs),
    }

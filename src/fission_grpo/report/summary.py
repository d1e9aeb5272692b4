"""The comparison of all arms as `summary.md` with its pictures, read back from the files that the arms left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from fission_grpo.evaluation.group_outcomes import GroupAccount, account_groups, group_outcome
from fission_grpo.evaluation.heldout import Evaluation
from fission_grpo.evaluation.metrics import (
    ERR,
    FINAL,
    FIRST_ATTEMPT,
    PROBE,
    PROBE_METRICS,
    Macro,
    error_classes,
    recovery_by_class,
    recovery_by_tool,
)
from fission_grpo.evaluation.paired import (
    Comparison,
    EvaluatedArm,
    compare_arms,
    compare_macro,
    estimate_arm,
    estimate_macro,
)
from fission_grpo.evaluation.statistics import Share
from fission_grpo.files import read_jsonl, write_text
from fission_grpo.report.arms import ARM_WORDS
from fission_grpo.report.costs import arm_costs
from fission_grpo.report.figures import curves_figure, rates_figure, read_metrics
from fission_grpo.report.headline import headline
from fission_grpo.report.results import DEMONSTRATIONS, WARM_START, MetricsRows, Results
from fission_grpo.report.spread import run_values, runs_figure
from fission_grpo.report.style import arm_colours
from fission_grpo.report.tables import (
    ARM_INTERVALS,
    Costs,
    aligned,
    markdown_table,
    verdict_sentence,
)
from fission_grpo.report.tree import FissionTree, fission_trees, most_telling
from fission_grpo.report.tree_figure import tree_figure
from fission_grpo.types import ErrorClass

HEADLINES = (("grpo-decision", "fission-decision"), ("grpo-matched", "fission"))
"""Pairs that differ in nothing but fission: in the paper's setting, and in whole episodes."""
ALIKE = (
    *HEADLINES,
    ("grpo-decision-tokens", "fission-decision"),
    ("grpo-mixed", "fission-decision"),
    ("grpo-decision-plain", "fission-decision"),
    ("grpo-decision", "fission-decision-turn"),
    ("grpo-mixed", "fission-decision-turn"),
    ("grpo-tokens", "fission"),
    ("grpo", "fission"),
)
"""Pairs of one family, which explore alike: the first of them that was run is the headline."""
PAIRS = (*ALIKE, ("grpo-decision", "fission"))
"""Which arms are compared, control and treatment, where both were run. The last pair differs in exploration as well."""
FISSIONED = tuple(dict.fromkeys(treatment for _, treatment in PAIRS))
PROBED = {"mixed": "probe, all kinds of errors", "precondition": "probe, unmet preconditions"}
"""What the arms are compared on besides the held-out episodes."""
EPISODES = "held-out episodes"
REPORT = "report.html"
"""The page beside `summary.md`."""

Compare: TypeAlias = Callable[[EvaluatedArm, EvaluatedArm], Comparison]


def write_summary(results: Results) -> None:
    """Read every evaluation back and write `summary.md`, one screen, with its pictures; all tables are on the page of
    `fission report`."""
    evaluations = load_evaluations(results)
    arms = arms_on(evaluations, "episodes")
    probes = {part: arms_on(evaluations, part) for part in (*PROBED, "transfer")}
    runs = [run for arm in arms for run in arm.runs.values()]
    macros = Macros(by_tool=recovery_by_tool(runs), by_class=recovery_by_class(runs))
    comparisons = arm_comparisons(arms, probes, macros)
    curves = {arm: [read_metrics(results.run(arm, seed).metrics) for seed in results.seeds] for arm in results.arms}
    costs = arm_costs(results, curves)
    drawn = _draw(results, arms, probes, curves)
    several = f"{len(results.seeds)} training runs of each arm" if len(results.seeds) > 1 else "one training run an arm"
    sections = [
        "# Quickstart: what fission teaches\n",
        first_line(comparisons[EPISODES]),
        f"\n{results.size} held-out tasks, {several}; in brackets {ARM_INTERVALS}.\n",
        screen_table(arms, probes["mixed"]),
        *(f"- *{name}*: {words}." for name, words in _words(arms, costs)),
        "",
        " ".join(f"![{path.stem}]({path.name})" for path in drawn),
        f"\nEvery table, every class of error, trees and samples: `{REPORT}` beside this file; a browser opens it.",
    ]
    write_text(results.summary, "\n".join(sections) + "\n")
    write_text(
        results.folder / "summary.json",
        json.dumps([{"on": part, **_flat(one)} for part, ones in comparisons.items() for one in ones], indent=2) + "\n",
    )


def screen_table(arms: Sequence[EvaluatedArm], mixed: Sequence[EvaluatedArm]) -> str:
    """Four numbers an arm, aligned for a terminal, without counts."""
    header = ["", "solved at once", "solved in the end", "solved after an error", "probe: next call right"]
    rows = [
        [arm.name, *(_short(estimate_arm(metric, arm)) for metric in (FIRST_ATTEMPT, FINAL, ERR)), _short(probe)]
        for arm, probe in zip(arms, (estimate_arm(PROBE, one) for one in mixed), strict=True)
    ]
    return aligned(markdown_table(header, rows))


def _short(share: Share) -> str:
    low, high = 100 * share.interval.low, 100 * share.interval.high
    return f"{100 * share.value:.1f} % [{low:.0f}, {high:.0f}]" if share.total else "-"


def _words(arms: Sequence[EvaluatedArm], costs: Costs) -> Iterator[tuple[str, str]]:
    """What each arm is, and what a run of it spent."""
    for arm in arms:
        line = ARM_WORDS[arm.name].line if arm.name in ARM_WORDS else ""
        yield arm.name, ". Spent: ".join(filter(None, (line, costs.get(arm.name))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Macros:
    """Mean recovery over the tools and over the classes that occur in all arms together."""

    by_tool: Macro
    by_class: Macro


def _draw(
    results: Results,
    arms: Sequence[EvaluatedArm],
    probes: Mapping[str, Sequence[EvaluatedArm]],
    curves: Mapping[str, Sequence[MetricsRows]],
) -> list[Path]:
    folder, colours = results.folder, arm_colours([arm.name for arm in arms])
    tree = _telling_tree(results)
    return [
        rates_figure(arms, (FINAL, ERR, FIRST_ATTEMPT), folder / "episodes.png", colours=colours),
        rates_figure(probes["mixed"], PROBE_METRICS, folder / "probe.png", colours=colours),
        runs_figure(run_values(arms, probes), folder / "runs.png", colours=colours),
        curves_figure(curves, folder / "curves.png", colours=colours),
        *([tree_figure(tree, folder / "tree.png")] if tree else []),
    ]


def first_line(episodes: Sequence[Comparison]) -> str:
    """The headline of the first pair of one family that was run."""
    by_metric = {(one.baseline, one.treatment, one.metric.name): one for one in episodes}
    for control, treatment in ALIKE:
        if recovery := by_metric.get((control, treatment, ERR.name)):
            final, first = (by_metric[control, treatment, metric.name] for metric in (FINAL, FIRST_ATTEMPT))
            return headline(recovery, final, first)
    return "Nothing comparable was run: no arm with fission stands beside a control that explores as it does."


def glance_table(
    arms: Sequence[EvaluatedArm], probes: Mapping[str, Sequence[EvaluatedArm]], by_tool: Macro, costs: Costs
) -> str:
    """One row for each arm, the numbers that matter most."""
    header = ["", "spent by a run", "runs", "first attempt", "final success", "ERR", by_tool.title]
    header += ["probe: next call", "probe: solved", "precondition: next call", "precondition: solved"]
    rows = [
        [
            arm.name,
            costs.get(arm.name, "-"),
            str(len(arm.runs)),
            *(str(estimate_arm(metric, arm)) for metric in (FIRST_ATTEMPT, FINAL, ERR)),
            str(estimate_macro(by_tool, arm)) if by_tool.slices else "-",
            *(str(estimate_arm(metric, one)) for one in (mixed, precondition) for metric in (PROBE, FINAL)),
        ]
        for arm, mixed, precondition in zip(arms, probes["mixed"], probes["precondition"], strict=True)
    ]
    return markdown_table(header, rows)


def verdict_list(comparisons: Mapping[str, Sequence[Comparison]]) -> str:
    """In sentences, those that differ in nothing but fission."""
    return "".join(
        f"- *{part}*: {verdict_sentence(one)}\n"
        for part, ones in comparisons.items()
        for one in ones
        if (one.baseline, one.treatment) in HEADLINES
    )


def classes_that_occur(evaluations: Mapping[str, Mapping[int, Evaluation]]) -> set[ErrorClass]:
    """Classes of errors anywhere, injected ones included."""
    parts = [part for runs in evaluations.values() for one in runs.values() for part in one.parts.values()]
    injected = {record.probe.error for part in parts for record in part if record.probe is not None}
    return injected.union(*map(error_classes, parts))


def account_arm(results: Results, arm: str) -> GroupAccount:
    """Each run by itself, because group ids repeat from run to run; then all of them together."""
    first, *others = (
        account_groups(outcome for outcome in map(group_outcome, read_jsonl(results.run(arm, seed).traces)) if outcome)
        for seed in results.seeds
    )
    return sum(others, start=first)


def _telling_tree(results: Results) -> FissionTree | None:
    """Of the first run of the first arm with fission, chosen because it tells much."""
    arm = next((arm for arm in FISSIONED if arm in results.arms), None)
    if arm is None:
        return None
    return most_telling(fission_trees(list(read_jsonl(results.run(arm, results.seeds[0]).traces))))


def arm_comparisons(
    arms: Sequence[EvaluatedArm], probes: Mapping[str, Sequence[EvaluatedArm]], macros: Macros
) -> dict[str, list[Comparison]]:
    """Paired comparisons, by what they were measured on."""
    by_name = {arm.name: arm for arm in arms}
    pairs = [pair for pair in PAIRS if set(pair) <= by_name.keys()]
    starts = [(WARM_START, treatment) for treatment in FISSIONED if treatment in by_name]
    means = [partial(compare_macro, macro) for macro in (macros.by_tool, macros.by_class) if macro.slices]
    on_episodes: list[Compare] = [*(partial(compare_arms, metric) for metric in (FIRST_ATTEMPT, FINAL, ERR)), *means]
    on_probes: list[Compare] = [partial(compare_arms, metric) for metric in (PROBE, FINAL)]
    found = {EPISODES: _compare(by_name, (*pairs, *starts), on_episodes)}
    for part, title in PROBED.items():
        found[title] = _compare({arm.name: arm for arm in probes[part]}, pairs, on_probes)
    return found


def _compare(
    by_name: Mapping[str, EvaluatedArm], pairs: Sequence[tuple[str, str]], comparisons: Sequence[Compare]
) -> list[Comparison]:
    return [compare(by_name[a], by_name[b]) for a, b in pairs for compare in comparisons]


def load_evaluations(results: Results) -> dict[str, dict[int, Evaluation]]:
    """Every evaluation by arm and seed."""
    return {
        name: {seed: Evaluation.load(results.evaluation(name, seed)) for seed in results.seeds_of(name)}
        for name in (WARM_START, DEMONSTRATIONS, *results.arms)
    }


def arms_on(evaluations: Mapping[str, Mapping[int, Evaluation]], part: str) -> list[EvaluatedArm]:
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

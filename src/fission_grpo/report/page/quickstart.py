"""The page of a quickstart: all arms side by side, and one run of the two arms of the headline to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fission_grpo.evaluation.heldout import Evaluation
from fission_grpo.evaluation.metrics import (
    EPISODE_METRICS,
    ERR,
    FINAL,
    FIRST_ATTEMPT,
    PROBE_METRICS,
    recovery_by_class,
    recovery_by_tool,
)
from fission_grpo.evaluation.paired import Comparison, EvaluatedArm
from fission_grpo.files import read_jsonl
from fission_grpo.report.arms import arms_glossary
from fission_grpo.report.costs import arm_costs, budget_table
from fission_grpo.report.figures import read_metrics
from fission_grpo.report.page.cost import effort, spending
from fission_grpo.report.page.curves import charts_of_arms
from fission_grpo.report.page.errors import flow_panels, glossary, recovery_tables
from fission_grpo.report.page.markdown import html_of
from fission_grpo.report.page.page import Page, Table
from fission_grpo.report.page.provenance import folder_facts, source_facts
from fission_grpo.report.page.runs import PART_TITLES, rates_of
from fission_grpo.report.page.samples import Episodes, payload_of
from fission_grpo.report.page.signal import group_bars, signal_sentence
from fission_grpo.report.page.sources import PageRun, read_settings_file
from fission_grpo.report.page.verdict import (
    Caution,
    Tile,
    evaluation_cautions,
    few_runs,
    ordered,
    percent,
    training_cautions,
)
from fission_grpo.report.results import Results
from fission_grpo.report.spread import run_values, spread_table
from fission_grpo.report.style import arm_colours
from fission_grpo.report.summary import (
    ALIKE,
    EPISODES,
    PROBED,
    Macros,
    account_arm,
    arm_comparisons,
    arms_on,
    classes_that_occur,
    first_line,
    glance_table,
    load_evaluations,
    verdict_list,
)
from fission_grpo.report.tables import (
    Costs,
    comparisons_table,
    groups_table,
    metrics_table,
    points,
    probes_by_class_table,
    repeats_table,
)


def page_of_quickstart(results: Results, *, samples: int, seed: int) -> Page:
    """Read into a page: see `Page`. Its numbers are those of `summary.md`, by the same functions."""
    evaluations = load_evaluations(results)
    arms = arms_on(evaluations, "episodes")
    probes = {part: arms_on(evaluations, part) for part in (*PROBED, "transfer")}
    found = [run for arm in arms for run in arm.runs.values()]
    macros = Macros(by_tool=recovery_by_tool(found), by_class=recovery_by_class(found))
    comparisons = arm_comparisons(arms, probes, macros)
    curves = {arm: [read_metrics(results.run(arm, one).metrics) for one in results.seeds] for arm in results.arms}
    costs = arm_costs(results, curves)
    pair, colours = headline_pair(comparisons[EPISODES]), arm_colours(arm.name for arm in arms)
    runs = [_run(results, arm, evaluations[arm][results.seeds[0]]) for arm in pair]
    return Page(
        title=results.folder.resolve().name,
        kind=f"Quickstart of {len(arms)} arms",
        about=f"{results.size} held-out tasks; {len(results.seeds)} training runs an arm",
        verdict=first_line(comparisons[EPISODES]),
        tiles=list(_tiles(comparisons[EPISODES], pair)),
        cautions=_cautions(results, runs, arms),
        outcomes=[
            Table(title="On the held-out episodes", body=rates_of(arms, (FINAL, ERR, FIRST_ATTEMPT), colours)),
            Table(title="At a glance", body=html_of(glance_table(arms, probes, macros.by_tool, costs))),
            *_folded("In sentences", verdict_list(comparisons)),
            *_folded("What the arms are", arms_glossary(arm.name for arm in arms)),
            *_folded("How far runs lie apart", spread_table(run_values(arms, probes), costs=costs)),
            *_paired_tables(comparisons, costs),
            *_folded("All metrics: held-out episodes", metrics_table(arms, EPISODE_METRICS)),
            *_probe_tables(probes),
            *_folded("Probe, all kinds of errors: by class", probes_by_class_table(probes["mixed"], costs=costs)),
        ],
        charts=charts_of_arms(curves, colours),
        legend={arm: colours[arm] for arm in curves},
        shown=pair,
        signal=list(_signal(results, runs)),
        signal_sentence=" ".join(f"{run.name}: {signal_sentence(run)}" for run in runs if run.traces),
        flows=flow_panels([arm for arm in arms if not pair or arm.name in (pair[0], pair[1], arms[0].name)]),
        errors=[
            Table(title=f"Recovery {title}", body=body, folded=title == "by tool")
            for title, body in zip(("by class of error", "by tool"), recovery_tables(arms), strict=True)
        ]
        + [*_folded("Identical repeats by class of error", repeats_table(arms, costs=costs))],
        glossary=glossary(classes_that_occur(evaluations)),
        spending=[spending(run) for run in runs],
        costs=[
            Table(title="What each arm spent", body=html_of(budget_table(curves))),
            Table(title="What a recovery takes", body=effort(arms)),
        ],
        sources=[folder_facts(results.folder), *(source_facts(run) for run in runs)],
        payload=payload_of(
            [run for run in runs if run.traces],
            list(_episodes(runs, comparisons[EPISODES], pair)),
            samples=samples,
            seed=seed,
        ),
    )


def _folded(title: str, markdown: str) -> Iterator[Table]:
    if markdown:
        yield Table(title=title, body=html_of(markdown), folded=True)


def _paired_tables(comparisons: Mapping[str, Sequence[Comparison]], costs: Costs) -> Iterator[Table]:
    for part, ones in comparisons.items():
        if ones:
            yield from _folded(f"Paired differences: {part}", comparisons_table(ones, costs=costs))


def _probe_tables(probes: Mapping[str, Sequence[EvaluatedArm]]) -> Iterator[Table]:
    for part, arms in probes.items():
        if any(arm.records for arm in arms):
            metrics = EPISODE_METRICS if part == "transfer" else PROBE_METRICS
            yield from _folded(f"All metrics: {PART_TITLES[part]}", metrics_table(arms, metrics))


def headline_pair(episodes: Sequence[Comparison]) -> tuple[str, ...]:
    """Control and treatment of the first line; nothing where no pair was run."""
    run = {(one.baseline, one.treatment) for one in episodes}
    return next((pair for pair in ALIKE if pair in run), ())


def _run(results: Results, arm: str, evaluation: Evaluation) -> PageRun:
    """The first run of an arm, to be looked at."""
    folder = results.run(arm, results.seeds[0])
    return PageRun(
        name=folder.path.name,
        path=folder.path,
        settings=read_settings_file(folder.config),
        rows=tuple(read_metrics(folder.metrics)),
        traces=tuple(read_jsonl(folder.traces)) if folder.traces.exists() else (),
        evaluation=results.evaluation(arm, results.seeds[0]),
        parts=evaluation.parts,
    )


def _tiles(episodes: Sequence[Comparison], pair: tuple[str, ...]) -> Iterator[Tile]:
    for metric in (ERR, FINAL, FIRST_ATTEMPT):
        for one in episodes:
            if (one.baseline, one.treatment) == pair and one.metric.name == metric.name:
                value = f"{percent(one.before)} → {percent(one.after)}"
                yield Tile(label=one.title, value=value, note=f"{pair[0]} → {pair[1]}: {points(one)} points")


def _cautions(results: Results, runs: Sequence[PageRun], arms: Sequence[EvaluatedArm]) -> list[Caution]:
    found = few_runs(len(results.seeds))
    for run in runs:
        for one in training_cautions(run, None):
            if one.title != "One run":
                found.append(Caution(title=one.title, text=f"{run.name}: {one.text}", serious=one.serious))
    for arm in arms:
        found += evaluation_cautions(arm.name, arm.records)
    return ordered(found)


def _signal(results: Results, runs: Sequence[PageRun]) -> Iterator[Table]:
    """Step by step of the two arms of the headline, and the account of every arm."""
    for run in runs:
        yield Table(title=f"{run.name}: exploration groups, step by step", body=group_bars(run))
    accounts = {arm: account_arm(results, arm) for arm in results.arms}
    note = "All groups of all runs of the arm; Wilson 95 % intervals over groups."
    yield Table(title="Account of all groups", body=html_of(groups_table(accounts)), note=note)


def _episodes(runs: Sequence[PageRun], episodes: Sequence[Comparison], pair: tuple[str, ...]) -> Iterator[Episodes]:
    """Of the runs that can be read, with the tasks that changed sides over all runs of the pair."""
    final = next(
        (one for one in episodes if (one.baseline, one.treatment) == pair and one.metric.name == FINAL.name), None
    )
    for run in runs:
        treated = final is not None and run is runs[-1]
        yield Episodes(
            run=run.name,
            part="episodes",
            records=run.parts["episodes"],
            fixed=frozenset(final.fixed if final and treated else ()),
            broken=frozenset(final.broken if final and treated else ()),
        )

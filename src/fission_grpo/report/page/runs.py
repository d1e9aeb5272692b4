"""The page of training runs and evaluations: one of them, or several against the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from fission_grpo.evaluation.compare_runs import EvaluatedRun, RunComparison, contrast_runs
from fission_grpo.evaluation.metrics import (
    BENCHMARK_METRICS,
    EPISODE_METRICS,
    ERR,
    FINAL,
    FIRST_ATTEMPT,
    PROBE_METRICS,
    Metric,
    error_classes,
)
from fission_grpo.evaluation.paired import EvaluatedArm, category_of, estimate_arm
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.report.contrasts import contrasts_table, noise_statement, verdict_of
from fission_grpo.report.page.change import RunChange, run_change
from fission_grpo.report.page.charts import Estimated, rates_chart
from fission_grpo.report.page.cost import budget, effort, spending
from fission_grpo.report.page.curves import charts_of_arms, charts_of_run
from fission_grpo.report.page.errors import FlowPanel, flow_panel, flow_panels, glossary, recovery_tables
from fission_grpo.report.page.markdown import html_of
from fission_grpo.report.page.page import Page, Table
from fission_grpo.report.page.provenance import source_facts
from fission_grpo.report.page.samples import Episodes, payload_of
from fission_grpo.report.page.signal import account_run, group_bars, signal_sentence
from fission_grpo.report.page.sources import PageRun
from fission_grpo.report.page.verdict import (
    Caution,
    Tile,
    comparison_sentences,
    comparison_tiles,
    evaluation_cautions,
    evaluation_sentence,
    evaluation_tiles,
    few_runs,
    main_part,
    ordered,
    settings_text,
    shifts_table,
    training_cautions,
    training_sentence,
    training_tiles,
)
from fission_grpo.report.style import arm_colours
from fission_grpo.report.tables import groups_table, metrics_table

PART_TITLES: Mapping[str, str] = {
    "episodes": "Episodes",
    "transfer": "Episodes on an API never trained on",
    "mixed": "Fixed-error probe, all kinds of errors",
    "precondition": "Fixed-error probe, unmet preconditions only",
}


def page_of_runs(runs: Sequence[PageRun], *, samples: int, seed: int) -> Page:
    """Read into a page: see `Page`."""
    changes = {run.name: run_change(run) for run in runs}
    evaluated = [run for run in runs if any(run.parts.values())]
    trained = [run for run in runs if run.rows]
    comparison = _comparison(evaluated) if len(evaluated) > 1 else None
    arms = _arms(evaluated)
    sentences, tiles = _verdict(runs, evaluated, changes, comparison)
    explored = [record for change in changes.values() if change for end in change.ends for record in end.records]
    return Page(
        title=" · ".join(run.name for run in runs),
        kind=_kind(runs, trained),
        about="; ".join(
            f"{run.name}: {words}" if len(runs) > 1 else words for run in runs if (words := settings_text(run.settings))
        ),
        verdict=sentences[0],
        details=" ".join(sentences[1:]),
        tiles=tiles,
        cautions=_cautions(runs, evaluated, changes),
        outcomes=[*_contrasts(arms, comparison), *_shifts(changes), *_all_metrics(evaluated)],
        charts=charts_of_run(trained[0].rows) if len(trained) == 1 else charts_of_arms(*_curves(trained)),
        legend={} if len(trained) < 2 else arm_colours(run.name for run in trained),
        signal=list(_signal(trained)),
        signal_sentence=" ".join(
            f"{run.name}: {signal_sentence(run)}" if len(trained) > 1 else signal_sentence(run)
            for run in trained
            if run.traces
        ),
        flows=[*_training_flows(changes), *flow_panels(arms, titled="Evaluation" if trained else "")],
        errors=_error_tables(arms, changes),
        glossary=glossary(error_classes([*(record for arm in arms for record in arm.records), *explored])),
        spending=[spending(run) for run in trained],
        costs=_cost_tables(arms, trained),
        sources=[source_facts(run) for run in runs],
        payload=payload_of(
            [run for run in trained if run.traces], _episodes(evaluated, comparison), samples=samples, seed=seed
        ),
    )


def _kind(runs: Sequence[PageRun], trained: Sequence[PageRun]) -> str:
    if len(runs) > 1:
        return f"Comparison of {len(runs)}"
    return "Training run" if trained else "Evaluation"


def _comparison(evaluated: Sequence[PageRun]) -> RunComparison:
    """Each evaluation against the first."""
    return contrast_runs([EvaluatedRun(name=run.name, path=run.path, parts=run.parts) for run in evaluated])


def _verdict(
    runs: Sequence[PageRun],
    evaluated: Sequence[PageRun],
    changes: Mapping[str, RunChange | None],
    comparison: RunComparison | None,
) -> tuple[list[str], list[Tile]]:
    """The headline, and what follows it."""
    sentences, tiles = [], []
    if comparison is not None:
        sentences, tiles, evaluated = comparison_sentences(comparison), comparison_tiles(comparison), ()
    for run in evaluated:
        records = run.parts[main_part(run.parts)]
        sentences.append(evaluation_sentence(run.name, records))
        tiles += evaluation_tiles(records)
    for run in runs if comparison is None else ():
        if change := changes[run.name]:
            told = training_sentence(run, change)
            sentences.append(f"{run.name}: {told[0].lower()}{told[1:]}" if len(runs) > 1 else told)
            tiles += [] if tiles else training_tiles(run, change)
    if not sentences:
        sentences = [f"{run.name} has made {run.steps} steps; there are no traces to judge it by." for run in runs]
    return sentences, tiles


def _cautions(
    runs: Sequence[PageRun], evaluated: Sequence[PageRun], changes: Mapping[str, RunChange | None]
) -> list[Caution]:
    several = len(runs) > 1
    found = few_runs(1) if several and any(run.rows for run in runs) else []
    for run in runs:
        if run.rows:
            for one in training_cautions(run, changes[run.name]):
                if not (several and one.title in ("One run", "No leaks")):
                    text = f"{run.name}: {one.text}" if several else one.text
                    found.append(Caution(title=one.title, text=text, serious=one.serious))
    for run in evaluated:
        found += evaluation_cautions(run.name, run.parts[main_part(run.parts)])
    return ordered(found)


def _arms(evaluated: Sequence[PageRun]) -> list[EvaluatedArm]:
    """On the part that the headline is about."""
    if not evaluated:
        return []
    part = main_part(evaluated[0].parts)
    return [EvaluatedArm(name=run.name, runs={0: run.parts[part]}) for run in evaluated if run.parts.get(part)]


FIRST_TO_LAST = "from the first steps to the last"


def _shifts(changes: Mapping[str, RunChange | None]) -> Iterator[Table]:
    for name, change in changes.items():
        if change is not None:
            yield Table(
                title=f"{name}: {FIRST_TO_LAST}" if len(changes) > 1 else FIRST_TO_LAST.capitalize(),
                body=html_of(shifts_table(change)),
                note="On the trajectories that training explored, with sampling; intervals by bootstrap over groups, "
                "of a difference by Newcombe's hybrid. First and last steps meet different tasks.",
            )


def _contrasts(arms: Sequence[EvaluatedArm], comparison: RunComparison | None) -> Iterator[Table]:
    if len(arms) > 1:
        colours = arm_colours(arm.name for arm in arms)
        yield Table(title="In the evaluation", body=rates_of(arms, (FINAL, ERR, FIRST_ATTEMPT), colours))
    for one in comparison.contrasts if comparison else ():
        title = PART_TITLES.get(one.part, one.part)
        yield Table(
            title=f"{title}: {one.treatment} against {one.baseline}",
            body=html_of(contrasts_table(one.contrasts, one.baseline, one.treatment)),
            note=f"{verdict_of(one.headline)} {noise_statement(one.headline, one.paired)}",
            folded=one.part not in ("episodes", "benchmark"),
        )


def _all_metrics(evaluated: Sequence[PageRun]) -> Iterator[Table]:
    parts = dict.fromkeys(part for run in evaluated for part, records in run.parts.items() if records)
    for part in parts:
        named = [EvaluatedArm(name=run.name, runs={0: run.parts[part]}) for run in evaluated if run.parts.get(part)]
        yield Table(
            title=f"All metrics: {PART_TITLES.get(part, part)}",
            body=html_of(metrics_table(named, metrics_for(named[0].records))),
            folded=True,
        )


def metrics_for(records: Sequence[EpisodeRecord]) -> Sequence[Metric]:
    """What some records can be asked."""
    if records[0].probe is not None:
        return PROBE_METRICS
    return BENCHMARK_METRICS if category_of(records[0]) else EPISODE_METRICS


def rates_of(arms: Sequence[EvaluatedArm], metrics: Sequence[Metric], colours: Mapping[str, str]) -> Markup:
    """One chart a metric, one row an arm."""
    charts = [
        Markup('<figure class="rate"><figcaption>{}</figcaption>{}</figure>').format(
            metric.heading,
            rates_chart(
                [Estimated(name=a.name, colour=colours[a.name], share=estimate_arm(metric, a)) for a in arms],
                title=metric.title,
            ),
        )
        for metric in metrics
    ]
    return Markup('<div class="rates-row">{}</div>').format(Markup("").join(charts))


def _curves(trained: Sequence[PageRun]) -> tuple[dict[str, list[Sequence[Mapping[str, object]]]], dict[str, str]]:
    return {run.name: [run.rows] for run in trained}, arm_colours(run.name for run in trained)


def _signal(trained: Sequence[PageRun]) -> Iterator[Table]:
    traced = [run for run in trained if run.traces]
    for run in traced:
        title = "Exploration groups, step by step"
        yield Table(title=f"{run.name}: {title}" if len(traced) > 1 else title, body=group_bars(run))
    if traced:
        accounts = {run.name: account_run(run) for run in traced}
        note = "All groups of the run; Wilson 95 % intervals over groups."
        yield Table(title="Account of all groups", body=html_of(groups_table(accounts)), note=note)


def _training_flows(changes: Mapping[str, RunChange | None]) -> Iterator[FlowPanel]:
    for name, change in changes.items():
        for title, counts in change.fates.items() if change else ():
            yield flow_panel(f"{name}: {title}" if len(changes) > 1 else f"Training, {title}", counts)


def _error_tables(arms: Sequence[EvaluatedArm], changes: Mapping[str, RunChange | None]) -> list[Table]:
    found = []
    if arms:
        for title, body in zip(BY, recovery_tables(arms), strict=True):
            found.append(Table(title=f"Evaluation: recovery {title}", body=body))
    for name, change in changes.items():
        if change is not None and not change.single_messages:
            note = "Trajectories of one group share a task, so these intervals are somewhat narrow."
            where = f"{name}, training" if len(changes) > 1 else "Training"
            for way, body in zip(BY, recovery_tables(change.ends), strict=True):
                title = f"{where}: solved after an error, {way}"
                found.append(Table(title=title, body=body, note=note, folded=bool(arms)))
    return found


BY = ("by class of error", "by tool")
"""What recovery is split by, in the order of `recovery_tables`."""


def _cost_tables(arms: Sequence[EvaluatedArm], trained: Sequence[PageRun]) -> list[Table]:
    found = []
    if trained:
        found.append(Table(title="Spent", body=budget({run.name: [run.rows] for run in trained})))
    if arms:
        found.append(Table(title="What a recovery takes in the evaluation", body=effort(arms)))
    return found


def _episodes(evaluated: Sequence[PageRun], comparison: RunComparison | None) -> list[Episodes]:
    """The main part of each evaluation, with what changed sides against the first."""
    found = []
    for run in evaluated:
        for part, records in run.parts.items():
            if records:
                told = comparison.contrasts if comparison else ()
                contrasts = [one for one in told if (one.part, one.treatment) == (part, run.name)]
                each = [each for one in contrasts for each in one.contrasts if each.metric.name == FINAL.name]
                headline = next(iter([*each, *(one.headline for one in contrasts)]), None)
                found.append(
                    Episodes(
                        run=run.name,
                        part=part,
                        records=records,
                        fixed=frozenset(headline.fixed if headline else ()),
                        broken=frozenset(headline.broken if headline else ()),
                    )
                )
    return found

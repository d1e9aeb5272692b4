"""The comparison of arms: its first sentence is true whatever came out, and nothing stands without its cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
from episodes import CALL, OTHER, episode, message
from page_runs import group, trajectory, write_run

from fission_grpo.commands.report import write_quickstart_report
from fission_grpo.evaluation.heldout import Evaluation
from fission_grpo.evaluation.metrics import ERR, FINAL, FIRST_ATTEMPT, recovery_by_tool
from fission_grpo.evaluation.paired import Comparison, EvaluatedArm, compare_arms
from fission_grpo.evaluation.records import EpisodeRecord, Probe
from fission_grpo.recipes import Exploration
from fission_grpo.recipes.arms import EXPLORATION, Arm
from fission_grpo.report.arms import ARM_WORDS, arms_glossary
from fission_grpo.report.costs import arm_costs
from fission_grpo.report.figures import Curve, curves_figure, rates_figure
from fission_grpo.report.headline import headline
from fission_grpo.report.results import DEMONSTRATIONS, WARM_START, Results
from fission_grpo.report.spread import Spread, run_values, runs_figure, spread_table
from fission_grpo.report.style import arm_colours
from fission_grpo.report.summary import ALIKE, write_summary
from fission_grpo.report.tables import classes_glossary, comparisons_table, macro_table, metrics_table
from fission_grpo.types import ErrorClass

CONTROL, TREATMENT = "grpo-decision", "fission-decision"


def run(letters: str) -> tuple[EpisodeRecord, ...]:
    """A letter a task: `+` right at once, `-` wrong without an error, `r` recovered, `x` not recovered."""
    return tuple(
        episode(
            *([message(0, CALL, ErrorClass.NOT_FOUND)] if letter in "rx" else []),
            message(0, OTHER),
            message(0),
            ok=letter in "+r",
            scenario=place,
        )
        for place, letter in enumerate(letters)
    )


def arm(name: str, *runs: str) -> EvaluatedArm:
    return EvaluatedArm(name=name, runs={seed: run(letters) for seed, letters in enumerate(runs)})


def said(control: tuple[str, ...], treatment: tuple[str, ...]) -> tuple[str, Comparison]:
    """The first line, and the comparison of ERR that it speaks of."""
    before, after = arm(CONTROL, *control), arm(TREATMENT, *treatment)
    recovery, final, first = (compare_arms(metric, before, after) for metric in (ERR, FINAL, FIRST_ATTEMPT))
    return headline(recovery, final, first), recovery


def interval_of_final(control: str, treatment: str) -> str:
    one = compare_arms(FINAL, arm(CONTROL, *(control,) * 8), arm(TREATMENT, *(treatment,) * 8))
    return f"[{100 * one.interval.low:+.1f}, {100 * one.interval.high:+.1f}]"


def interval(one: Comparison) -> str:
    return f"{100 * one.interval.low:+.1f} to {100 * one.interval.high:+.1f}"


MANY = "+" * 40
POOR, GOOD = ("r" * 2 + "x" * 38 + MANY), ("r" * 30 + "x" * 10 + MANY)


def test_the_first_line_of_a_fission_that_helps() -> None:
    sentence, one = said((POOR,) * 8, (GOOD,) * 8)
    # 30 of 40 against 2 of 40, in each of 8 runs; the same 40 tasks are solved at once in all of them. So of all
    # 80 tasks 70 are solved against 42.
    assert sentence == (
        "In 8 training runs each, a policy trained with Fission-GRPO on single messages still solved 75.0 % of the "
        "held-out tasks in which one of its own messages had failed (240 of 320, over all runs), and one trained with "
        "plain GRPO on single messages at the same rollout budget solved 5.0 % (16 of 320): +70.0 points (95 % "
        f"interval {interval(one)}, over runs and tasks), which is better; of all tasks they solved 87.5 % and 52.5 %: "
        f"+35.0 {interval_of_final(POOR, GOOD)} points, better; without any failed message: "
        "+0.0 [+0.0, +0.0] points, not settled."
    )


def test_the_first_line_of_a_fission_that_harms() -> None:
    sentence, one = said((GOOD,) * 8, (POOR,) * 8)
    assert f": -70.0 points (95 % interval {interval(one)}, over runs and tasks), which is worse; " in sentence
    # What is solved at once is worse as well, where half of it is lost.
    lost, _ = said(("+" * 80,) * 8, ("+" * 40 + "-" * 40,) * 8)
    assert "; without any failed message: -50.0 [-" in lost
    assert lost.endswith("points, worse.")


def test_the_first_line_where_nothing_is_settled() -> None:
    sentence, one = said(("rxxxx" * 4,) * 8, ("xrxxx" * 4,) * 8)
    assert not one.interval.excludes_zero
    assert f"+0.0 points (95 % interval {interval(one)}, over runs and tasks), not settled, because the int" in sentence


def test_the_first_line_counts_the_runs() -> None:
    alone, _ = said((POOR,), (GOOD,))
    assert alone.startswith("In one training run each, ")
    assert "in which one of its own messages had failed (30 of 40), and" in alone
    assert "over tasks only: one run cannot tell what another would give), which is better" in alone
    few, _ = said((POOR,) * 3, (GOOD,) * 3)
    assert few.startswith("In 3 training runs each, ")
    assert "over tasks and 3 runs, which are few)" in few
    unequal, _ = said((POOR,), (GOOD,) * 6)
    assert unequal.startswith("In 6 and 1 training runs, ")
    assert "over tasks and the runs of the one that has several)" in unequal


def test_the_first_line_without_errors_to_recover_from() -> None:
    sentence, _ = said((POOR,) * 2, ("+" * 80,) * 2)
    assert sentence.startswith(
        "In 2 training runs each, no message of a policy trained with Fission-GRPO on single messages failed, so "
        "nothing can be said of recovery; of all tasks they solved 100.0 % and 52.5 %: +47.5 [+"
    )
    assert "; without any failed message: +50.0 [+" in sentence
    nowhere, _ = said(("+-",), ("++",))
    assert (
        "no message of a policy trained with Fission-GRPO on single messages and a policy trained with plain GRPO on "
        "single messages at the same rollout budget failed"
    ) in nowhere


def test_the_first_line_claims_nothing_where_nothing_varies() -> None:
    sentence, one = said(("x" * 20,) * 8, ("x" * 20,) * 8)
    assert one.interval.low == one.interval.high
    assert "+0.0 points, not settled, because all runs and tasks agree" in sentence


def test_every_arm_has_words() -> None:
    assert ARM_WORDS.keys() >= {*map(str, Arm), WARM_START, DEMONSTRATIONS}
    assert arms_glossary([WARM_START, "another"]).splitlines() == [f"- *warm start*: {ARM_WORDS[WARM_START].line}."]


def test_only_classes_that_occur_are_explained() -> None:
    assert classes_glossary([ErrorClass.NOT_FOUND, ErrorClass.FORMAT, ErrorClass.NOT_FOUND]).splitlines() == [
        "- *E0 malformed call*: no JSON, no name, or arguments that are no object.",
        "- *E4 value not found*: well formed, but it names nothing in this world: no such file, id or user.",
    ]
    assert classes_glossary(ErrorClass).count("\n") == len(ErrorClass)


def test_the_spread_of_runs_by_hand() -> None:
    # 10, 20, 60 points: mean 30, sample variance (400 + 100 + 900)/2 = 700.
    assert str(Spread.of([0.1, 0.2, 0.6])) == "30.0 ± 26.5 [10.0, 60.0]"
    assert (str(Spread.of([0.25])), str(Spread.of([]))) == ("25.0 (one run)", "-")


def test_the_spread_table_and_picture(tmp_path: Path) -> None:
    # ERR of the runs of the second arm: 1 of 2, and nothing to count in the run without errors.
    arms = [arm(CONTROL, "rxxx", "rrrx"), arm(TREATMENT, "rx++", "++++")]
    values = run_values(arms, {"mixed": arms, "precondition": arms})
    rows = spread_table(values, costs={CONTROL: "7 rollouts"}).splitlines()
    assert rows[2].split(" | ")[:2] == [f"| {CONTROL}", "7 rollouts"]
    assert rows[2].split(" | ")[4] == "50.0 ± 35.4 [25.0, 75.0]"
    # First attempts 2 of 4 and 4 of 4, final success 3 of 4 and 4 of 4.
    assert rows[3].split(" | ")[1:5] == [
        "-",
        "75.0 ± 35.4 [50.0, 100.0]",
        "87.5 ± 17.7 [75.0, 100.0]",
        "50.0 (one run)",
    ]
    path = runs_figure(values, tmp_path / "runs.png", colours=arm_colours([CONTROL, TREATMENT]))
    assert path.stat().st_size > 10_000


def test_costs_stand_beside_arms(tmp_path: Path) -> None:
    # Two runs of two steps: (8 + 4 + 8 + 0)/2 and (8 + 4)/2 on top: 16 rollouts a run.
    steps = {"rollouts": 8, "fission/rollouts": 4, "generate/sampled": 750_000, "update/unique_tokens": 6000}
    runs = [[steps, {"rollouts": 8, "generate/sampled": 500_000, "update/unique_tokens": 500}], [steps]]
    results = Results(folder=tmp_path, arms=(CONTROL,), seeds=(0, 1), size=1)
    costs = arm_costs(results, {CONTROL: runs})
    assert costs == {CONTROL: "16 rollouts; 1.00 M tokens sampled, 6,250 trained"}
    results.demonstrated(0).parent.mkdir()
    results.demonstrated(0).write_text(json.dumps({"demonstrations": 300, "clean": 2700, "updates": 100}))
    costs = arm_costs(results, {CONTROL: runs})
    assert costs[DEMONSTRATIONS] == "300 error-and-fix + 2,700 clean rows, 100 updates"
    arms = [arm(WARM_START, "rx"), arm(CONTROL, "rr")]
    spent = f"| - | {costs[CONTROL]} |"
    assert spent in metrics_table(arms, [FINAL], costs=costs).splitlines()[2]
    macro = recovery_by_tool([one.records for one in arms], floor=1)
    assert spent in macro_table(macro, arms, str, costs=costs).splitlines()[2]
    assert f"| - → {costs[CONTROL]} |" in comparisons_table([compare_arms(FINAL, *arms)], costs=costs)


def test_a_table_by_tool_tells_what_it_leaves_out() -> None:
    arms = [arm(CONTROL, "rx" * 5 + "+"), arm(TREATMENT, "rr" * 4 + "x" * 2 + "+")]
    other = replace(run("+")[0], task="alone", turns=(message(0, OTHER, ErrorClass.CONFLICT), message(0)))
    arms = [replace(one, runs={0: (*one.runs[0], other)}) for one in arms]
    table = macro_table(recovery_by_tool([one.records for one in arms]), arms, str, costs={})
    # `cd` failed in 10 + 10 episodes, `ls` in 1 + 1, which is below the floor.
    assert "| cd | 50.0 % " in table
    assert "| **ERR, mean over tools ↑** | 50.0 % " in table
    assert table.endswith("with fewer than 10 episodes over all runs: ls 2.\n")


def test_a_long_caption_stays_inside_its_picture(tmp_path: Path) -> None:
    arms = [arm(f"an arm with quite a long name {place}", "rx") for place in range(9)]
    path = rates_figure(arms, (FINAL,), tmp_path / "rates.png", colours=arm_colours(one.name for one in arms))
    picture = matplotlib.image.imread(path)
    assert (picture[:, -8:, :3] == 1).all()
    assert (picture[-8:, :, :3] == 1).all()


def test_runs_without_a_key_are_drawn_by_another(tmp_path: Path) -> None:
    whole = [{"step": step, "rewards/verdict": step / 10} for step in range(9)]
    single = [{"step": step, "rewards/correctness": step / 10} for step in range(9)]
    pictures = [
        curves_figure(
            {"one": [rows]},
            tmp_path / f"{name}.png",
            curves=[Curve(key="rewards/correctness", instead=instead, title="Reward")],
            colours={"one": "#000000"},
        ).read_bytes()
        for name, rows, instead in (
            ("single", single, "rewards/verdict"),
            ("whole", whole, "rewards/verdict"),
            ("missing", whole, ""),
        )
    ]
    assert pictures[0] == pictures[1] != pictures[2]


def test_the_first_line_speaks_of_one_family() -> None:
    episodes = {str(arm) for arm, explored in EXPLORATION.items() if explored is Exploration.EPISODES}
    decisions = set(map(str, Arm)) - episodes
    assert all(set(pair) <= decisions or set(pair) <= episodes for pair in ALIKE)
    assert all("on single messages" in ARM_WORDS[name].trained for name in decisions)
    assert all("in whole dialogues" in ARM_WORDS[name].trained for pair in ALIKE for name in set(pair) & episodes)


def save(results: Results, name: str, letters: str) -> None:
    episodes = run(letters)
    injected = Probe(kind="made up", error=ErrorClass.CONFLICT, call=CALL, next_call_right=True)
    probes = tuple(replace(record, probe=injected) for record in episodes)
    evaluation = Evaluation(episodes=episodes, transfer=episodes, mixed=probes, precondition=probes)
    evaluation.save(results.evaluation(name, 0))


def train(results: Results) -> None:
    """One step with one group, the same for every arm."""
    right = trajectory(("", None), success=True, reward=1.0)
    for name in results.arms:
        write_run(results.run(name, 0).path, [group("0/0", 0, [right, right])])


def summary_of(tmp_path: Path, *arms: str) -> str:
    """Of one run an arm, each right wherever it erred."""
    results = Results(folder=tmp_path, arms=arms, seeds=(0,), size=24)
    for name in (WARM_START, DEMONSTRATIONS, *arms):
        save(results, name, "r" * 12 + "+" * 12)
    train(results)
    write_summary(results)
    return results.summary.read_text(encoding="utf-8")


def page_of(folder: Path, *arms: str) -> str:
    written = write_quickstart_report(Results(folder=folder, arms=arms, seeds=(0,), size=24))
    assert written.path == folder / "report.html"
    return written.path.read_text(encoding="utf-8")


def test_arms_that_explore_otherwise_are_compared_in_tables_alone(tmp_path: Path) -> None:
    told = summary_of(tmp_path / "across", "grpo-decision", "fission")
    assert told.splitlines()[2].startswith("Nothing comparable was run: ")
    page = page_of(tmp_path / "across", "grpo-decision", "fission")
    assert '<th scope="row">Error recovery (ERR) ↑</th><td>grpo-decision → fission</td>' in page
    alike = summary_of(tmp_path / "alike", "grpo-decision", "grpo", "fission").splitlines()[2]
    assert "trained with Fission-GRPO in whole dialogues " in alike
    assert "trained with plain GRPO in whole dialogues and without the additional rollouts " in alike


def test_a_summary_is_written_from_the_files_alone(tmp_path: Path) -> None:
    results = Results(folder=tmp_path, arms=(CONTROL, TREATMENT), seeds=(0,), size=24)
    for name, letters in ((WARM_START, "x"), (DEMONSTRATIONS, "r"), (CONTROL, "rxxx"), (TREATMENT, "rrrx")):
        save(results, name, (letters * 12)[:12] + "+" * 12)
    train(results)
    write_summary(results)
    title, _, first, *rest = results.summary.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert first.startswith(
        "In one training run each, a policy trained with Fission-GRPO on single messages still solved 75.0 % of the "
    )
    # One screen, aligned: a line each for rule, header and 4 arms.
    table = [line for line in rest if line.startswith("|")]
    assert len(table) == 6
    assert len({len(line) for line in table}) == 1
    assert "|       75.0 % [47, 91] |" in next(line for line in table if line.startswith(f"| {TREATMENT}"))
    assert len(rest) < 30
    # Classes are explained once, of those that occur.
    page = page_of(tmp_path, CONTROL, TREATMENT)
    assert page.count("<em>E7 conflict</em>: ") == page.count("<em>E4 value not found</em>: ") == 1
    assert "<em>E8 time" not in page
    for title in ("In sentences", "Probe, all kinds of errors: by class", "Identical repeats by class of error"):
        assert page.count(f"<summary>{title}</summary>") == 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"curves.png", "episodes.png", "probe.png", "runs.png"}
    told = json.loads((tmp_path / "summary.json").read_text())
    macro = next(one for one in told if one["metric"] == "err_macro_tool" and one["baseline"] == CONTROL)
    assert macro["difference"] == pytest.approx(0.5)

"""Reports show what was counted, and pictures are drawn from traces alone."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fission_grpo.evaluation.group_outcomes import account_groups, group_outcome
from fission_grpo.evaluation.metrics import ERR, FINAL, FIRST_ATTEMPT, PROBE, REPEAT, recovery_by_tool
from fission_grpo.evaluation.paired import EvaluatedArm, compare_arms
from fission_grpo.evaluation.records import EpisodeRecord, Probe, TurnRecord
from fission_grpo.files import read_jsonl
from fission_grpo.report.figures import Curve, curves_figure, rates_figure, read_metrics
from fission_grpo.report.page.markdown import html_of
from fission_grpo.report.style import arm_colours
from fission_grpo.report.tables import (
    aligned,
    comparisons_table,
    effort_table,
    error_name,
    groups_table,
    macro_table,
    markdown_table,
    metrics_table,
    probes_by_class_table,
    repeats_table,
    verdict_sentence,
)
from fission_grpo.report.tree import fission_trees, most_telling, readable, text_tree
from fission_grpo.report.tree_figure import tree_figure
from fission_grpo.types import EndReason, ErrorClass, FinishReason, OutcomeKind, ToolCall, ToolOutcome, Verdict

WRONG = ToolCall(name="login", arguments={"user": "x"})


def step(call: ToolCall, *, erred: bool) -> TurnRecord:
    outcome = (
        ToolOutcome(kind=OutcomeKind.ERROR, text="not logged in", error=ErrorClass.PRECONDITION)
        if erred
        else ToolOutcome(kind=OutcomeKind.SUCCESS, text="ok")
    )
    return TurnRecord(
        user_turn=0, text="", calls=(call,), failures=(), outcomes=(outcome,), finish=FinishReason.STOP, tokens=4
    )


def record(place: int, *, ok: bool, erred: bool) -> EpisodeRecord:
    right = step(ToolCall(name="login", arguments={"user": "y"}), erred=False)
    return EpisodeRecord(
        task=f"t{place}",
        turns=(*([step(WRONG, erred=True)] if erred else []), right),
        end=EndReason.ANSWERED,
        verdict=Verdict(ok=ok),
        gold_calls=1,
        first_call_right=not erred,
        probe=Probe(kind="precondition", error=ErrorClass.PRECONDITION, call=WRONG, next_call_right=ok),
    )


def arm(name: str, right: int, *, runs: int = 1) -> EvaluatedArm:
    """20 tasks, every second one with an error; the first `right` are solved."""
    run = tuple(record(place, ok=place < right, erred=place % 2 == 0) for place in range(20))
    return EvaluatedArm(name=name, runs=dict.fromkeys(range(runs), run))


ARMS = (arm("warm start", 10), arm("GRPO", 10, runs=2), arm("fission", 18, runs=2))


def cells(table: str, row: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {row}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_cell_carries_its_count() -> None:
    table = metrics_table(ARMS)
    # Wilson for 10/20: centre 0.5, half sqrt(0.25 * 0.19207 + 0.19207^2/4)/1.19207 = 0.2007.
    assert cells(table, "Final success ↑")[1] == "50.0 % [29.9, 70.1] (10/20)"
    assert cells(table, "Final success ↑")[3].endswith("(36/40)")
    assert cells(table, "Error recovery (ERR) ↑")[3].endswith("(18/20)")
    assert cells(table, "Training runs")[1:] == ["1", "2", "2"]
    assert cells(table, "Harness faults")[1:] == ["0/20", "0/40", "0/40"]


def test_sliced_tables() -> None:
    # Each episode is a probe whose injected call is repeated by the 10 that err; their own error is mended at once.
    assert cells(repeats_table(ARMS), "E6 precondition unmet")[1].endswith("(10/30)")
    assert cells(probes_by_class_table(ARMS), "E6 precondition unmet")[3].endswith("(36/40)")
    assert cells(effort_table(ARMS), "Steps from")[1] == "1.00 [1.00, 1.00] (n=10)"


def test_every_error_class_has_a_name() -> None:
    assert all(error_name(error) != error for error in ErrorClass)


def test_cells_cannot_break_the_table() -> None:
    assert markdown_table(["a|b"], [["c"]]).splitlines()[0] == "| a\\|b |"


def test_comparisons_say_what_they_settle() -> None:
    better, same = compare_arms(FINAL, ARMS[1], ARMS[2]), compare_arms(FIRST_ATTEMPT, ARMS[1], ARMS[1])
    row = cells(comparisons_table([better]), "Final success")
    # 10 -> 18 of 20 tasks in both runs: +40 points, 8 fixed, none broken, p = 2/2^8.
    assert row[2:4] == ["50.0 % (20/40)", "90.0 % (36/40)"]
    assert row[4].startswith("+40.0 [+")
    assert row[5:] == ["8 / 0 of 20", "0.0078", "+40.0, +40.0", "20 (0)"]
    assert verdict_sentence(better).endswith(": better.")
    assert verdict_sentence(same).endswith(
        ": not settled: all runs and tasks agree and leave nothing to draw an interval from."
    )


def test_a_verdict_where_nothing_was_counted() -> None:
    flawless = EvaluatedArm(name="flawless", runs={0: tuple(record(i, ok=True, erred=False) for i in range(20))})
    one = compare_arms(ERR, ARMS[0], flawless)
    assert verdict_sentence(one) == (
        "Error recovery (ERR): warm start 50.0 % → flawless -, 20 tasks, 1 and 1 runs: not settled: nothing to count "
        "for flawless."
    )
    assert cells(comparisons_table([one]), "Error recovery")[2:5] == ["50.0 % (5/10)", "- (0/0)", "-"]


def test_cells_of_several_runs_draw_runs_as_well_as_tasks() -> None:
    # Two runs of 20 tasks, one right in all of them and one in none. One run is drawn of two: 0 % or 100 %, whichever
    # tasks; pooled counts, 20 of 40, would say 35 to 65 %. Wilson of a single run is test_every_cell_carries_its_count.
    runs = {seed: tuple(record(i, ok=seed == 0, erred=True) for i in range(20)) for seed in range(2)}
    apart = EvaluatedArm(name="apart", runs=runs)
    cell = "50.0 % [0.0, 100.0] (20/40)"
    assert cells(metrics_table([apart], (FINAL, ERR)), "Final success ↑")[1] == cell
    assert cells(metrics_table([apart], (FINAL, ERR)), "Error recovery")[1] == cell
    assert cells(probes_by_class_table([apart]), "E6")[1] == cell
    macro = recovery_by_tool(list(runs.values()))
    table = macro_table(macro, [apart], str, costs={})
    assert [cells(table, row)[1] for row in ("login", "**ERR, mean", "Error recovery")] == [cell] * 3
    # A fault counts nowhere, in its own run alone.
    faulty = {**runs, 0: (replace(runs[0][0], end=EndReason.HARNESS_FAULT, verdict=None), *runs[0][1:])}
    assert cells(metrics_table([replace(apart, runs=faulty)], (FINAL,)), "Final success ↑")[1].endswith("(19/39)")


def test_repeats_of_several_runs_draw_runs_as_well_as_tasks() -> None:
    # The probe's injected call is repeated by the 20 tasks of the one run and by none of the other; in the one, the
    # policy's own repeat is mended at once, so that each of its tasks counts one repeat of two errors.
    runs = {seed: tuple(record(i, ok=True, erred=seed == 0) for i in range(20)) for seed in range(2)}
    assert cells(repeats_table([EvaluatedArm(name="apart", runs=runs)]), "E6")[1] == "33.3 % [0.0, 50.0] (20/60)"


def test_a_rising_evil_is_worse() -> None:
    clean = EvaluatedArm(name="clean", runs={0: tuple(record(i, ok=True, erred=True) for i in range(10))})
    repeating = EvaluatedArm(
        name="repeating",
        runs={
            0: tuple(
                EpisodeRecord(
                    task=f"t{i}",
                    turns=(step(WRONG, erred=True), step(WRONG, erred=True)),
                    end=EndReason.MAX_TURNS,
                    verdict=Verdict(ok=False),
                    gold_calls=1,
                    first_call_right=False,
                )
                for i in range(10)
            )
        },
    )
    assert verdict_sentence(compare_arms(REPEAT, clean, repeating)).endswith(": worse.")


def text(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def trajectory(texts: list[str], ok: bool, reward: float, advantage: float, error: str | None) -> dict[str, Any]:
    failure = None if error is None else {"error": error, "turn": 0, "reason": "why"}
    return {
        "text": texts,
        "replies": [],
        "end": "answered",
        "verdict": "ok" if ok else "instance_state_mismatch",
        "success": ok,
        "reward": {"total": reward, "terms": {"format": 1.0}},
        "advantage": advantage,
        "failure": failure,
    }


EXPLORATION: dict[str, Any] = {
    "step": 4,
    "group": "4/0",
    "kind": "exploration",
    "task": "car-7",
    "parent": None,
    "feedback": None,
    "feedback_origin": None,
    "prompt": "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nStart the\nengine.<|im_end|>\n<|im_start|>assistant\n",
    "trajectories": [
        trajectory([text("start", mode="ON")], False, 1.5, -1.0, "E5"),
        trajectory([text("start", mode="START")], False, 2.5, 1.0, "E6"),
    ],
}
FAMILY: dict[str, Any] = {
    **EXPLORATION,
    "step": 5,
    "group": "5/f0",
    "kind": "fission",
    "parent": {"group": "4/0", "trajectory": 1, "turn": 0},
    "feedback": ["Lock the doors first."],
    "feedback_origin": "rules",
    "trajectories": [
        trajectory([text("lock", doors=["all"]), text("start", mode="START"), "Done."], True, 4.0, 1.0, None),
        trajectory([text("start", mode="START")], False, 2.0, -1.0, "E6"),
    ],
    "unknown": {"to": "us"},
}


def test_text_tree() -> None:
    (tree,) = fission_trees([EXPLORATION, FAMILY])
    assert text_tree(tree, width=64).splitlines() == [
        "x  Start the engine.",
        "   task car-7, step 4; reward, advantage, error, calls",
        '├─ ✗  1.50  -1.00  E5 start(mode="ON")',
        '└─ ✗  2.50  +1.00  E6 start(mode="START")',
        "      ↳ rules: Lock the doors first.",
        "      ├─ ✓  4.00  +1.00     lock → start → “…”",
        '      └─ ✗  2.00  -1.00  E6 start(mode="START")',
        "   exploration all failed; fission (step 5): 1/2 right",
    ]


@pytest.mark.parametrize("width", [60, 80, 110])
def test_text_tree_keeps_to_its_width(width: int) -> None:
    long = copy.deepcopy(FAMILY)
    long["feedback"] = ["word " * 60]
    long["trajectories"][0]["text"] = [text("lock", doors=["x" * 200])]
    (tree,) = fission_trees([EXPLORATION, long])
    assert max(map(len, text_tree(tree, width=width).splitlines())) <= width


def test_messages_that_are_no_calls_stay_readable() -> None:
    assert readable("I  am\ndone.<|im_end|>") == "I am done."
    assert readable('<tool_call>\n{"name": "f", "arg') == '{"name": "f", "arg'
    assert readable('<tool_call>\n{"name": "f", "arguments": []}\n</tool_call>') == '{"name": "f", "arguments": []}'
    assert readable(text("a") + "\n" + text("b", n=1)) == "a(), b(n=1)"


def test_the_telling_tree_is_an_all_fail_group_with_mixed_recoveries() -> None:
    hopeless = copy.deepcopy(FAMILY)
    hopeless["trajectories"] = FAMILY["trajectories"][1:]
    trees = list(fission_trees([EXPLORATION, hopeless, FAMILY]))
    assert most_telling(trees) == trees[1]
    assert most_telling([]) is None


def test_a_fission_group_without_its_parent_is_no_tree() -> None:
    assert list(fission_trees([FAMILY])) == []


def test_an_invalid_trajectory_is_drawn_without_numbers(tmp_path: Path) -> None:
    invalid = copy.deepcopy(FAMILY)
    invalid["trajectories"][1].update(end="harness_fault", success=False, reward=None, advantage=0.0)
    invalid["trajectories"][1]["failure"] = {"error": None, "turn": 0, "reason": "the tool died"}
    (tree,) = fission_trees([EXPLORATION, invalid])
    assert '└─ ✗           start(mode="START")' in text_tree(tree)
    assert tree_figure(tree, tmp_path / "tree.png").stat().st_size > 10_000


def test_a_policy_may_say_what_no_face_can_draw(tmp_path: Path) -> None:
    odd = copy.deepcopy(FAMILY)
    odd["trajectories"][1]["text"] = ["\x01 done \U000e0041"]  # matplotlib warns of both, and warnings are errors
    (tree,) = fission_trees([EXPLORATION, odd])
    assert tree_figure(tree, tmp_path / "tree.png").stat().st_size > 10_000


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_pictures_are_reproducible(tmp_path: Path, suffix: str) -> None:
    (tree,) = fission_trees([EXPLORATION, FAMILY])
    first, second = (tree_figure(tree, tmp_path / name / f"tree.{suffix}") for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[:5] == (b"\x89PNG\r" if suffix == "png" else b"<?xml")


def test_rates_figure_survives_an_empty_denominator(tmp_path: Path) -> None:
    flawless = EvaluatedArm(name="flawless", runs={0: tuple(record(i, ok=True, erred=False) for i in range(20))})
    arms = [*ARMS, flawless]
    path = rates_figure(arms, [PROBE, ERR], tmp_path / "rates.png", colours=arm_colours(a.name for a in arms))
    assert path.stat().st_size > 10_000


def test_curves_figure(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    log = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "reward": float(rng.random()), "entropy": None} for step in range(30)]
    log.write_text("\n".join(map(json.dumps, rows)))
    runs = {"GRPO": [read_metrics(log)], "fission": [read_metrics(log), rows[:20], []]}
    curves = [Curve(key="reward", title="Reward"), Curve(key="entropy", title="Entropy", unit="nats")]
    path = curves_figure(runs, tmp_path / "curves.png", curves=curves, colours=arm_colours(runs))
    assert path.stat().st_size > 10_000


def test_an_arm_keeps_its_colour() -> None:
    colours = arm_colours(["warm start", "GRPO", "fission", *(f"arm {place}" for place in range(7))])
    assert len(set(colours.values())) == 10
    assert arm_colours(["warm start", "GRPO"]) == {name: colours[name] for name in ("warm start", "GRPO")}


def test_the_account_of_groups_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(trace) + "\n" for trace in (EXPLORATION, FAMILY)))
    account = account_groups(filter(None, map(group_outcome, read_jsonl(path))))
    table = groups_table({"fission": account})
    assert cells(table, "All-fail groups rescued by fission")[1].endswith("(1/1)")
    assert cells(table, "Exploration groups: all right")[1].endswith("(0/1)")


def test_an_aligned_table_is_the_same_table() -> None:
    table = markdown_table(["", "first | steps", "b"], [["metric ↑", "1 %", "-"], ["m", "100.0 %", "x"]])
    assert aligned(table).splitlines() == [
        "|          | first \\| steps |    b |",
        "| -------- | -------------: | ---: |",
        "| metric ↑ |            1 % |    - |",
        "| m        |        100.0 % |    x |",
    ]
    assert html_of(aligned(table)) == html_of(table)

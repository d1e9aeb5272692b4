"""The page: its numbers by hand, its texts harmless, its choices whole, its refusals clear."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from episodes import CALL, OTHER, episode, message
from hypothesis import given, settings
from hypothesis import strategies as st
from page_runs import HOSTILE, family, fission_group, group, hostile_run, row, trajectory, write_run
from tiny_runs import finish, tiny_run
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.commands.report import WrittenReport, write_report
from fission_grpo.errors import ConfigError, DataError
from fission_grpo.evaluation.events import Fate
from fission_grpo.evaluation.heldout import Evaluation
from fission_grpo.evaluation.metrics import ERR, FINAL
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Interval, Rate, unpaired_interval
from fission_grpo.report.page.change import run_change
from fission_grpo.report.page.episodes import recovery_episodes, recovery_fates
from fission_grpo.report.page.markdown import html_of
from fission_grpo.report.page.quickstart import page_of_quickstart
from fission_grpo.report.page.samples import chosen_families, embedded, fair_shares, families
from fission_grpo.report.page.signal import account_run, gradient_share
from fission_grpo.report.page.sources import read_runs
from fission_grpo.report.page.verdict import training_cautions
from fission_grpo.report.results import DEMONSTRATIONS, WARM_START, Results
from fission_grpo.report.tables import groups_table
from fission_grpo.run.provenance import RunInputs, record_provenance
from fission_grpo.types import ErrorClass


class Elements(HTMLParser):
    """What a browser would make of a page: its elements, and the texts of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.comments: list[str] = []
        self._script: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or "code"

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def written(*paths: Path, samples: int = 2000, seed: int = 0) -> tuple[WrittenReport, str]:
    """The page of some runs, beside the first of them."""
    output = paths[0].parent / "report.html"
    done = write_report(paths, output, samples=samples, seed=seed)
    return done, output.read_text(encoding="utf-8")


def payload(page: str) -> Any:
    return json.loads(Elements(page).scripts["payload"])


def episodes(letters: str) -> tuple[EpisodeRecord, ...]:
    """A letter a task: `+` right at once, `-` wrong without an error, `r` recovered, `x` not recovered."""
    return tuple(
        episode(
            *([message(0, CALL, ErrorClass.NOT_FOUND)] if letter in "rx" else []),
            message(0, OTHER),
            message(0),
            ok=letter in "+r",
            scenario=place,
            category="",
        )
        for place, letter in enumerate(letters)
    )


# Harmless


def test_what_a_model_writes_never_becomes_markup_or_script(tmp_path: Path) -> None:
    _, page = written(hostile_run(tmp_path / HOSTILE[3].replace("/", "")))
    found = Elements(page)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("script") == 4  # three of data and ours
    assert "img" not in tags
    assert not found.comments
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert [attributes.get("type") for tag, attributes in found.tags if tag == "script"] == ["application/json"] * 3 + [
        None
    ]
    assert "alert(1)" not in found.scripts["code"]
    strings = json.loads(found.scripts["payload"])["strings"]
    assert " ".join(HOSTILE) in strings  # shown as it was written, half pair and all
    for data in ("payload", "points", "words"):
        assert not re.search("[<>&\u2028\u2029]", found.scripts[data])


TEXTS = st.text(max_size=12) | st.sampled_from(HOSTILE)


@settings(max_examples=60)
@given(st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=5))
def test_embedded_data_is_read_back_and_holds_no_markup(value: Any) -> None:
    text = embedded(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_the_page_needs_nothing_from_the_network_and_runs_no_other_script(tmp_path: Path) -> None:
    _, page = written(write_run(tmp_path / "run", [one for step in range(3) for one in family(step)]))
    found = Elements(page)
    for _, attributes in found.tags:
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"@import|url\(", page)
    (policy,) = [
        a["content"] for tag, a in found.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}';", policy)


def test_tables_are_those_of_the_summary_and_their_cells_are_text() -> None:
    assert html_of("| a | b |\n| --- | ---: |\n| `<x>` | 25.0 % [1.0, 2.0] (1/4) |\n") == (
        '<div class="wide" tabindex="0"><table><thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>'
        '<tbody><tr><th scope="row"><code>&lt;x&gt;</code></th>'
        '<td><b>25.0 %</b> <span class="quiet">[1.0, 2.0] (1/4)</span></td></tr></tbody></table></div>'
    )
    assert html_of("- *one*: a & b\n\nwords\\| and **more**").startswith(
        '<ul class="notes"><li><em>one</em>: a &amp; b</li></ul>'
    )
    assert "a | b" in html_of("| x |\n| --- |\n| a \\| b |")


# Numbers


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # Newcombe (1998), table II, method 10: 56/70 against 48/80 gives 0.2 with the interval 0.0524 to 0.3339.
    found = unpaired_interval(Rate(48, 80), Rate(56, 70))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)
    assert unpaired_interval(Rate(0, 0), Rate(1, 2)) == Interval(-1.0, 1.0)


def test_the_change_over_a_run_by_hand(tmp_path: Path) -> None:
    # Steps 0 to 2: both explored trajectories of each step fail, after two errors each. Steps 3 to 5: one of two is
    # right, with one error; the other is right without any.
    late = [trajectory(("cd", "E4"), ("ls", None), ("", None), success=True), trajectory(("", None), success=True)]
    traces = [one for step in range(3) for one in family(step)]
    traces += [group(f"{step}/late", step, late) for step in range(3, 6)]
    (run,) = read_runs([write_run(tmp_path / "run", traces)])
    change = run_change(run)
    assert change is not None
    assert change.window == 2  # a third of six steps
    final, recovery = change.shift(FINAL), change.shift(ERR)
    assert final is not None
    assert recovery is not None
    assert [
        (one.before.successes, one.before.total, one.after.successes, one.after.total) for one in (final, recovery)
    ] == [
        (0, 4, 4, 4),
        (0, 4, 2, 2),
    ]
    assert final.judgement == "better"
    assert (change.recoveries.before.successes, change.recoveries.before.total) == (2, 4)
    assert not change.recoveries.counted  # no fission in the last steps
    early, after = change.fates.values()
    # The first error is repeated word for word, and after the second one come words.
    assert early == {ErrorClass.NOT_FOUND: {**dict.fromkeys(Fate, 0), Fate.REPEATED: 4, Fate.GAVE_UP: 4}}
    assert after[ErrorClass.NOT_FOUND][Fate.RECOVERED] == 2


def test_what_recoveries_make_of_the_error_that_they_are_given() -> None:
    traces = family(0)
    known = {trace["group"]: trace for trace in traces}
    # One calls something else without an error, one makes the failed call again; that it is an own error, too, is
    # another count.
    counts = recovery_fates(recovery_episodes(traces, known))
    assert counts == {ErrorClass.NOT_FOUND: {**dict.fromkeys(Fate, 0), Fate.RECOVERED: 1, Fate.REPEATED: 1}}
    silent = [traces[0], {**traces[1], "error": "W"}]
    assert recovery_fates(recovery_episodes(silent, known)) == {}


def test_a_decision_point_is_right_where_training_says_so(tmp_path: Path) -> None:
    right = trajectory(("ls", None), success=True, reward=1.0, end="horizon")
    wrong = trajectory(("cd", "E4"), reward=0.0, end="horizon")
    traces = [group(str(step), step, [right, wrong]) for step in range(4)]
    (run,) = read_runs([write_run(tmp_path / "run", traces)])
    change = run_change(run)
    assert change is not None
    assert change.single_messages
    assert change.shift(ERR) is None  # nothing comes after the only message
    final = change.shift(FINAL)
    assert final is not None
    assert (final.before.successes, final.before.total) == (1, 2)


def test_the_share_of_fission_in_the_advantages_by_hand() -> None:
    # Exploration: |A| = 1 on 2 messages of 3 tokens; fission: |A| = 2 on one message.
    traces = [
        group("a", 0, [trajectory(("ls", None), ("", None), advantage=-1.0)]),
        fission_group("b", 0, [trajectory(("", None), advantage=2.0)], parent=("a", 0, 0)),
    ]
    assert gradient_share(traces, "grpo") == pytest.approx(2 * 3 / (2 * 3 + 1 * 6))
    assert gradient_share(traces, "grpo_unscaled") == pytest.approx(2 / 3)
    half = [traces[0], {**traces[1], "weight": 0.5}]
    assert gradient_share(half, "grpo_unscaled") == pytest.approx(1 / 2)
    assert math.isnan(gradient_share([], "grpo"))


def test_the_account_is_that_of_the_summary(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [one for step in range(3) for one in family(step)])
    _, page = written(path)
    (run,) = read_runs([path])
    assert html_of(groups_table({"run": account_run(run)})) in page


def test_warnings_say_what_is_wrong(tmp_path: Path) -> None:
    traces = [one for step in range(2) for one in family(step)]
    traces[1] |= {"feedback_leakage": "leaked", "feedback_fallback": "leak"}
    traces[0]["trajectories"][0]["end"] = "length"
    rows = [row(0), row(1, **{"frac_reward_zero_std": 1.0, "update/logprob_gap": 0.2, "masked": 3})]
    settings = {"trainer": {"steps": 5}}
    (run,) = read_runs([write_run(tmp_path / "run", traces, rows=rows, settings=settings)])
    told = {one.title: one.text for one in training_cautions(run, run_change(run))}
    assert told["Not finished"] == "2 of 5 steps have been made."
    assert told["Dead groups"].startswith("50 % of the exploration groups of the last 2 steps had no gradient")
    assert told["Truncation"].startswith("12.5 % of all trajectories were ended by the token limit")
    assert told["Leaks"] == "1 of 2 feedback texts gave the answer away and were replaced."
    assert told["Fallbacks"] == "1 of 2 feedback texts: leak 1."
    assert "0.200 nats" in told["Sampler and trainer differ"]
    assert told["Faults of ours"].startswith("3 trajectories")
    assert "No leaks" not in told


# What is shown


@given(st.integers(0, 100), st.lists(st.integers(0, 50), max_size=6))
def test_shares_are_fair(total: int, sizes: list[int]) -> None:
    shares = fair_shares(total, sizes)
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    assert sum(shares) <= total
    if sum(sizes) <= total:
        assert shares == sizes
    wanting = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert max(wanting, default=0) - min(wanting, default=0) <= 1


def test_trees_are_whole_and_drawn_by_the_seed() -> None:
    traces = [one for step in range(20) for one in family(step, rescued=1 if step == 13 else 0)]
    everything = families(traces)
    assert [len(one) for one in everything] == [2] * 20
    kept = chosen_families(everything, most=30, seed=1)
    assert sum(len(trace["trajectories"]) for one in kept for trace in one) == 28  # families of four: seven fit
    assert kept == chosen_families(everything, most=30, seed=1)
    assert kept != chosen_families(everything, most=30, seed=2)
    assert everything[13] in kept  # all failed and some recovered: the most telling of its stretch


def test_what_is_left_out_is_said_with_how_to_get_it(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [one for step in range(20) for one in family(step)])
    done, page = written(path, samples=30)
    assert done.left_out == (
        "run: 28 of 80 trajectories, in whole trees drawn by seed 0; --samples 80 shows all, and traces.jsonl holds "
        "them.",
    )
    assert done.left_out[0] in page
    whole, _ = written(path, samples=80)
    assert (whole.shown, whole.left_out) == (80, ())
    assert written(path, samples=0)[0].shown == 0


def test_a_tree_knows_its_failed_prefix_its_feedback_and_its_recoveries(tmp_path: Path) -> None:
    _, page = written(write_run(tmp_path / "run", family(0) + family(1)))
    data = payload(page)
    assert data["trees"] == [1, 3]
    tree = data["groups"][1]
    assert tree["parent"] == [0, 0, 0]
    assert [data["strings"][place] for place in tree["feedback"]] == ["no such file"]
    assert (tree["origin"], tree["leakage"], tree["fallback"]) == ("rules", "blind", None)
    members = data["items"][tree["first"] : tree["first"] + tree["count"]]
    assert [(one["ok"], one["reward"], one["advantage"]) for one in members] == [(True, 1.0, 1.0), (False, 0.0, -1.0)]
    item = members[0]
    assert item["sampled"] == [[0, 3], [4, 7]]
    assert len(item["ids"]) == 8
    assert data["vocab"][item["ids"][0]]  # nano's own tokenizer has words for them
    failed = data["items"][0]
    assert (failed["class"], failed["fate"], data["strings"][failed["tool"]]) == ("E4", "repeated", "cd")


# Of every kind


def test_a_real_run_of_the_trainer(tmp_path: Path) -> None:
    finish(tiny_run(tmp_path / "run"))
    done, page = written(tmp_path / "run")
    assert done.kind == "Training run"
    assert done.shown == sum(
        len(json.loads(line)["trajectories"]) for line in (tmp_path / "run" / "traces.jsonl").read_text().splitlines()
    )
    sections = [attributes["id"] for tag, attributes in Elements(page).tags if tag == "section"]
    assert sections == ["verdict", "curves", "signal", "errors", "trees", "samples", "cost", "provenance"]


def test_an_evaluation_has_a_page(tmp_path: Path) -> None:
    Evaluation(episodes=episodes("rrx+" * 3)).save(tmp_path / "judged")
    done, page = written(tmp_path / "judged")
    assert done.kind == "Evaluation"
    assert done.verdict.startswith("judged solved 75.0 % of 12 episodes (95 % interval ")
    assert " and 66.7 % of the 9 in which one of its messages had failed " in done.verdict
    assert "curves" not in [attributes.get("id") for tag, attributes in Elements(page).tags if tag == "section"]


def test_an_episode_is_shown_with_what_the_user_said(tmp_path: Path) -> None:
    """Before the first message of each user turn that was reached, as text."""
    record = episode(message(1, CALL, ErrorClass.NOT_FOUND), message(1), message(2, OTHER))
    said = replace(record, asked=("first", "<b>second</b>", "third", "fourth"))
    Evaluation(episodes=(said, replace(record, task="of before"))).save(tmp_path / "judged")
    _, page = written(tmp_path / "judged")
    data = payload(page)
    shown = [[(place, data["strings"][words]) for place, words in item["asked"]] for item in data["items"]]
    assert shown == [[(0, "<b>second</b>"), (2, "third")], []]
    assert "<b>second" not in page


def test_a_comparison_names_what_was_fixed_and_what_was_broken(tmp_path: Path) -> None:
    for name, letters in (("before", "xx+-" * 3), ("after", "rx--" * 3)):
        Evaluation(episodes=episodes(letters)).save(tmp_path / name)
    done, page = written(tmp_path / "before", tmp_path / "after")
    assert done.kind == "Comparison of 2"
    assert done.verdict.startswith(
        "On the 12 entries that both played, after solved 25.0 % and before 25.0 %: +0.0 points "
    )
    assert (
        "; of those in which one of its own messages had failed, after got 50.0 % right and before 0.0 %: +50.0 "
        in (done.verdict)
    )
    data = payload(page)
    tags = {tag: sum(tag in item["tags"] for item in data["items"]) for tag in ("fixed", "broken")}
    assert tags == {"fixed": 3, "broken": 3}


def test_two_training_runs_stand_side_by_side(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, [one for step in range(3) for one in family(step)])
    done, page = written(tmp_path / "one", tmp_path / "two")
    assert done.kind == "Comparison of 2"
    assert [a["data-line"] for tag, a in Elements(page).tags if "data-line" in a] == ["one", "two"]


def test_a_quickstart_has_the_first_line_of_its_summary(tmp_path: Path) -> None:
    folder = quickstart(tmp_path / "quick")
    done, page = written(folder)
    assert done.kind == "Quickstart of 4 arms"
    assert done.verdict.startswith(
        "In one training run each, a policy trained with Fission-GRPO on single messages still "
    )
    assert {item["part"] for item in payload(page)["items"] if "part" in item} == {"episodes"}


def test_a_quickstart_accounts_for_the_groups_of_every_arm(tmp_path: Path) -> None:
    """Of those too that the first line does not speak of."""
    folder = quickstart(tmp_path / "quick")
    results = Results(folder=folder, arms=("grpo-decision", "fission-decision", "grpo"), seeds=(0,), size=24)
    records = episodes("x" * 24)
    Evaluation(episodes=records, transfer=records, mixed=records, precondition=records).save(
        results.evaluation("grpo", 0)
    )
    write_run(results.run("grpo", 0).path, [family(0)[0]])
    (table,) = (one for one in page_of_quickstart(results, samples=0, seed=0).signal if one.title.startswith("Account"))
    assert all(f'<th scope="col">{arm}</th>' in table.body for arm in results.arms)


def quickstart(folder: Path) -> Path:
    """Two arms, one seed."""
    results = Results(folder=folder, arms=("grpo-decision", "fission-decision"), seeds=(0,), size=24)
    for name, letters in (
        (WARM_START, "x"),
        (DEMONSTRATIONS, "r"),
        ("grpo-decision", "rxxx"),
        ("fission-decision", "rrrx"),
    ):
        records = episodes((letters * 12)[:12] + "+" * 12)
        Evaluation(episodes=records, transfer=records, mixed=records, precondition=records).save(
            results.evaluation(name, 0)
        )
    for arm in results.arms:
        traces = [one for step in range(3) for one in family(step)] if arm.startswith("fission") else [family(0)[0]]
        write_run(results.run(arm, 0).path, traces)
    (folder / "plan.json").write_text(json.dumps({"size": 24}))
    return folder


# Refusals


def test_wrong_input_gets_one_clear_sentence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", family(0))
    empty = tmp_path / "empty"
    empty.mkdir()
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "plan.json").write_text('{"size": 3}')
    begun = write_run(tmp_path / "begun", [], rows=[])
    for paths, words in (
        ([tmp_path / "nowhere"], "is not there; give a folder of a run"),
        ([empty], "holds nothing to report on: no metrics.jsonl"),
        ([unfinished], "holds a quickstart that is not finished: no arm evaluated; go on with: fission quickstart"),
        ([unfinished, run], "is a quickstart, which has a page of its own, and 2 paths were given"),
        ([begun], "has not finished its first step yet"),
        ([run, run], "a run is given twice"),
    ):
        with pytest.raises(ConfigError) as told:
            write_report(paths, tmp_path / "report.html", samples=10, seed=0)
        assert words in str(told.value)
        assert "\n" not in str(told.value)
    with pytest.raises(ConfigError, match="is no place for a file"):
        write_report([run], tmp_path / "no" / "report.html", samples=10, seed=0)
    (run / "traces.jsonl").write_text("damaged\n")
    with pytest.raises(DataError, match="found 'damaged', expected a JSON object"):
        write_report([run], tmp_path / "report.html", samples=10, seed=0)
    assert not (tmp_path / "report.html").exists()


def test_the_command_says_where_it_wrote(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [one for step in range(3) for one in family(step)])
    output = tmp_path / "page.html"
    told = CliRunner().invoke(app, ["report", str(run), "-o", str(output), "--samples", "8", "--seed", "2", "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["report"] == str(output)
    assert (found["shown"], found["bytes"]) == (8, output.stat().st_size)
    assert "drawn by seed 2" in found["left_out"][0]
    assert CliRunner().invoke(app, ["report", str(tmp_path / "nowhere")]).exit_code == 2


def test_a_run_without_traces_has_its_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [], rows=[row(0), row(1)])
    (run / "traces.jsonl").unlink()
    done, page = written(run)
    assert done.verdict == "run has made 2 steps; there are no traces to judge it by."
    assert "curves" in [attributes.get("id") for tag, attributes in Elements(page).tags if tag == "section"]


def test_the_page_says_where_a_run_comes_from(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", family(0))
    old = write_report([run], tmp_path / "old.html", samples=10, seed=0).path.read_text(encoding="utf-8")
    assert "older than provenance.jsonl: command, versions, commit and machine were not written down" in old
    inputs = RunInputs(model=HOSTILE[0], files={"model.safetensors": "ab" * 32}, tasks=3, tasks_hash="cd" * 32)
    record_provenance(run, inputs=inputs, threads=1)
    record_provenance(run, step=1, threads=2)
    page = write_report([run], tmp_path / "new.html", samples=10, seed=0).path.read_text(encoding="utf-8")
    assert "older than provenance.jsonl" not in page
    assert f"model.safetensors {'ab' * 8}</dd>" in page
    assert f"3 tasks, {'cd' * 8}</dd>" in page
    assert "at step 1: threads: 1 then, 2 now</dd>" in page
    assert f"torch {torch.__version__}" in page
    assert HOSTILE[0] not in page
    assert f"<code>fission reproduce {run}</code>" in page

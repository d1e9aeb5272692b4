"""`fission view`: the index by hand, hostile text harmless, and the application itself by its keys."""

from __future__ import annotations

import asyncio
import json
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_runs import HOSTILE, family, fission_group, group, hostile_run, trajectory, write_run
from typer.testing import CliRunner

from fission_grpo.cli import app as cli
from fission_grpo.errors import DataError
from fission_grpo.report.page.sources import PageRun, read_settings_file
from fission_grpo.report.page.vocabulary import Vocabulary
from fission_grpo.report.viewer.index import Ending, Filter, Line, TraceIndex, positions
from fission_grpo.report.viewer.reading import DIMMED, DOWN, UP, detail, harmless, list_line

STEERING = "\x1b[31mred\x1b]0;title\x07 \r\b\x9b2J \u202eback\u2066 [bold]not bold[/] [link=x]no link[/link]"
"""Control sequences of terminals, old and new, direction overrides, and Rich's own markup."""


def lines_of(index: TraceIndex, chosen: Filter | None = None) -> list[str]:
    """The list as it is drawn, wide enough."""
    shown = index.lines(chosen or Filter())
    return [list_line(line, index.entries, shown=200).plain.strip() for line in shown]


def whole(run: Path) -> TraceIndex:
    index = TraceIndex(run / "traces.jsonl")
    assert index.grow(1000)
    return index


def mixed(folder: Path) -> Path:
    """Right at once; right after an error of `cd`; wrong after one of `mv`; recoveries from that, one of them right."""
    first = [
        trajectory(("ls", None), ("", None), success=True, reward=1.0, advantage=0.5),
        trajectory(("cd", "E4"), ("ls", None), ("", None), success=True, reward=0.75),
        trajectory(("mv", "E6"), ("", None), advantage=-1.0),
    ]
    recoveries = [
        trajectory(("touch", None), ("", None), success=True, reward=1.0, advantage=1.0),
        trajectory(("mv", "E6"), ("", None), advantage=-1.0),
    ]
    return write_run(
        folder,
        [
            group("a", 0, first, task="files", prompt="Move the file"),
            fission_group("b", 0, recoveries, parent=("a", 2, 0), error="E6", task="files", prompt="Move the file"),
            group("c", 1, first[:1], task="other", prompt="List them"),
        ],
    )


# The index


def test_the_list_has_steps_groups_and_trajectories_in_order(tmp_path: Path) -> None:
    index = whole(mixed(tmp_path / "run"))
    assert lines_of(index) == [
        "step 0",
        "◆ 2/3 Move the file",
        "✓ +1.00 +0.50     ls() → Done.",
        "✓ +0.75 +0.00 E4  cd() → ls() → Done.",
        "✗ +0.00 -1.00 E6  mv() → Done.",
        "⑂ E6 1/2 recoveries: Move the file",
        "✓ +1.00 +1.00     touch() → Done.",
        "✗ +0.00 -1.00 E6  mv() → Done.",
        "step 1",
        "◆ 1/1 List them",
        "✓ +1.00 +0.50     ls() → Done.",
    ]
    assert positions(list(index.lines(Filter())), index.entries) == [5]
    assert (index.errors(), index.tools()) == (["E4", "E6"], ["cd", "mv"])


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        (Filter(ending=Ending.FAILED), ["mv() → Done.", "mv() → Done."]),
        (Filter(ending=Ending.RECOVERED), ["cd() → ls() → Done.", "touch() → Done."]),
        (Filter(error="E4"), ["cd() → ls() → Done."]),
        (Filter(tool="mv", ending=Ending.FAILED), ["mv() → Done.", "mv() → Done."]),
        (Filter(words="LIST"), ["ls() → Done."]),
        (Filter(words="touch"), ["touch() → Done."]),
        (Filter(words="nowhere"), []),
    ],
    ids=str,
)
def test_a_filter_keeps_what_passes_and_the_lines_above_it(tmp_path: Path, chosen: Filter, kept: list[str]) -> None:
    index = whole(mixed(tmp_path / "run"))
    found = list(index.lines(chosen))
    assert [index.entries[one.group].members[one.member].calls for one in found if one.member is not None] == kept  # type: ignore[index]
    groups = {one.group for one in found if one.member is not None}
    assert [one.group for one in found if one.group is not None and one.member is None] == sorted(groups)


def test_portions_give_the_same_list_as_all_at_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [one for step in range(5) for one in family(step)])
    index, lines = TraceIndex(run / "traces.jsonl"), list[Line]()
    done = False
    while not done:
        first = len(index.entries)
        done = index.grow(3)
        lines += index.lines(Filter(), first=first)
    assert lines == list(whole(run).lines(Filter()))
    assert index.trajectories == 20


def test_a_run_is_followed_and_what_a_resumed_run_cuts_off_is_forgotten(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", family(0) + family(1))
    index, path = whole(run), run / "traces.jsonl"
    with path.open("a") as file:
        text = "".join(json.dumps(one) + "\n" for one in family(2))
        file.write(text[:-10])
        file.flush()
        index.grow(10)
        assert [entry.step for entry in index.entries] == [0, 0, 1, 1, 2]  # half a line waits for its end
        file.write(text[-10:])
    index.grow(10)
    assert [entry.step for entry in index.entries] == [0, 0, 1, 1, 2, 2]
    path.write_text("".join(json.dumps(one) + "\n" for one in family(0)))
    index.grow(10)
    assert [entry.step for entry in index.entries] == [0, 0]
    with path.open("a") as file:
        file.write("".join(json.dumps(one) + "\n" for one in family(1, rescued=2)))
    index.grow(10)
    assert [entry.right for entry in index.entries] == [0, 1, 0, 2]


def test_a_file_that_is_another_by_now_is_not_read_as_the_old_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", family(0))
    index, path = whole(run), run / "traces.jsonl"
    path.write_text(path.read_text().replace('"group": "0/task-1"', '"group": "9/task-1"'))
    with pytest.raises(DataError, match="group 0/task-1 is no longer where it was; open the run anew"):
        index.load(0)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", family(0))
    with (run / "traces.jsonl").open("a") as file:
        file.write('{"group": "x"}\n')
    with pytest.raises(DataError, match="group 2: KeyError"):
        TraceIndex(run / "traces.jsonl").grow(10)


def test_a_damaged_line_ends_the_application_with_its_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", family(0))
    with (run / "traces.jsonl").open("a") as file:
        file.write("no JSON\n")
    found: list[Any] = []
    played(run, [], lambda app, pilot: found.append((type(app.broken), app.is_running)))
    assert found == [(DataError, False)]


# What is read


def test_a_recovery_is_read_from_its_failed_prefix_on(tmp_path: Path) -> None:
    """Context, feedback with its origin and leak verdict, then what was sampled, with reward and advantage."""
    index = whole(mixed(tmp_path / "run"))
    told = detail(index, Line(step=0, group=1, member=0)).plain
    order = [
        *("✓ right", "reward +1.00", "advantage +1.00", "verdict 1 x 1", "user\nMove the file"),
        *("policy  this message failed\nmv()", "feedback rules written without the reference\nno such file"),
        *("the recovery begins here", "policy\ntouch()", "tool\nreply to touch", "policy\nDone."),
    ]
    places = [told.index(words) for words in order]
    assert places == sorted(places)
    assert "reply to mv" not in told  # feedback stands in its place
    assert "tool  E6 precondition unmet\nreply to mv" in detail(index, Line(step=0, group=0, member=2)).plain
    assert '<tool_call>\n{"name": "touch"' in detail(index, Line(step=0, group=1, member=0), raw=True).plain


def test_tokens_in_the_loss_are_coloured_by_their_advantage(tmp_path: Path) -> None:
    """Of each message three tokens are sampled and one is the world's: 6 of 8 are trained."""
    run = mixed(tmp_path / "run")
    index = whole(run)
    vocabulary = Vocabulary.of(PageRun(name="run", path=run, settings={"model": "nano"}), [])
    for member, colour in ((0, UP), (1, DOWN)):
        text = detail(index, Line(step=0, group=1, member=member), vocabulary=vocabulary, tokens=True)
        styles = [str(span.style) for span in text.spans]
        assert styles[-8:] == [colour] * 3 + [DIMMED] + [colour] * 3 + [DIMMED]
        assert "6 of 8 tokens are in the loss" in text.plain
    assert "not on this machine" in detail(index, Line(step=0, group=1, member=0), tokens=True).plain


# Harmless


@settings(max_examples=60, deadline=None)
@given(st.text() | st.just(STEERING) | st.sampled_from(HOSTILE))
def test_no_text_can_steer_a_terminal(text: str) -> None:
    shown = harmless(text)
    assert not [one for one in shown if unicodedata.category(one) in ("Cc", "Cf", "Cs") and one not in "\n\t"]
    shown.encode()  # a terminal takes UTF-8
    assert harmless(shown) == shown
    plain = "".join(one for one in text if one.isascii() and one.isprintable())
    assert "".join(one for one in harmless(plain)) == plain


# The application


def played(run: Path, keys: Sequence[str], then: Callable[[Any, Any], Awaitable[None] | None] | None = None) -> str:
    """The screen after some keys."""
    pytest.importorskip("textual")
    from fission_grpo.report.viewer.app import Viewer

    async def play() -> str:
        app = Viewer(PageRun(name=run.name, path=run, settings=read_settings_file(run / "config.yaml")))
        async with app.run_test(size=(130, 34)) as pilot:
            await pilot.pause()
            for key in keys:
                await pilot.press(key)
            await pilot.pause()
            if then is not None and (waiting := then(app, pilot)) is not None:
                await waiting
            return screen(app)

    return asyncio.run(play())


def screen(app: Any) -> str:
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def cursor(shown: list[Any]) -> Callable[[Any, Any], None]:
    return lambda app, pilot: shown.append(app.trace_list.chosen)


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (["j", "down", "j", "k"], Line(step=0, group=0, member=0)),
        (["G"], Line(step=1, group=2, member=0)),
        (["G", "g"], Line(step=0)),
        (["n"], Line(step=0, group=1)),
        (["G", "p"], Line(step=0, group=1)),
        (["n", "n"], Line(step=0, group=1)),  # there is no other
        (["enter", "j", "j", "escape", "j"], Line(step=0, group=0)),  # j scrolls while reading
        (["pagedown"], Line(step=1, group=2, member=0)),
    ],
    ids=str,
)
def test_keys_move_the_cursor(tmp_path: Path, keys: list[str], place: Line) -> None:
    shown: list[Any] = []
    played(mixed(tmp_path / "run"), keys, cursor(shown))
    assert shown == [place]


def test_the_screen_shows_list_and_dialogue_side_by_side(tmp_path: Path) -> None:
    text = played(mixed(tmp_path / "run"), ["n", "j"])
    assert "run · 2 steps · 6 trajectories · still training" in text
    assert "⑂ E6 1/2 recoveries: Move the file" in text
    assert "feedback rules written without the reference" in text
    assert "── the recovery begins here" in text


def test_a_fission_group_is_drawn_as_a_tree(tmp_path: Path) -> None:
    text = played(mixed(tmp_path / "run"), ["n"])
    assert "↳ rules: no such file" in text
    assert "exploration mixed; fission (step 0): 1/2 right" in text


def test_filters_go_round_and_are_named(tmp_path: Path) -> None:
    run = mixed(tmp_path / "run")
    assert "2 of 6 trajectories · failed" in played(run, ["f"])
    assert "2 of 6 trajectories · recovered" in played(run, ["f", "f"])
    assert "· 6 trajectories" in played(run, ["f", "f", "f"])
    assert "1 of 6 trajectories · E4" in played(run, ["e"])
    assert "2 of 6 trajectories · failed · mv" in played(run, ["f", "t", "t"])
    assert "· 6 trajectories" in played(run, ["f", "t", "x"])
    assert "Nothing passes the filter; x shows everything." in played(
        run, ["f", "t"]
    )  # only a recovered one failed in cd


def test_a_search_takes_every_key_as_a_letter(tmp_path: Path) -> None:
    run = mixed(tmp_path / "run")
    assert "1 of 6 trajectories · /list" in played(run, ["slash", *"list", "enter"])
    assert "· 6 trajectories" in played(run, ["slash", *"quit", "escape"])  # q, u, i and t did nothing else


def test_help_lists_the_keys_and_goes_away(tmp_path: Path) -> None:
    run = mixed(tmp_path / "run")
    assert "next, previous fission tree" in played(run, ["question_mark"])
    assert "next, previous fission tree" not in played(run, ["question_mark", "escape"])


def test_q_ends_it(tmp_path: Path) -> None:
    running: list[bool] = []
    played(mixed(tmp_path / "run"), ["q"], lambda app, pilot: running.append(app.is_running))
    assert running == [False]


def test_tokens_and_raw_messages_are_a_key_away(tmp_path: Path) -> None:
    run = mixed(tmp_path / "run")
    assert "6 of 8 tokens are in the loss" in played(run, ["n", "j", "v"])
    assert '{"name": "touch", "arguments": {}}' in played(run, ["n", "j", "r"])


def test_what_anybody_wrote_is_shown_and_does_nothing(tmp_path: Path) -> None:
    """Control sequences and markup stand on the screen as text, in the list and in the dialogue, tokens aside."""
    run = hostile_run(tmp_path / "run", STEERING)
    for keys in ([], ["j"], ["j", "j"], ["n"], ["n", "j"], ["n", "j", "r"], ["slash", *"bold", "enter", "n"]):
        text = played(run, keys)
        assert not [one for one in text if unicodedata.category(one) in ("Cc", "Cf", "Cs") and one != "\n"]
        assert "\\x1b[31mred" in text
    assert "/bold" in text
    index = whole(run)
    for member in (None, 0):  # of a group in which everything was written by somebody
        line = Line(step=0, group=0, member=member)
        for told in (list_line(line, index.entries, shown=2000), detail(index, line), detail(index, line, raw=True)):
            assert "[bold]not bold[/] [link=x]no link[/link]" in told.plain


def test_a_run_that_trains_is_followed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", family(0))

    async def train(app: Any, pilot: Any) -> None:
        with (run / "traces.jsonl").open("a") as file:
            file.write("".join(json.dumps(one) + "\n" for one in family(1)))
        while len(app.index.entries) < 4:
            await pilot.pause(0.05)

    assert "run · 2 steps · 8 trajectories" in played(run, [], train)


def test_thousands_of_trajectories_are_there_before_all_are_read(tmp_path: Path) -> None:
    """The first portion is on the screen when the application is up; the rest comes while it can be used."""
    run = write_run(tmp_path / "run", [one for step in range(500) for one in family(step)])
    seen: list[int] = []

    async def wait(app: Any, pilot: Any) -> None:
        while len(app.index.entries) < 1000:
            await pilot.pause(0.05)
        await pilot.press("G")
        seen.append(app.trace_list.chosen.step)

    assert "500 steps · 2,000 trajectories" in played(run, [], wait)
    assert seen == [499]


# The command


def test_what_is_no_run_and_a_missing_package_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = CliRunner().invoke(cli, ["view", str(tmp_path)])
    assert told.exit_code == 2
    assert "holds no training run; give the --output of `fission train`" in told.output
    monkeypatch.setitem(sys.modules, "textual", None)  # as where it is not installed
    told = CliRunner().invoke(cli, ["view", str(mixed(tmp_path / "run"))])
    assert told.exit_code == 2
    assert "install it: pip install 'fission-grpo[view]'" in told.output

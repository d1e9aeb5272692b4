"""The page in a real browser: it works, it is quiet, and what a model wrote stays text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, MISSING, Browser, opened_browser
from episodes import OTHER, episode, message
from page_runs import HOSTILE, family, hostile_run, write_run

from fission_grpo.commands.report import write_report
from fission_grpo.evaluation.heldout import Evaluation

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)
MANY = 2000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 2,000 trajectories in 500 trees."""
    folder = tmp_path_factory.mktemp("page")
    families = [one for place in range(MANY // 4) for one in family(place // 10, task=f"task-{place}")]
    report = write_report([write_run(folder / "run", families)], folder / "report.html", samples=MANY, seed=0)
    assert report.shown == MANY
    return report.path


def count(browser: Browser, selector: str) -> int:
    found = browser.run("return document.querySelectorAll(arguments[0]).length", selector)
    assert isinstance(found, int)
    return found


def text(browser: Browser, selector: str) -> str:
    return str(browser.run("return document.querySelector(arguments[0]).textContent.toWellFormed()", selector))


def click(browser: Browser, selector: str) -> None:
    browser.run("document.querySelector(arguments[0]).click()", selector)


def press(browser: Browser, selector: str, key: str) -> None:
    event = "new KeyboardEvent('keydown', {key: arguments[1], bubbles: true})"
    browser.run(f"document.querySelector(arguments[0]).dispatchEvent({event})", selector, key)


def choose(browser: Browser, selector: str, value: str) -> None:
    script = (
        "const s = document.querySelector(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    )
    browser.run(script, selector, value)


def test_hostile_texts_are_shown_and_do_nothing(browser: Browser, tmp_path: Path) -> None:
    report = write_report([hostile_run(tmp_path / "run")], tmp_path / "report.html", samples=100, seed=0)
    browser.open(report.path)  # an alert would fail the next command
    assert browser.console() == []
    scripts = "return document.scripts.length + document.images.length"
    assert browser.run(scripts) == 4
    click(browser, "#rows .row")
    shown = text(browser, "#detail")
    for words in HOSTILE[:-1]:
        assert words in shown
    click(browser, ".tree .card.fissioned")
    assert HOSTILE[0] in text(browser, "#tree-detail")
    click(browser, "#tree-detail .tabs button:last-child")  # the tokens
    assert browser.run(scripts) == 4
    assert browser.console() == []


def test_two_thousand_trajectories_are_listed_without_being_there(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert text(browser, "#found") == "2,000 found"
    assert count(browser, "#rows .row") < 40  # those in sight, and a few more
    press(browser, "#list", "End")
    assert browser.run("return document.querySelector('.row[aria-selected=true]').id") == "row-1999"
    assert count(browser, "#rows .row") < 40
    assert count(browser, "*") < 3000
    assert browser.console() == []


def test_filters_search_and_keys_find_a_sample(browser: Browser, page: Path) -> None:
    browser.open(page)
    choose(browser, "#kind-filter", "fission")
    assert text(browser, "#found") == "1,000 found"
    choose(browser, "#ok-filter", "1")
    assert text(browser, "#found") == "500 found"
    browser.run(
        "const s = document.querySelector('#search'); s.value = 'task-77'; s.dispatchEvent(new Event('input'));"
        "return new Promise((done) => setTimeout(done, 400))"
    )
    assert text(browser, "#found") == "1 found"
    press(browser, "#list", "ArrowDown")
    assert "task-77" in text(browser, "#detail h3")
    press(browser, "#search", "Escape")
    assert text(browser, "#found") == "500 found"
    browser.open(page, "#item-5")  # a link to one sample
    assert browser.run("return document.querySelector('#detail article').dataset.item") == "5"
    assert browser.console() == []


def test_trees_turn_by_keys_and_show_which_tokens_are_in_the_loss(browser: Browser, page: Path) -> None:
    browser.open(page)
    choose(browser, "#tree-filter", "mixed")
    assert text(browser, "#tree-place") == "1 of 500"
    press(browser, "#tree", "ArrowRight")
    assert text(browser, "#tree-place") == "2 of 500"
    assert count(browser, ".tree .card") == 4
    assert "no such file" in text(browser, ".tree .says")
    assert "written without the reference" in text(browser, ".tree .says")
    click(browser, ".tree .column:last-child .card.ok")
    assert "the recovery begins here" in text(browser, "#tree-detail")
    click(browser, "#tree-detail .tabs button:last-child")
    # Two messages of three tokens are trained and pushed up; the world's token after each is not.
    assert count(browser, "#tree-detail .tokens .in.up") == 6
    assert count(browser, "#tree-detail .tokens span") == 8
    click(browser, "#tree-detail summary")
    browser.run("return new Promise((done) => setTimeout(done, 100))")
    assert count(browser, "#tree-detail .tokens span") == 8 + 3  # the context, on demand
    assert browser.console() == []


def test_an_episode_of_an_evaluation_begins_with_what_was_asked(browser: Browser, tmp_path: Path) -> None:
    record = replace(episode(message(0, OTHER), message(0), message(1)), asked=("find <i>it</i>", "and then"))
    Evaluation(episodes=(record,)).save(tmp_path / "judged")
    browser.open(write_report([tmp_path / "judged"], tmp_path / "report.html", samples=10, seed=0).path, "#item-0")
    told = text(browser, "#detail .talk")
    assert told.index("find <i>it</i>") < told.index("(empty)") < told.index("and then")
    assert told.count("and then") == told.count("find") == 1
    assert count(browser, "#detail .talk .user") == 2
    assert browser.console() == []


def test_names_switch_lines_on_and_off(browser: Browser, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, [one for step in range(3) for one in family(step)]) for name in ("one", "two")]
    browser.open(write_report(runs, tmp_path / "report.html", samples=10, seed=0).path)
    charts, lines = count(browser, "figure[data-chart]"), count(browser, "g[data-name=one]")
    assert charts == lines > 0  # each run has a line in every chart
    click(browser, "[data-line=one]")
    assert count(browser, "g[data-name=one]:not([hidden])") == 0
    assert count(browser, "figure[data-chart]:not([hidden])") == charts
    click(browser, "[data-line=two]")
    assert count(browser, "figure[data-chart]:not([hidden])") == 0  # nothing is left in any chart
    assert browser.console() == []


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.devtools(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.open(page)
    click(browser, "#rows .row")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.devtools("Emulation.clearDeviceMetricsOverride", {})


def test_light_and_dark_follow_the_system_and_the_switch(browser: Browser, page: Path) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    browser.dark(False)
    browser.open(page)
    light = browser.run(colour)
    browser.dark(True)
    dark = browser.run(colour)
    assert light != dark
    click(browser, "#theme")
    assert browser.run(colour) == light
    browser.dark(False)
    browser.run("localStorage.clear()")

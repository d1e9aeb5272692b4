"""The picture of one fission tree: request, G trajectories, the failed turn with its feedback, G' recoveries."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from fission_grpo.report.style import (
    HAIRLINE,
    ORANGE,
    QUIET,
    RIGHT,
    RIGHT_TINT,
    WRONG,
    WRONG_TINT,
    house_style,
    new_figure,
    save,
)
from fission_grpo.report.tree import Branch, FissionTree

# Everything is laid out in inches, origin top left, so that type sizes and boxes keep their proportions.
_WIDTH = 14.2
_ROW = 0.46
_BOX = 0.36
_TOP = 0.88
_REQUEST_X, _REQUEST_W = 0.25, 2.05
_EXPLORE_X, _EXPLORE_W = 2.9, 3.75
_FEEDBACK_X, _FEEDBACK_W = 7.2, 1.85
_RECOVER_X, _RECOVER_W = 9.65, 4.3
_SANS, _MONO = "DejaVu Sans", "DejaVu Sans Mono"
_MONO_INCH = 0.0695
"""Advance of the monospaced face at 8.3 points, in inches: 0.602 em."""


_LEGEND = (
    "✓ right   ✗ wrong   bold: reward   A: advantage inside its own group   E0-E8, S, W: class of the first error   "
    "outlined: the failure that became a training condition"
)


@dataclass(frozen=True, slots=True)
class _Sheet:
    """One set of axes in inches."""

    axes: Any

    def box(self, x: float, y: float, w: float, h: float, *, face: str, edge: str, line: float = 0.9) -> None:
        """A rounded card whose left edge is at x and whose middle is at y."""
        style = "round,pad=0,rounding_size=0.06"
        card = FancyBboxPatch((x, y - h / 2), w, h, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=line)
        self.axes.add_patch(card)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        shown = _drawable(text, str(style.get("family", _SANS)))
        # `$` would start a formula in the middle of a file name.
        self.axes.text(x, y, shown, **{"va": "center", "fontsize": 8.6, "parse_math": False, **style})

    def link(self, start: tuple[float, float], stop: tuple[float, float], *, colour: str, line: float) -> None:
        """A curve that leaves and arrives level."""
        middle = (start[0] + stop[0]) / 2
        points = [start, (middle, start[1]), (middle, stop[1]), stop]
        path = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
        self.axes.add_patch(PathPatch(path, facecolor="none", edgecolor=colour, linewidth=line, zorder=0))


def tree_figure(tree: FissionTree, path: Path) -> Path:
    """Draw the tree as PNG or SVG, by the suffix.

    Blue with a tick is right, vermilion with a cross is wrong: the mark, not the colour alone, carries the meaning.
    """
    rows = max(len(tree.branches), len(tree.recoveries), 4)
    height = _TOP + rows * _ROW + 0.5
    with house_style():
        figure = new_figure(_WIDTH, height)
        sheet = _Sheet(_inch_axes(figure, height))
        middle = _TOP + rows * _ROW / 2
        explored = _rows(len(tree.branches), middle)
        recovered = _rows(len(tree.recoveries), middle)
        _headings(sheet, tree)
        _links(sheet, tree, middle, explored, recovered)
        _request_card(sheet, tree, middle)
        for place, (branch, y) in enumerate(zip(tree.branches, explored, strict=True)):
            _branch_card(sheet, branch, _EXPLORE_X, y, _EXPLORE_W, strong=place == tree.failed)
        _feedback_card(sheet, tree, middle)
        for branch, y in zip(tree.recoveries, recovered, strict=True):
            _branch_card(sheet, branch, _RECOVER_X, y, _RECOVER_W, strong=False)
        sheet.text(_REQUEST_X, height - 0.24, _LEGEND, fontsize=7.8, color=QUIET)
        return save(figure, path)


def _drawable(text: str, family: str) -> str:
    """What a policy says may hold any character: those that the face does not have are squares."""
    face = get_font(findfont(FontProperties(family=family)))
    return "".join(one if face.get_char_index(ord(one)) else "□" for one in text)


def _inch_axes(figure: Any, height: float) -> Any:
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return axes


def _rows(count: int, middle: float) -> list[float]:
    return [middle + (place - (count - 1) / 2) * _ROW for place in range(count)]


def _headings(sheet: _Sheet, tree: FissionTree) -> None:
    right = sum(branch.right for branch in tree.branches)
    headings = (
        (_REQUEST_X, "x", f"task {tree.task}"),
        (_EXPLORE_X, "explore", f"step {tree.step}: {right} of {len(tree.branches)} right"),
        (_FEEDBACK_X, "feedback", f"by {tree.origin}, on message {tree.failed_turn + 1}"),
        (_RECOVER_X, "fission", f"step {tree.fission_step}: {tree.rescues} of {len(tree.recoveries)} recover"),
    )
    for x, title, subtitle in headings:
        sheet.text(x, 0.3, title, fontsize=12.5, weight="bold")
        sheet.text(x, 0.56, subtitle, fontsize=8.6, color=QUIET)


def _links(sheet: _Sheet, tree: FissionTree, middle: float, explored: list[float], recovered: list[float]) -> None:
    for place, y in enumerate(explored):
        strong = place == tree.failed
        start = (_REQUEST_X + _REQUEST_W, middle)
        sheet.link(start, (_EXPLORE_X, y), colour=WRONG if strong else HAIRLINE, line=1.8 if strong else 1.1)
    failed = (_EXPLORE_X + _EXPLORE_W, explored[tree.failed])
    sheet.link(failed, (_FEEDBACK_X, middle), colour=WRONG, line=1.8)
    for branch, y in zip(tree.recoveries, recovered, strict=True):
        colour, line = (RIGHT, 1.5) if branch.right else (HAIRLINE, 1.1)
        sheet.link((_FEEDBACK_X + _FEEDBACK_W, middle), (_RECOVER_X, y), colour=colour, line=line)


def _wrapped(text: str, *, characters: int, lines: int) -> list[str]:
    return textwrap.wrap(text, characters, max_lines=lines, placeholder=" …", break_on_hyphens=False) or [""]


def _card_text(sheet: _Sheet, x: float, middle: float, lines: list[str], **style: Any) -> None:
    for place, line in enumerate(lines):
        sheet.text(x, middle + (place - (len(lines) - 1) / 2) * 0.18, line, **style)


def _request_card(sheet: _Sheet, tree: FissionTree, middle: float) -> None:
    lines = _wrapped(tree.request, characters=27, lines=9)
    sheet.box(_REQUEST_X, middle, _REQUEST_W, 0.18 * len(lines) + 0.28, face="#f5f7f9", edge=HAIRLINE)
    _card_text(sheet, _REQUEST_X + 0.13, middle, lines)


def _feedback_card(sheet: _Sheet, tree: FissionTree, middle: float) -> None:
    lines = [line for text in tree.feedback for line in _wrapped(text, characters=23, lines=8)][:14]
    sheet.box(_FEEDBACK_X, middle, _FEEDBACK_W, 0.18 * len(lines) + 0.28, face="#fff8ee", edge=ORANGE)
    _card_text(sheet, _FEEDBACK_X + 0.12, middle, lines, fontsize=8.2)


def _branch_card(sheet: _Sheet, branch: Branch, x: float, y: float, width: float, *, strong: bool) -> None:
    """Mark, calls, error class, and at the right end reward over advantage."""
    colour, tint = (RIGHT, RIGHT_TINT) if branch.right else (WRONG, WRONG_TINT)
    sheet.box(x, y, width, _BOX, face=tint, edge=colour if strong else tint, line=1.8)
    sheet.text(x + 0.1, y, "✓" if branch.right else "✗", color=colour, fontsize=10.5, weight="bold")
    numbers = x + width - 0.1
    reward = "" if branch.reward is None else f"{branch.reward:.2f}"
    sheet.text(numbers, y - 0.075, reward, ha="right", fontsize=8.6, weight="bold")
    advantage = "" if branch.advantage is None else f"A {branch.advantage:+.2f}"
    sheet.text(numbers, y + 0.09, advantage, ha="right", fontsize=7.3, color=QUIET)
    room = width - 0.32 - 0.62 - (0.3 if branch.error else 0)
    sheet.text(x + 0.32, y, branch.fit(int(room / _MONO_INCH)), family=_MONO, fontsize=8.3)
    sheet.text(numbers - 0.52, y, branch.error, ha="right", fontsize=7.4, color=colour, weight="bold")

"""How our pictures look: one palette, one set of type sizes, one way to save."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#1b2733"
QUIET = "#66727f"
HAIRLINE = "#d5dbe1"
PAPER = "#ffffff"

# Okabe and Ito's colours, which stay apart under every common colour blindness; black and yellow are left out.
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILLION = "#D55E00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
# Light, because a darker grey is purple's twin under red-green blindness.
GREY = "#bcc4cc"
# Of Paul Tol's muted scheme those farthest from all others under every common colour blindness.
SAND = "#DDCC77"
BROWN = "#661100"
INDIGO = "#332288"

ARM_COLOURS = (GREY, PURPLE, ORANGE, SKY, BLUE, GREEN, VERMILLION, BROWN, SAND, INDIGO)
"""In the order of the arms: the first is usually the warm start, and recedes."""

RIGHT, WRONG = BLUE, VERMILLION
RIGHT_TINT, WRONG_TINT = "#e8f2f9", "#fcefe6"

_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": HAIRLINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "grid.color": "#edf0f3",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "fission",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw inside it; global settings are untouched afterwards."""
    with mpl.rc_context(_RC):
        yield


def new_figure(width: float, height: float) -> Any:
    """An empty figure in inches, on its own canvas: no global plotting state."""
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    """Write PNG or SVG, by the suffix; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    undated = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=200, facecolor=PAPER, metadata=undated)
    return path


def arm_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each arm, by its place; made once for a report, so that an arm looks the same in every picture."""
    return dict(zip(names, cycle(ARM_COLOURS), strict=False))

"""The page: all is read and counted first, then one template writes it with its style, its script and its data."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fission_grpo.report import style
from fission_grpo.report.figures import WINDOW
from fission_grpo.report.flow import FATE_COLOURS, FATE_NAMES
from fission_grpo.report.page.charts import Chart, line_chart
from fission_grpo.report.page.cost import Spending, duration
from fission_grpo.report.page.errors import FlowPanel
from fission_grpo.report.page.markdown import inline
from fission_grpo.report.page.provenance import SourceFacts
from fission_grpo.report.page.samples import Payload, embedded
from fission_grpo.report.page.signal import STACKS
from fission_grpo.report.page.verdict import Caution, Tile
from fission_grpo.report.tables import error_name
from fission_grpo.report.tree import END_WORDS, LEAKAGE_WORDS
from fission_grpo.run.provenance import versions
from fission_grpo.types import ErrorClass

_ENVIRONMENT = Environment(
    loader=PackageLoader("fission_grpo.report.page", "assets"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


NOTHING = Markup("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table or a picture with its heading."""

    title: str
    body: Markup
    note: str = ""
    folded: bool = False
    """Shown on a click."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the template shows; a section without content is left out."""

    title: str
    kind: str
    about: str
    """One line: what was trained, and how."""
    verdict: str
    details: str = ""
    """What else there is to say of it."""
    tiles: Sequence[Tile] = ()
    cautions: Sequence[Caution] = ()
    outcomes: Sequence[Table] = ()
    """Tables and pictures that stand behind the verdict."""
    charts: Sequence[Chart] = ()
    legend: Mapping[str, str] = field(default_factory=dict)
    """Colour by name, where all panels share one."""
    shown: Sequence[str] = ()
    """Names in the legend whose lines are shown at first; all of them, unless given."""
    signal: Sequence[Table] = ()
    signal_sentence: str = ""
    flows: Sequence[FlowPanel] = ()
    errors: Sequence[Table] = ()
    glossary: Markup = NOTHING
    spending: Sequence[Spending] = ()
    costs: Sequence[Table] = ()
    sources: Sequence[SourceFacts] = ()
    payload: Payload = field(default_factory=Payload)


def render(page: Page, *, command: str, seed: int) -> str:
    """One HTML file that needs nothing else.

    Scripts that are not the page's own do not run: their hash is not in its policy (`Content-Security-Policy`).

    Args:
        command: what made the page.
        seed: of what was drawn.
    """
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _ENVIRONMENT.get_template("page.html.jinja")
    return template.render(
        page=page,
        command=command,
        seed=seed,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions=list(versions().items()),
        style=Markup(_asset("page.css")),
        script=Markup(script),
        digest=digest,
        drawn=[(chart, line_chart(chart)) for chart in page.charts],
        stacks=STACKS,
        colours={name.lower(): getattr(style, name) for name in _SHARED},
        payload=embedded(page.payload.as_json()),
        points=embedded([chart.points for chart in page.charts]),
        words=embedded(_words()),
        duration=duration,
        inline=inline,
        window=WINDOW,
    )


_SHARED = ("INK", "QUIET", "RIGHT", "WRONG", "ORANGE")
"""Of the palette of our pictures, what the style mixes its own colours from."""


def _asset(name: str) -> str:
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


def _words() -> dict[str, Any]:
    """Names that the script shows."""
    return {
        "classes": {error.value: error_name(error) for error in ErrorClass},
        "fates": {fate.value: [FATE_NAMES[fate], FATE_COLOURS[fate]] for fate in FATE_NAMES},
        "leaks": dict(LEAKAGE_WORDS),
        "ends": dict(END_WORDS),
    }

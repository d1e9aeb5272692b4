"""The terminal itself: a list at the left, what was chosen at the right, keys first. Needs textual (extra `view`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.geometry import Region, Size
from textual.message import Message
from textual.screen import ModalScreen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Footer, Input, Static

from fission_grpo.errors import DataError
from fission_grpo.report.page.sources import PageRun
from fission_grpo.report.page.vocabulary import Vocabulary
from fission_grpo.report.viewer.index import Ending, Filter, Line, TraceIndex, positions
from fission_grpo.report.viewer.reading import detail, harmless, list_line
from fission_grpo.run.folder import RunFolder

FIRST, PORTION = 50, 400
"""Groups that are read before anything is shown, and at a time after that."""
SOON, LATER = 0.02, 1.0
"""Seconds between portions, and between looks at a run that may still train."""
_KEYS = """\
j k ↓ ↑          next, previous line          g G   first, last line
space b          a page down, up              n p   next, previous fission tree
enter →          read: the same keys scroll   escape ← h   back to the list

f                all, failed, recovered       e     by class of error
t                by the tool that failed      /     search; enter to search, escape to leave
x                show everything again

r                calls, or messages exactly as sampled
v                tokens, those in the loss coloured by their advantage
? q              this help, the end"""


class TraceList(ScrollView):  # type: ignore[misc]  # textual is not installed where this is checked
    """The lines of the list; only those that can be seen are drawn."""

    class Chosen(Message):  # type: ignore[misc]
        """The cursor stands on another line."""

    BINDINGS: ClassVar[list[Any]] = [
        Binding("j,down", "move(1)", "next", show=False),
        Binding("k,up", "move(-1)", "previous", show=False),
        Binding("space,pagedown", "page(1)", "page down", show=False),
        Binding("b,pageup", "page(-1)", "page up", show=False),
        Binding("g,home", "go(0)", "first", show=False),
        Binding("G,end", "go(-1)", "last", show=False),
    ]

    def __init__(self, index: TraceIndex) -> None:
        super().__init__(id="list")
        self._index = index
        self.lines: list[Line] = []
        self.cursor = 0

    @property
    def chosen(self) -> Line | None:
        """Where the cursor stands; None in an empty list."""
        return self.lines[self.cursor] if self.lines else None

    def show(self, lines: Sequence[Line], *, keep: Line | None = None) -> None:
        """Other lines; the cursor goes to `keep` if it is among them, else as near to its place as can be."""
        self.lines = list(lines)
        self.virtual_size = Size(0, len(self.lines))
        place = self.lines.index(keep) if keep in self.lines else self.cursor
        self.go_to(place)
        self.refresh()

    def extend(self, lines: Sequence[Line]) -> None:
        """More lines at the end; nothing moves."""
        empty = not self.lines
        self.lines += lines
        self.virtual_size = Size(0, len(self.lines))
        self.refresh()
        if empty and self.lines:
            self.go_to(0)

    def go_to(self, place: int) -> None:
        """Put the cursor there, or as near as can be, and see to it that it is in sight."""
        self.cursor = max(0, min(place, len(self.lines) - 1))
        self.scroll_to_region(Region(0, self.cursor, 1, 1), animate=False)
        self.refresh()
        self.post_message(self.Chosen())

    def render_line(self, y: int) -> Strip:
        width, place = self.size.width, int(self.scroll_offset.y) + y
        if place >= len(self.lines):
            return Strip.blank(width, self.rich_style)
        text = list_line(self.lines[place], self._index.entries, shown=width)
        style = self.rich_style
        if place == self.cursor:
            style += Style(reverse=True, bold=self.has_focus)
        drawn = Segment.apply_style(text.render(self.app.console), style)
        return Strip(drawn).extend_cell_length(width, style).crop(0, width)

    def action_move(self, by: int) -> None:
        self.go_to(self.cursor + by)

    def action_page(self, by: int) -> None:
        self.go_to(self.cursor + by * max(1, self.size.height - 1))

    def action_go(self, place: int) -> None:
        self.go_to(place if place >= 0 else len(self.lines) + place)


class Reader(VerticalScroll):  # type: ignore[misc]
    """What was chosen, to be scrolled."""

    BINDINGS: ClassVar[list[Any]] = [
        Binding("j,down", "scroll_down", "down", show=False),
        Binding("k,up", "scroll_up", "up", show=False),
        Binding("space,pagedown", "page_down", "page down", show=False),
        Binding("b,pageup", "page_up", "page up", show=False),
        Binding("g,home", "scroll_home", "top", show=False),
        Binding("G,end", "scroll_end", "end", show=False),
        Binding("escape,left,h", "app.to_list", "back", show=False),
    ]


class Help(ModalScreen[None]):  # type: ignore[misc]
    """All keys."""

    BINDINGS: ClassVar[list[Any]] = [Binding("escape,question_mark,q,enter", "dismiss", "back")]

    def compose(self) -> ComposeResult:
        yield Static(_KEYS, id="keys", markup=False)


class Viewer(App[None]):  # type: ignore[misc]
    """One run."""

    TITLE = "fission view"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: 1; background: $primary; color: $text; padding: 0 1; }
    #list { width: 2fr; min-width: 30; }
    Reader { width: 3fr; border-left: solid $primary; padding: 0 1; }
    Reader:focus { border-left: thick $accent; }
    #search { display: none; }
    #search.open { display: block; }
    Help { align: center middle; }
    #keys { width: auto; height: auto; padding: 1 2; border: round $accent; background: $surface; }
    """
    BINDINGS: ClassVar[list[Any]] = [
        Binding("enter,right", "read", "read"),
        Binding("n", "tree(1)", "next tree"),
        Binding("p", "tree(-1)", "previous tree"),
        Binding("f", "ending", "failed/recovered"),
        Binding("e", "class", "class"),
        Binding("t", "tool", "tool"),
        Binding("slash", "search", "search", key_display="/"),
        Binding("x", "everything", "all", show=False),
        Binding("v", "tokens", "tokens"),
        Binding("r", "raw", "raw", show=False),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, run: PageRun) -> None:
        """Args: run: its name, folder and settings; its traces are read here, as far as they are looked at."""
        super().__init__()
        self._run = run
        self.index = TraceIndex(RunFolder(run.path).traces)
        self.filter = Filter()
        self.raw = self.tokens = False
        self.broken: DataError | None = None
        """What ended it, if the user did not."""
        self._drawn = 0
        self._vocabulary = Vocabulary.of(run, [])
        self.trace_list = TraceList(self.index)
        self._head = Static("", id="head", markup=False)
        self._detail = Static("", id="detail", markup=False)
        self._reader = Reader(self._detail)
        self._search = Input(placeholder="words in requests, tasks and messages", id="search")

    def compose(self) -> ComposeResult:
        yield self._head
        yield Horizontal(self.trace_list, self._reader)
        yield self._search
        yield Footer()

    def on_mount(self) -> None:
        self.trace_list.focus()
        self._grow(FIRST)

    def _grow(self, most: int) -> None:
        """Read on, show what is new, and come back: soon while there is more, later to follow a run that trains."""
        cuts = self.index.cuts
        try:
            done = self.index.grow(most)
        except DataError as error:
            self.broken = error
            self.exit()
            return
        if self.index.cuts > cuts:
            self._show()
        else:
            self.trace_list.extend(list(self.index.lines(self.filter, first=self._drawn)))
        self._drawn = len(self.index.entries)
        self._tell()
        self.set_timer(LATER if done else SOON, partial(self._grow, PORTION))

    def _show(self) -> None:
        """The list anew, under the filter that holds now."""
        self.trace_list.show(list(self.index.lines(self.filter)), keep=self.trace_list.chosen)
        self._drawn = len(self.index.entries)
        self._tell()

    def _tell(self) -> None:
        steps = len({entry.step for entry in self.index.entries})
        shown = sum(line.member is not None for line in self.trace_list.lines)
        total = self.index.trajectories
        state = "" if RunFolder(self._run.path).policy.is_dir() else "still training"
        count = f"{total:,} trajectories" if shown == total else f"{shown:,} of {total:,} trajectories"
        told = (self._run.name, f"{steps} steps", count, str(self.filter), state)
        self._head.update(harmless(" · ".join(filter(None, told))).replace("\n", " "))

    def on_trace_list_chosen(self) -> None:
        line, shown = self.trace_list.chosen, self._detail
        if line is None:
            shown.update(
                "Nothing passes the filter; x shows everything." if str(self.filter) else "No step is done yet."
            )
            return
        try:
            shown.update(detail(self.index, line, raw=self.raw, vocabulary=self._vocabulary, tokens=self.tokens))
        except DataError as error:
            shown.update(harmless(str(error)))
        self._reader.scroll_home(animate=False)

    def action_read(self) -> None:
        self._reader.focus()

    def action_to_list(self) -> None:
        self.trace_list.focus()

    def action_tree(self, by: int) -> None:
        """To the fission tree that begins next, and at the end to none."""
        places = positions(self.trace_list.lines, self.index.entries)
        there = [place for place in places if (place - self.trace_list.cursor) * by > 0]
        if there:
            self.trace_list.go_to(min(there) if by > 0 else max(there))

    def action_ending(self) -> None:
        self._choose(replace(self.filter, ending=_next([*Ending], self.filter.ending)))

    def action_class(self) -> None:
        self._choose(replace(self.filter, error=_next(["", *self.index.errors()], self.filter.error)))

    def action_tool(self) -> None:
        self._choose(replace(self.filter, tool=_next(["", *self.index.tools()], self.filter.tool)))

    def action_everything(self) -> None:
        self._choose(Filter())

    def _choose(self, chosen: Filter) -> None:
        self.filter = chosen
        self._show()

    def action_search(self) -> None:
        self._search.add_class("open")
        self._search.value = self.filter.words
        self._search.focus()

    def on_input_submitted(self, event: Any) -> None:
        self._leave_search()
        self._choose(replace(self.filter, words=event.value.strip()))

    def on_key(self, event: Any) -> None:
        if event.key == "escape" and self._search.has_focus:
            self._leave_search()

    def _leave_search(self) -> None:
        self._search.remove_class("open")
        self.trace_list.focus()

    def action_tokens(self) -> None:
        self.tokens = not self.tokens
        self.on_trace_list_chosen()

    def action_raw(self) -> None:
        self.raw = not self.raw
        self.on_trace_list_chosen()

    def action_help(self) -> None:
        self.push_screen(Help())


def _next(values: Sequence[Any], now: Any) -> Any:
    """The one behind, in a circle."""
    return values[(values.index(now) + 1) % len(values)] if now in values else values[0]

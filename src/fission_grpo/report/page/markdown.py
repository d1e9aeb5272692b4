"""The Markdown of `report.tables` as HTML, so that a page shows the very numbers of `summary.md`.

Only what those functions write is read: tables, lists of one level, paragraphs, and `code`, *words* and **words** in a
line. Everything else is text, and escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from markupsafe import Markup, escape

_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*")
_CELL = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"\|[\s:|-]+\|")
_SHARE = re.compile(r"(?P<share>-?[\d.]+ %|-) (?:(?P<interval>\[[^]]*\]) )?(?P<count>\(\d+/\d+\))")
"""What `str` of a share gives."""


def html_of(text: str) -> Markup:
    """Paragraphs, lists and tables."""
    kinds = groupby(text.strip().split("\n"), key=_kind)
    return Markup("\n").join(_block(kind, list(lines)) for kind, lines in kinds)


def _kind(line: str) -> str:
    return {"|": "table", "-": "list", "": "blank"}.get(line[:1], "words")


def _block(kind: str, lines: Sequence[str]) -> Markup:
    if kind == "table":
        return _table(lines)
    if kind == "list":
        items = Markup("").join(Markup("<li>{}</li>").format(inline(line.removeprefix("- "))) for line in lines)
        return Markup('<ul class="notes">{}</ul>').format(items)
    return Markup('<p class="notes">{}</p>').format(inline(" ".join(lines))) if kind == "words" else Markup("")


def _table(lines: Sequence[str]) -> Markup:
    header, *rows = (_cells(line) for line in lines if not _RULE.fullmatch(line))
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(inline(cell)) for cell in header)
    body = Markup("").join(Markup("<tr>{}</tr>").format(Markup("").join(_row(cells))) for cells in rows)
    return Markup(
        '<div class="wide" tabindex="0"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(head, body)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELL.split(line.strip())[1:-1]]


def _row(cells: Sequence[str]) -> Iterator[Markup]:
    first, *others = cells
    yield Markup('<th scope="row">{}</th>').format(inline(first))
    yield from (Markup("<td>{}</td>").format(_value(cell)) for cell in others)


def _value(cell: str) -> Markup:
    """A share stands out, its interval and count step back."""
    if found := _SHARE.fullmatch(cell):
        rest = " ".join(filter(None, (found["interval"], found["count"])))
        return Markup('<b>{}</b> <span class="quiet">{}</span>').format(found["share"], rest)
    return inline(cell)


def inline(text: str) -> Markup:
    """One line with its code and its emphasis."""
    parts, place = [], 0
    for found in _INLINE.finditer(text):
        code, strong, soft = found.groups()
        tag = "code" if code else "strong" if strong else "em"
        parts += [escape(text[place : found.start()]), Markup(f"<{tag}>{{}}</{tag}>").format(code or strong or soft)]
        place = found.end()
    return Markup("").join([*parts, escape(text[place:])])

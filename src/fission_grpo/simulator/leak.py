"""Does a feedback give the answer away? The leak of arXiv:2601.15625 (stage 2) as a pure function.

A leak is a literal of the reference call in the feedback that cannot be derived from the tools' schemas, the failed
call, the dialogue or what the world said. Literals are the tool's name, names of arguments, and every string and number
inside the arguments; booleans and null are known from the schema's types.

Texts are compared as words and numbers: case, quotes and punctuation do not count, `3.0` is `3` and `three`. A literal
can be derived when all its words occur in what is known, so that `docs/a.txt` follows from "a.txt in docs". Parts leak
too: two words in a row, a part of a name, a quoted beginning. What only reasoning can find ("one more than forty") is
not found; the labelled set that ships with the tests says how often that matters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeAlias

from fission_grpo.environments.dialogue import call_record
from fission_grpo.simulator.base import Case, FailedCall
from fission_grpo.types import ToolCall


class LiteralKind(StrEnum):
    """What in a call the literal is; of an argument, the JSON type of the argument that holds it."""

    TOOL = "tool"
    KEY = "key"
    STRING = "string"
    NUMBER = "number"
    LIST = "list"
    OBJECT = "object"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """One piece of the reference, and where it stands in the text."""

    argument: str
    """Path, for instance `tags[0]`; empty for the tool's name."""
    kind: LiteralKind
    literal: str
    start: int
    stop: int
    """The piece is `text[start:stop]`."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A name, a string or a number of a call."""

    argument: str
    kind: LiteralKind
    text: str
    words: tuple[str, ...]
    """As they are compared."""


@dataclass(frozen=True, slots=True)
class Known:
    """Everything that may be said: the words and numbers of schema, failed call, dialogue and world."""

    words: frozenset[str]

    @classmethod
    def of(cls, failed: FailedCall, *more: str) -> Known:
        """What the policy, its tools and its world have brought up, and further texts."""
        schemas = (_words_of_tool(json.dumps(tool, default=dict)) for tool in failed.tools)
        return cls(_words("\n".join((*_sources(failed), *more))).union(*schemas))

    def derives(self, words: Sequence[str]) -> bool:
        """Whether all of these occur."""
        return self.words.issuperset(words)


def find_leaks(text: str, reference: Sequence[ToolCall], known: Known) -> tuple[Leak, ...]:
    """Every leak, in the order of the reference; at most one for each literal."""
    message = _Message(text, known)
    found = (message.leak(literal) for call in reference for literal in literals(call))
    return tuple(dict.fromkeys(leak for leak in found if leak is not None))


def leaks_of(texts: Sequence[str], case: Case) -> tuple[Leak, ...]:
    """The leaks of all texts of one feedback."""
    known = Known.of(case.failed)
    return tuple(leak for text in texts for leak in find_leaks(text, case.reference, known))


_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|[^\W\d_]+")
_QUOTED = re.compile(r"['\"`]([^'\"`\n]{2,})['\"`]")
_BEGINNING = re.compile(r"\b(?:start|begin|end)(?:s|ing)? (?:with|in) ['\"`]?([\w./#@-]{2,})", re.IGNORECASE)
_COUNTED = re.compile(
    r"\b(?:\d+|[a-z]+)(?= (?:(?:required|positional|missing|keyword|extra|more|further|unexpected|optional) )*"
    r"(?:argument|parameter|character|token|problem|call|item|element|attempt|were given|was given))",
    re.IGNORECASE,
)
"""A number of things, no value of one."""
_NUMBERED = re.compile(r"\b(?:character|position|column|line|index|step|status|code|turn|argument|parameter) (\d+)\b")
_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty
"""
_MONTHS = """
january february march april may june july august september october november december
"""
_SPELLED: Mapping[str, str] = {
    **{word: f"{value}.0" for value, word in enumerate(_NUMBER_WORDS.split())},
    **{word: f"{value}.0" for value, word in enumerate(_MONTHS.split(), 1)},
    **{"thirty": "30.0", "forty": "40.0", "fifty": "50.0", "sixty": "60.0", "hundred": "100.0", "thousand": "1000.0"},
}
"""Words that bring up a number."""
_AMBIGUOUS = frozenset({"one", "may", "march", "zero"})
"""Words of `_SPELLED` that a message uses for other things as well: there they are no number."""
_SMALL_TALK = """
a already an and any are argument arguments as at be by call called can cannot check command could directory
does empty error exist existing exists expected failed false field file first for found from got has have id in
input instead integer invalid is it item known list log logged match message missing must name need needs no
none not null number object of on one only or out parameter path permission please provided request required
result same set should some status string succeeded such that the then there this ticket time to tool true try
type unexpected unknown use user valid value was which while with world wrong you your
"""
_RUNTIME = frozenset(_SMALL_TALK.split())
"""What error messages are made of: alone and without quotes, such a word quotes nothing."""
_SHORT = 3


@dataclass(frozen=True, slots=True)
class _Token:
    word: str
    start: int
    stop: int


_Span: TypeAlias = tuple[int, int]


class _Message:
    """One text, cut into words once."""

    def __init__(self, text: str, known: Known) -> None:
        self.text = text
        self.known = known
        skipped = {found.span() for found in _COUNTED.finditer(text)} | {m.span(1) for m in _NUMBERED.finditer(text)}
        self.tokens = [token for token in _tokens(text) if (token.start, token.stop) not in skipped]
        self.quoted = [found.span(1) for found in _QUOTED.finditer(text)]
        self.pieces = [*self.quoted, *(found.span(1) for found in _BEGINNING.finditer(text))]

    def leak(self, literal: Literal) -> Leak | None:
        """The first place that gives this literal away, unless it can be derived."""
        if self.known.derives(literal.words):
            return None
        checks = (self._whole, self._run, self._part_of_name, self._piece)
        span = next(filter(None, (check(literal) for check in checks)), None)
        if span is None:
            return None
        return Leak(argument=literal.argument, kind=literal.kind, literal=literal.text, start=span[0], stop=span[1])

    def _whole(self, literal: Literal) -> _Span | None:
        size = len(literal.words)
        for place in range(len(self.tokens) - size + 1):
            run = self.tokens[place : place + size]
            if all(_same(token.word, word) for token, word in zip(run, literal.words, strict=True)):
                span = run[0].start, run[-1].stop
                if size > 1 or self._tells(span, literal.text):
                    return span
        return None

    def _run(self, literal: Literal) -> _Span | None:
        """Two neighbouring words of a longer literal, one of them news."""
        pairs = {pair for pair in zip(literal.words, literal.words[1:], strict=False) if not self.known.derives(pair)}
        for left, right in zip(self.tokens, self.tokens[1:], strict=False):
            news = [word for word in (left.word, right.word) if word not in self.known.words and word not in _RUNTIME]
            if (left.word, right.word) in pairs and news:
                return left.start, right.stop
        return None

    def _part_of_name(self, literal: Literal) -> _Span | None:
        """One word of a file name, an id or a user name."""
        if " " in literal.text.strip() or len(literal.words) < 2:
            return None
        leaking = {word for word in literal.words if len(word) > _SHORT and word not in self.known.words | _RUNTIME}
        return next(((token.start, token.stop) for token in self.tokens if token.word in leaking), None)

    def _piece(self, literal: Literal) -> _Span | None:
        """A quoted piece, or what the value is said to begin or end with."""
        for start, stop in self.pieces:
            piece = self.text[start:stop].strip(" .,;:")
            words = [token.word for token in _tokens(piece)]
            if not words or self._continues(words):
                continue
            if piece.lower() in literal.text.lower() and (len(piece) >= _SHORT or piece.isdigit()):
                return start, stop
        return None

    def _continues(self, words: Sequence[str]) -> bool:
        """Whether these words can be derived, the last one perhaps as the beginning of a known one."""
        *whole, last = words
        return self.known.derives(whole) and any(word.startswith(last) for word in self.known.words)

    def _tells(self, span: _Span, literal: str) -> bool:
        """Whether one word quotes the literal and is not just English."""
        said = self.text[slice(*span)]
        if any(start <= span[0] and span[1] <= stop for start, stop in self.quoted):
            return True
        if said.lower() in _RUNTIME | _AMBIGUOUS:
            return False
        return len(said) > _SHORT or not said.isalpha() or (said == literal and said != said.lower())


def _words(text: str) -> frozenset[str]:
    found = {_normal(word) for word in _TOKEN.findall(text)}
    return frozenset(found | {_SPELLED[word] for word in found & _SPELLED.keys()})


@lru_cache(maxsize=1024)  # the same few tools are on offer again and again
def _words_of_tool(tool: str) -> frozenset[str]:
    return _words("\n".join(_scalars(json.loads(tool))))


def _tokens(text: str) -> list[_Token]:
    return [_Token(_normal(found[0]), *found.span()) for found in _TOKEN.finditer(text)]


def _normal(word: str) -> str:
    return str(float(word.replace(",", ""))) if word[0].isdecimal() else word.lower()


def _same(said: str, word: str) -> bool:
    return said == word or (_SPELLED.get(said) == word and said not in _AMBIGUOUS)


def _sources(failed: FailedCall) -> Iterator[str]:
    yield failed.text
    yield from (outcome.text for outcome in failed.outcomes)
    yield from _scalars([call_record(call) for call in failed.parsed.calls])
    for message in failed.messages:
        yield from _scalars([message.get("content"), message.get("tool_calls")])


def _scalars(value: Any) -> Iterator[str]:
    """Every key and every value inside, as text."""
    if isinstance(value, Mapping):
        yield from map(str, value)
        yield from (text for item in value.values() for text in _scalars(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in _scalars(item))
    elif value is not None:
        yield str(value)


def literals(call: ToolCall) -> Iterator[Literal]:
    """Everything in a call that could be given away."""
    yield from _literal("", LiteralKind.TOOL, call.name)
    for name, value in call.arguments.items():
        yield from _literal(name, LiteralKind.KEY, name)
        yield from _inside(name, _kind(value), value)


def _inside(path: str, kind: LiteralKind, value: Any) -> Iterator[Literal]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _literal(f"{path}.{key}", LiteralKind.KEY, key)
            yield from _inside(f"{path}.{key}", kind, item)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _inside(f"{path}[{place}]", kind, item)
    elif value is not None and not isinstance(value, bool):
        yield from _literal(path, kind, str(value))


def _literal(path: str, kind: LiteralKind, text: str) -> Iterator[Literal]:
    words = tuple(token.word for token in _tokens(text))
    if words:
        yield Literal(path, kind, text, words)


def _kind(value: Any) -> LiteralKind:
    kinds = ((str, LiteralKind.STRING), (Mapping, LiteralKind.OBJECT), (list | tuple, LiteralKind.LIST))
    return next((kind for type_, kind in kinds if isinstance(value, type_)), LiteralKind.NUMBER)

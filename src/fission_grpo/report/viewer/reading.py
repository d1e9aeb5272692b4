"""One group or trajectory as styled text for a terminal.

What a model, a tool or a user wrote goes through `harmless` and becomes plain text with a style beside it: nothing here
parses markup, and no control sequence reaches the terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from rich.text import Text

from fission_grpo.report.page.sources import Trace
from fission_grpo.report.page.vocabulary import Vocabulary
from fission_grpo.report.tables import error_name
from fission_grpo.report.tree import END_WORDS, LEAKAGE_WORDS, fission_trees, last_words, readable, text_tree
from fission_grpo.report.viewer.index import Entry, Line, ListedTrajectory, TraceIndex
from fission_grpo.types import OutcomeKind

DIMMED = "dim"
_RIGHT, _WRONG = "cyan", "dark_orange"
UP, DOWN, FLAT = "bold black on cyan", "bold black on dark_orange", "bold black on grey70"
"""Trained tokens, by what their advantage does to them."""
_FAILED = "bold dark_orange"
_HEAD = "bold"
_DANGEROUS = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories that steer a terminal or the direction of writing, or that no terminal can be sent."""


def harmless(text: str) -> str:
    """The text with everything that could steer a terminal written out, as `\\\\x1b`; line breaks and tabs stay."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _DANGEROUS:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


def one_line(text: str) -> str:
    """The same without line breaks."""
    return harmless(" ".join(text.split()))


def signed(value: float | None) -> str:
    """`+0.71`, or as many spaces."""
    return "     " if value is None else f"{value:+5.2f}"


def list_line(line: Line, entries: Sequence[Entry], *, shown: int) -> Text:
    """A line of the list, on one line of the terminal.

    Args:
        shown: how wide; what is longer is clipped with an ellipsis.
    """
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    if line.group is None:
        text.append(f"step {line.step}", _HEAD)
    else:
        entry = entries[line.group]
        if line.member is None:
            _append_group(text, entry)
        else:
            _append_member(text, entry.members[line.member])
    text.truncate(shown, overflow="ellipsis")
    return text


def _append_group(text: Text, entry: Entry) -> None:
    text.append(" ")
    if entry.fission:
        text.append("⑂ ", _FAILED)
        text.append(f"{one_line(entry.error) or 'wrong'} ", _FAILED)
    else:
        text.append("◆ ", _HEAD)
    text.append(f"{entry.right}/{len(entry.members)} ", _HEAD)
    text.append(one_line(entry.request if not entry.fission else f"recoveries: {entry.request}"))


def _append_member(text: Text, member: ListedTrajectory) -> None:
    text.append("   ")
    text.append("✓ " if member.right else "✗ ", _RIGHT if member.right else _WRONG)
    text.append(f"{signed(member.reward)} {signed(member.advantage)} ", DIMMED)
    text.append(f"{one_line(member.error):<3}", _WRONG if member.error else "")
    text.append(" " + one_line(member.calls))


def detail(
    index: TraceIndex, line: Line, *, raw: bool = False, vocabulary: Vocabulary | None = None, tokens: bool = False
) -> Text:
    """What stands beside the list.

    Args:
        raw: messages exactly as sampled, in place of their calls.
        vocabulary: words of the tokens; none where the tokenizer is not on this machine.
        tokens: show them, in place of the messages.
    Raises:
        DataError: the file has changed.
    """
    text = Text()
    if line.group is None:
        groups = [entry for entry in index.entries if entry.step == line.step]
        text.append(f"step {line.step}\n\n", _HEAD)
        for kind, fission in (("exploration", False), ("fission", True)):
            chosen = [entry for entry in groups if entry.fission is fission]
            right, total = sum(entry.right for entry in chosen), sum(len(entry.members) for entry in chosen)
            text.append(f"{len(chosen)} {kind} group(s), {right} of {total} trajectories right\n")
        return text
    trace = index.load(line.group)
    if line.member is None:
        _append_overview(text, index, trace)
    elif tokens:
        _append_tokens(text, trace, line.member, vocabulary)
    else:
        _append_dialogue(text, index, trace, line.member, raw=raw)
    return text


def _append_overview(text: Text, index: TraceIndex, trace: Trace) -> None:
    """A group as a tree; of an exploration group its request and members."""
    parent = index.parent(trace)
    _append_title(text, trace)
    if parent is not None:
        for tree in fission_trees([parent, trace]):
            text.append(harmless(text_tree(tree, width=200)) + "\n\n")
        _append_feedback(text, trace)
        return
    _append_said(text, "user", last_words(trace["prompt"]))
    for trajectory in trace["trajectories"]:
        right = bool(trajectory["success"])
        text.append("✓ " if right else "✗ ", _RIGHT if right else _WRONG)
        text.append(f"{signed((trajectory['reward'] or {}).get('total'))} {signed(trajectory['advantage'])} ", DIMMED)
        text.append(one_line(" → ".join(map(readable, trajectory["text"]))) + "\n")


def _append_title(text: Text, trace: Trace) -> None:
    text.append(f"step {trace['step']} · {one_line(str(trace['kind']))} · {one_line(str(trace['task']))}\n\n", _HEAD)


def _append_feedback(text: Text, trace: Trace) -> None:
    """Each text with who wrote it and what is known of leaks."""
    leakage = str(trace.get("feedback_leakage"))
    for feedback in trace.get("feedback") or ():
        text.append("feedback ", _HEAD)
        text.append(one_line(str(trace.get("feedback_origin") or "")) + " ", DIMMED)
        text.append(LEAKAGE_WORDS.get(leakage, ""), _WRONG if leakage == "leaked" else DIMMED)
        if fallback := trace.get("feedback_fallback"):
            text.append(f" fallback: {one_line(str(fallback))}", _WRONG)
        text.append(f"\n{harmless(feedback)}\n\n")


def _append_said(text: Text, who: str, words: str, note: str = "", style: str = "") -> None:
    text.append(who, style or _HEAD)
    if note:
        text.append(f"  {one_line(note)}", _WRONG)
    text.append(f"\n{harmless(words) or '(empty)'}\n\n", "" if style != DIMMED else DIMMED)


def _append_dialogue(text: Text, index: TraceIndex, trace: Trace, member: int, *, raw: bool) -> None:
    trajectory = trace["trajectories"][member]
    _append_title(text, trace)
    _append_reward(text, trace, member)
    _append_said(text, "user", last_words(trace["prompt"]))
    _append_prefix(text, index, trace, raw=raw)
    failure = trajectory["failure"]
    for turn in range(len(trajectory["text"])):
        seen = any(one["error"] for one in trajectory["outcomes"][turn]) or trajectory["malformed"][turn]
        failed = failure is not None and failure["turn"] == turn and not seen
        _append_turn(text, trace, member, turn, raw=raw, note="this message failed" if failed else "")
    if (ended := END_WORDS.get(str(trajectory["end"]))) is not None:
        text.append(f"── {ended}\n", _WRONG)


def _append_reward(text: Text, trace: Trace, member: int) -> None:
    """Verdict, advantage, and the reward term by term, so that it can be added up."""
    trajectory = trace["trajectories"][member]
    reward, failure = trajectory["reward"], trajectory["failure"]
    right = bool(trajectory["success"])
    text.append("✓ right" if right else "✗ wrong", _RIGHT if right else _WRONG)
    text.append(f"  verdict {one_line(str(trajectory['verdict']))}")
    if reward is None:
        text.append("  not scored\n")
    else:
        text.append(f"  reward {signed(reward['total'])}  advantage {signed(trajectory['advantage'])}\n")
        for name, term in reward["terms"].items():
            text.append(f"  {one_line(name)} {term['value']:.3g} x {term['weight']:.3g}", _HEAD)
            text.append(f"  {one_line(term['why'])}\n", DIMMED)
    if failure is not None:
        told = f"{error_name(str(failure['error'] or ''))}, {failure['fault']}'s: {failure['reason']}"
        text.append(f"  failed in message {failure['turn'] + 1}: {one_line(told)}\n", _WRONG)
    text.append("\n")


def _append_prefix(text: Text, index: TraceIndex, trace: Trace, *, raw: bool) -> None:
    """What stood in the context of a recovery: the failed trajectory up to its failed message, and the feedback."""
    named = trace.get("parent")
    if named is None:
        return
    parent = index.parent(trace)
    if parent is None:
        text.append("the group that it grew from is not in the file\n\n", DIMMED)
    else:
        _append_prefix(text, index, parent, raw=raw)
        for turn in range(named["turn"] + 1):
            last = turn == named["turn"]
            note = "this message failed" if last else ""
            _append_turn(text, parent, named["trajectory"], turn, raw=raw, note=note, context=True, replies=not last)
    _append_feedback(text, trace)
    text.append("── the recovery begins here\n\n", _RIGHT)


def _append_turn(
    text: Text,
    trace: Trace,
    member: int,
    turn: int,
    *,
    raw: bool,
    note: str = "",
    context: bool = False,
    replies: bool = True,
) -> None:
    trajectory = trace["trajectories"][member]
    said, malformed = trajectory["text"][turn], trajectory["malformed"][turn]
    notes = "; ".join(filter(None, (note, *(f"malformed: {one}" for one in malformed))))
    _append_said(text, "policy", said if raw else readable(said), notes, DIMMED if context else "")
    if not replies:
        return
    for reply, outcome in zip(trajectory["replies"][turn], trajectory["outcomes"][turn], strict=True):
        kind = "" if outcome["kind"] == OutcomeKind.SUCCESS else str(outcome["kind"]).replace("_", " ")
        _append_said(text, "tool", reply, error_name(outcome["error"] or "") or kind, DIMMED if context else "")


def _append_tokens(text: Text, trace: Trace, member: int, vocabulary: Vocabulary | None) -> None:
    """Every token behind the prompt: those in the loss coloured by what the advantage does to them."""
    trajectory = trace["trajectories"][member]
    _append_title(text, trace)
    if vocabulary is None:
        text.append("The tokenizer of this run is not on this machine any more: there are no words to show.\n", _WRONG)
        return
    advantage = trajectory["advantage"]
    pull = UP if advantage > 0 else DOWN if advantage < 0 else FLAT
    trained = {place for start, stop in trajectory["sampled"] for place in range(start, stop)}
    text.append(f"{len(trained)} of {len(trajectory['ids'])} tokens are in the loss, with the advantage ", DIMMED)
    text.append(f" {signed(advantage)} ", pull)
    text.append(f"; the {len(trace['prompt_ids'])} of the context before them are not\n\n", DIMMED)
    for place, word in enumerate(_words(vocabulary, trajectory["ids"])):
        text.append(word, pull if place in trained else DIMMED)
    text.append("\n")


def _words(vocabulary: Vocabulary, ids: Sequence[int]) -> Iterator[str]:
    for place in vocabulary.places(ids):
        yield harmless(vocabulary.words[place]).replace("\n", "⏎\n")

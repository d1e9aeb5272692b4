"""Dialogues as token ids: a prompt is rendered once, everything later is a suffix appended to it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

from transformers import PreTrainedTokenizerBase

from fission_grpo.chat import template_probe
from fission_grpo.chat.parse import END_THINK, THINK, reasoning_in
from fission_grpo.chat.render import Renderer
from fission_grpo.types import FinishReason, Message, Tool


class ChatFormat:
    """A tokenizer's chat template as functions between dialogues and ids.

    A suffix is what the template writes behind the assistant's turn of a dummy dialogue. It begins at the end-of-turn
    token, where tokenization starts afresh whatever stands before it, so prompt + sampled ids + suffix is exact.
    A template that rewrites earlier turns cannot rewrite ours: nothing is rendered twice.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Probe the template.

        Raises:
            ConfigError: no chat template, or one that cannot carry tools, calls, results or the end of a turn; the
                message (an `ChatTemplateError`) says which, and ends with a remedy.
        """
        self.renderer = Renderer(tokenizer)
        self._end = template_probe.end_of_turn(self.renderer)
        for require in (template_probe.require_tools, template_probe.require_prompt, template_probe.require_calls):
            require(self.renderer)
        template_probe.require_replies(self.renderer, self._end)
        self.eos_id = self.renderer.control_ids[self._end]
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._reply = lru_cache(maxsize=1024)(lambda texts: self._suffix(template_probe.reply_dialogue(texts)))
        self._user = lru_cache(maxsize=1024)(lambda text: self._suffix(template_probe.user_dialogue(text)))
        self._length = lru_cache(maxsize=1024)(lambda text: len(self.renderer.encode(text)))

    def __reduce__(self) -> tuple[type[ChatFormat], tuple[PreTrainedTokenizerBase]]:
        """Pickled as its tokenizer: what it has rendered is rendered again where it arrives."""
        return ChatFormat, (self.tokenizer,)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """With the chat template that is used here."""
        return self.renderer.tokenizer

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """The dialogue up to the place where the policy speaks.

        Raises:
            ConfigError: the template refuses these messages.
        """
        return tuple(self.renderer.ids(messages, tools, prompt=True))

    def reply(self, finish: FinishReason, texts: Sequence[str]) -> tuple[int, ...]:
        """What follows a sampled assistant turn: its end if that was not sampled, tool results, the next turn's head.

        Args:
            finish: how the turn ended; after LENGTH the end-of-turn token is part of the suffix.
            texts: one for each call of the turn, in order; a malformed turn gets one.

        Raises:
            ValueError: no texts.
        """
        if not texts:
            raise ValueError("a reply needs at least one tool result; a turn without calls has no reply")
        return _after(finish, self._reply(tuple(texts)))

    def user(self, finish: FinishReason, text: str) -> tuple[int, ...]:
        """What follows a sampled assistant turn when the user speaks next."""
        return _after(finish, self._user(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Assistant text of sampled ids: without the end-of-turn token, with tags such as `<tool_call>`."""
        said = ids[:-1] if ids and ids[-1] == self.eos_id else ids
        return self.renderer.decode(said)

    def length(self, text: str) -> int:
        """Tokens of an assistant text, the end-of-turn token not counted."""
        return self._length(text)

    def reasoning_length(self, text: str) -> int:
        """Tokens of an assistant text in which it thinks, tags included."""
        return sum(map(self.length, reasoning_in(text)))

    @property
    def knows_reasoning(self) -> bool:
        """Whether the tags around thinking are tokens, so that it can be taken out of a message exactly."""
        return {THINK, END_THINK} <= self.renderer.control_ids.keys()

    def without_reasoning(self, ids: Sequence[int]) -> tuple[int, ...]:
        """An assistant message with nothing between its first `<think>` (or its beginning) and its last `</think>`.

        The tags stay: an empty thought is how templates write that none was had. A thought that does not end stays.
        """
        begin, end = (self.renderer.control_ids.get(tag) for tag in (THINK, END_THINK))
        if end is None or end not in ids:
            return tuple(ids)
        last = len(ids) - 1 - ids[::-1].index(end)
        first = ids.index(begin) + 1 if begin is not None and begin in ids[:last] else 0
        return (*ids[:first], *ids[last:])

    def _suffix(self, dialogue: Sequence[Message]) -> tuple[int, ...]:
        behind = partial(template_probe.behind_policy, end_of_turn=self._end)
        return tuple(self.renderer.ids(dialogue, template_probe.TOOLS, prompt=True, cut=behind))


def _after(finish: FinishReason, suffix: tuple[int, ...]) -> tuple[int, ...]:
    """The policy's own end-of-turn token is kept; only a missing one is appended."""
    return suffix[1:] if finish is FinishReason.STOP else suffix

"""A model on this machine as an agent: many dialogues, one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from fission_grpo.agents.base import AgentFault, Answer, Conversation, FaultKind
from fission_grpo.agents.formats import PromptFormat
from fission_grpo.agents.qwen_fc import PromptError
from fission_grpo.chat.render import ChatTemplateError
from fission_grpo.policy.base import Policy, Sampling
from fission_grpo.seeds import derive
from fission_grpo.types import Completion

OFFICIAL_TEMPERATURE = 0.001
OFFICIAL_MAX_TOKENS = 4096
SPARE_TOKENS = 2
"""The official harness leaves so much of the context window unused."""


class LocalAgent:
    """A policy that answers dialogues in one prompt mode.

    An answer may have `max_tokens` tokens, or what the window leaves; a dialogue that fills the window gets a fault of
    kind DIALOGUE.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: PromptFormat,
        *,
        name: str,
        width: int = 16,
        max_tokens: int = OFFICIAL_MAX_TOKENS,
        temperature: float = OFFICIAL_TEMPERATURE,
    ) -> None:
        self.name = name
        self.width = width
        self._policy = policy
        self._prompts = prompts
        self._max_tokens = max_tokens
        self._temperature = temperature

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        """One answer for each dialogue; those with the same room are sampled in one batch.

        Raises:
            PolicyError: sampling failed.
            ConfigError: the prompt mode cannot show such tools.
        """
        prompts = list(map(self._prompt, dialogues))
        answers: dict[int, Answer | AgentFault] = {}
        by_room: dict[int, dict[int, tuple[int, ...]]] = defaultdict(dict)
        for place, prompt in enumerate(prompts):
            if isinstance(prompt, AgentFault):
                answers[place] = prompt
            else:
                by_room[self._room(prompt)][place] = prompt
        for room, placed in by_room.items():
            answers |= zip(placed, self._sample(tuple(placed.values()), room, derive(seed, room)), strict=True)
        return [answers[place] for place in range(len(dialogues))]

    def _prompt(self, dialogue: Conversation) -> tuple[int, ...] | AgentFault:
        try:
            ids = self._prompts.prompt(dialogue)
        except PromptError as error:
            return AgentFault(reason=str(error), kind=FaultKind.DIALOGUE)
        except ChatTemplateError as error:
            return AgentFault(reason=str(error))
        if self._room(ids) > 0:
            return ids
        window = self._policy.context_window
        reason = f"a prompt of {len(ids)} tokens leaves no room in a context window of {window}"
        return AgentFault(reason=reason, kind=FaultKind.DIALOGUE)

    def _room(self, ids: Sequence[int]) -> int:
        return min(self._max_tokens, self._policy.context_window - len(ids) - SPARE_TOKENS)

    def _sample(self, prompts: Sequence[tuple[int, ...]], room: int, seed: int) -> list[Answer]:
        sampling = Sampling(max_tokens=room, temperature=self._temperature)
        completions = self._policy.generate(prompts, sampling=sampling, seed=seed)
        return [self._read(completion, len(ids)) for completion, ids in zip(completions, prompts, strict=True)]

    def _read(self, completion: Completion, prompt_tokens: int) -> Answer:
        said = self._prompts.read(self._prompts.decode(completion.ids))
        return replace(said, finish=completion.finish, prompt_tokens=prompt_tokens, tokens=len(completion.ids))

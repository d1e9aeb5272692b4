"""Tiny random policies, a tokenizer that is quick to build, and small BFCL tasks, for the tests of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.parse import render_call
from fission_grpo.chat.transcript import Transcript
from fission_grpo.environments.base import Environments
from fission_grpo.environments.bfcl.environment import BFCL, BfclEnvironment
from fission_grpo.models.nano import build_tokenizer
from fission_grpo.policy.base import Context, Policy, Reply, Sampling
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.tasks.synthesis.generator import synthesise
from fission_grpo.types import Completion, FinishReason, Task, TokenRow, ToolCall

ENVIRONMENTS: Environments = {BFCL: BfclEnvironment}

_SHAPE: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
FAMILIES = tuple(_FAMILIES)


def tiny_model(
    family: str = "llama", *, vocabulary: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32, **shape: int
) -> Any:
    """A random model whose logits are far from uniform, so that greedy choices are clear."""
    config, model = _FAMILIES[family]
    extra = {"head_dim": 8} if family == "qwen3" else {}
    torch.manual_seed(seed)
    made = model(config(vocab_size=vocabulary, initializer_range=0.2, **{**_SHAPE, **extra, **shape}))
    return in_double_precision(made).eval() if dtype is torch.float64 else made.to(dtype).eval()


def in_double_precision(model: Any) -> Any:
    """All the way: the norms of transformers round to single precision inside, torch's own do not."""
    for name, norm in list(model.named_modules()):
        if type(norm).__name__.endswith("RMSNorm"):
            exact = torch.nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon)
            exact.load_state_dict(norm.state_dict())
            model.set_submodule(name, exact)
    return model.double()


@cache
def tasks() -> tuple[Task, ...]:
    """Twelve tasks with worlds; half of them hide an unmet precondition, so that their last gold call fails alone."""
    return tuple(synthesise(7, 12, apis=("TwitterAPI", "GorillaFileSystem"), tools=(2, 3)))


@cache
def chat() -> ChatFormat:
    """A chat format whose tokenizer has seen the tasks, so that prompts are short."""
    lines = [str(message["content"]) for task in tasks() for message in task.messages]
    lines += [render_call(call) for task in tasks() for turn in task.gold for call in turn]
    lines += [
        f"{tool['function']['name']}({tool['function']['parameters']})" for task in tasks() for tool in task.tools
    ]
    return ChatFormat(build_tokenizer(lines))


def hidden_task() -> Task:
    """A task of at least two gold calls in one turn, the last of which fails without the first."""
    return next(task for task in tasks() if fails_alone(task))


def fails_alone(task: Task) -> bool:
    """Whether the last gold call is an error in the initial world."""
    environment = BfclEnvironment()
    environment.reset(task)
    return len(task.gold[0]) > 1 and environment.execute(task.gold[0][-1]).is_error


def say(*calls: ToolCall) -> str:
    """The assistant text of some calls."""
    return "\n".join(map(render_call, calls))


DONE = "All done."
_HEAD = "<|im_start|>assistant\n"


def script(*answers: str) -> Callable[[str], str]:
    """The n-th assistant message is the n-th answer; the last one is repeated for ever."""
    return lambda text: answers[min(text.count(_HEAD) - 1, len(answers) - 1)]


def scripted(*answers: str, window: int = 1 << 20) -> ScriptedPolicy:
    return ScriptedPolicy(chat().renderer.tokenizer, script(*answers), eos_id=chat().eos_id, context_window=window)


@dataclass
class LetterByLetter(Policy):
    """Spells with one token a character, as no tokenizer would, and notes what it was asked."""

    answer: Callable[[str], str]
    context_window: int = 1 << 20
    asked: list[Context] = field(default_factory=list)

    def converse(self, contexts: Sequence[Context], *, reply: Reply, sampling: Sampling, seed: int) -> None:
        for index, context in enumerate(contexts):
            following: Context | None = context
            while following is not None:
                self.asked.append(following)
                following = reply(index, self.complete(following))

    def complete(self, context: Context) -> Completion:
        said = self.answer(chat().renderer.decode(context))
        ids = [
            token
            for letter in said.replace("<tool_call>", "\0").replace("</tool_call>", "\1")
            for token in chat().renderer.encode({"\0": "<tool_call>", "\1": "</tool_call>"}.get(letter, letter))
        ]
        logprobs = tuple(-0.01 * (place + 1) for place in range(len(ids) + 1))
        return Completion(ids=(*ids, chat().eos_id), logprobs=logprobs, finish=FinishReason.STOP)


def gold_message(task: Task) -> TokenRow:
    """The prompt and the first gold call, as a row to learn."""
    transcript = Transcript(chat().prompt(task.messages, task.tools))
    ids = (*chat().renderer.encode(say(*task.target)), chat().eos_id)
    transcript.extend_sampled(Completion(ids=ids, logprobs=(0.0,) * len(ids), finish=FinishReason.STOP))
    return TokenRow(ids=transcript.ids, trained=transcript.sampled)


def naive_logprobs(model: Any, ids: Sequence[int], *, temperature: float = 1.0) -> torch.Tensor:
    """[len(ids) - 1] log-probability of every token but the first: one sequence, one forward, no packing at all."""
    logits = model(torch.tensor([ids])).logits[0, :-1] / temperature
    return logits.log_softmax(dim=-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]

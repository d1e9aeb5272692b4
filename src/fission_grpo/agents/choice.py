"""Who answers, and how it is asked: what every evaluation needs to know before it can begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from accelerate import Accelerator

from fission_grpo.agents.base import Agent
from fission_grpo.agents.baselines import CuedFormat, OutcomeReader, StructuredErrors, WaitMessage, WaitPrefix
from fission_grpo.agents.endpoint import EndpointAgent
from fission_grpo.agents.formats import PromptFormat, PromptMode, make_format, require_reader
from fission_grpo.agents.local import LocalAgent
from fission_grpo.agents.qwen_fc import Strictness
from fission_grpo.chat.format import ChatFormat
from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.environments.bfcl.outcomes import classify
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import Precision, find_model, load_policy_model, load_tokenizer
from fission_grpo.models.served import open_served_model
from fission_grpo.policy.base import Policy
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.policy.vllm import require_temperature
from fission_grpo.run.inputs import model_inputs
from fission_grpo.run.provenance import RunInputs


class Baseline(StrEnum):
    """Help after an error, at inference time and without training (`agents/baselines.py`)."""

    NONE = "none"
    STRUCTURED_ERRORS = "structured-errors"
    """Every error text with a diagnosis and a suggestion behind it."""
    WAIT = "wait"
    """The model's next message begins with "Wait"; behind a server the error ends with it, which is not the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChoice:
    """A model of this machine or of a server.

    Raises:
        ConfigError: a reader, a prompt mode or a temperature that this kind of model does not have.
    """

    model: str
    """A folder, an adapter's folder, a model of ours, or what the endpoint calls it."""
    endpoint: str | None = None
    """Address of an OpenAI-compatible server that takes messages; None: prompts are written here, token by token."""
    server: str | None = None
    """Address of a vLLM server that continues our prompts with the model; None loads it on this machine."""
    mode: PromptMode = PromptMode.CHAT_TOOLS
    strictness: Strictness = Strictness.OFFICIAL
    temperature: float = 0.0
    max_tokens: int = 4096
    """Most tokens of one answer."""
    baseline: Baseline = Baseline.NONE
    chat_template: str | None = None
    """In place of the local model's own: one of ours, or a Jinja file."""
    precision: Precision | None = None
    """Type of the local model's weights; fp32, unless given."""
    timeout: float | None = None
    """Most seconds of one try with an endpoint; `EndpointSettings.total_seconds`, unless given. It is not saved: an
    evaluation may be gone on with by another one."""

    def __post_init__(self) -> None:
        require_reader(self.mode, self.strictness)
        if self.endpoint and self.server:
            raise ConfigError(
                "an endpoint takes messages and a server our tokens: give --endpoint or --server, not both"
            )
        if self.timeout is not None and not self.endpoint:
            raise ConfigError("--timeout is for --endpoint: nothing else is waited for; leave it out")
        if self.server:
            require_temperature(self.temperature)
        if self.endpoint and self.mode is not PromptMode.CHAT_TOOLS:
            raise ConfigError(
                f"mode {self.mode} with an endpoint: a server prompts by its own template; use chat-tools"
            )

    def check(self) -> None:
        """Find the model without loading it; a server is asked by `build`.

        Raises:
            ConfigError: there is no such model on this machine.
        """
        if self.endpoint is None:
            find_model(self.model)

    def inputs(self) -> RunInputs:
        """Hashes of the model on this machine, and of the chat template that is used."""
        template = load_tokenizer(self.model, chat_template=self.chat_template).chat_template
        return model_inputs(self.model, template=template if isinstance(template, str) else None)

    def saved(self) -> dict[str, Any]:
        """Plain values; what an older version of us wrote reads the same."""
        values = asdict(self)
        values["aid"] = values.pop("baseline")
        del values["timeout"]
        if self.server is None:
            del values["server"]
        return values

    def deviations(self, checks: Mapping[str, bool]) -> tuple[str, ...]:
        """Why a score is not the official one.

        Args:
            checks: of the benchmark: reason -> whether it holds.
        """
        of_all = {
            f"{self.strictness} reader": self.strictness is not Strictness.OFFICIAL,
            f"baseline {self.baseline}": self.baseline is not Baseline.NONE,
        }
        return tuple(reason for reason, holds in {**checks, **of_all}.items() if holds)

    def build(self, *, width: int, read: OutcomeReader = classify) -> Agent:
        """Load the model, or ask the server whether it is there.

        Args:
            width: dialogues side by side.
            read: what a tool's text means in the world at hand.

        Raises:
            ConfigError: no such model, a template that cannot carry tools, or a server that does not answer.
        """
        if self.endpoint is not None:
            server = EndpointSettings(url=self.endpoint, model=self.model, concurrency=width)
            if self.timeout is not None:
                server = server.model_copy(update=dict.fromkeys(("silence_seconds", "total_seconds"), self.timeout))
            remote = EndpointAgent(server, max_tokens=self.max_tokens, temperature=self.temperature)
            return (
                WaitMessage(remote, read=read) if self.baseline is Baseline.WAIT else self._with_baseline(remote, read)
            )
        policy, chat = self._policy(width)

        def local(prompts: PromptFormat) -> Agent:
            return LocalAgent(
                policy,
                prompts,
                name=self.model,
                width=width,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
            )

        prompts = make_format(self.mode, chat, self.strictness)
        if self.baseline is Baseline.WAIT:
            return WaitPrefix(local, CuedFormat(prompts, chat.renderer.encode, read_outcome=read))
        return self._with_baseline(local(prompts), read)

    def _policy(self, width: int) -> tuple[Policy, ChatFormat]:
        """What continues our prompts, and what writes them."""
        if self.server is not None:
            served = open_served_model(self.model, self.server, chat_template=self.chat_template, concurrency=width)
            return served.policy, served.chat
        loaded = load_policy_model(
            self.model, chat_template=self.chat_template, precision=self.precision or Precision.FP32
        )
        model, chat = loaded.model.to(Accelerator().device), loaded.chat
        return HFPolicy(model, eos_id=chat.eos_id, pad_id=chat.pad_id, max_rows=width), chat

    def _with_baseline(self, agent: Agent, read: OutcomeReader) -> Agent:
        return StructuredErrors(agent, read=read) if self.baseline is Baseline.STRUCTURED_ERRORS else agent

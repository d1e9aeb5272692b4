"""Who answers, and how it is asked: what every evaluation needs to know before it can begin."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from accelerate import Accelerator

from fission_grpo.agents.base import Agent
from fission_grpo.agents.baselines import CuedFormat, Reader, StructuredErrors, WaitMessage, WaitPrefix
from fission_grpo.agents.endpoint import EndpointAgent
from fission_grpo.agents.formats import PromptFormat, PromptMode, make_format, require_reader
from fission_grpo.agents.local import LocalAgent
from fission_grpo.agents.qwen_fc import Strictness
from fission_grpo.client.chat import EndpointSettings
from fission_grpo.environments.bfcl.outcomes import classify
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import find_model, load_policy_model
from fission_grpo.policy.local.hf_policy import HFPolicy


class Aid(StrEnum):
    """Help after an error that needs no training (`agents/baselines.py`)."""

    NONE = "none"
    STRUCTURED_ERRORS = "structured-errors"
    """Every error text with a diagnosis and a suggestion behind it."""
    WAIT = "wait"
    """The model's next message begins with "Wait"; behind a server the error ends with it, which is not the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChoice:
    """A model of this machine or of a server.

    Raises:
        ConfigError: a reader or a prompt mode that this kind of model does not have.
    """

    model: str
    """A folder, an adapter's folder, a model of ours, or what the server calls it."""
    endpoint: str | None = None
    """Address of an OpenAI-compatible server; None loads the model on this machine."""
    mode: PromptMode = PromptMode.CHAT_TOOLS
    strictness: Strictness = Strictness.OFFICIAL
    temperature: float = 0.0
    max_tokens: int = 4096
    """Most tokens of one answer."""
    aid: Aid = Aid.NONE

    def __post_init__(self) -> None:
        require_reader(self.mode, self.strictness)
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

    def departures(self) -> tuple[str, ...]:
        """What no official score may be made with, whatever the benchmark."""
        checks = {
            f"{self.strictness} reader": self.strictness is not Strictness.OFFICIAL,
            f"aid {self.aid}": self.aid is not Aid.NONE,
        }
        return tuple(reason for reason, holds in checks.items() if holds)

    def build(self, *, width: int, read: Reader = classify) -> Agent:
        """Load the model, or ask the server whether it is there.

        Args:
            width: dialogues side by side.
            read: what a tool's text means in the world at hand.

        Raises:
            ConfigError: no such model, a template that cannot carry tools, or a server that does not answer.
        """
        if self.endpoint is not None:
            server = EndpointSettings(url=self.endpoint, model=self.model, concurrency=width)
            remote = EndpointAgent(server, max_tokens=self.max_tokens, temperature=self.temperature)
            return WaitMessage(remote, read=read) if self.aid is Aid.WAIT else self._aided(remote, read)
        loaded = load_policy_model(self.model)
        policy = HFPolicy(
            loaded.model.to(Accelerator().device), eos_id=loaded.chat.eos_id, pad_id=loaded.chat.pad_id, max_rows=width
        )

        def local(prompts: PromptFormat) -> Agent:
            return LocalAgent(
                policy,
                prompts,
                name=self.model,
                width=width,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
            )

        prompts = make_format(self.mode, loaded.chat, self.strictness)
        if self.aid is Aid.WAIT:
            return WaitPrefix(local, CuedFormat(prompts, loaded.chat.renderer.encode, read_outcome=read))
        return self._aided(local(prompts), read)

    def _aided(self, agent: Agent, read: Reader) -> Agent:
        return StructuredErrors(agent, read=read) if self.aid is Aid.STRUCTURED_ERRORS else agent

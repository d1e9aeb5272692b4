"""`fission eval` and `fission compare`: how a policy copes with errors, and whether two differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from fission_grpo.cli.options import FAILED, OVERRIDES, Json, json_text, read_settings
from fission_grpo.errors import ConfigError
from fission_grpo.recipes import Recipe

if TYPE_CHECKING:
    from fission_grpo.agents.choice import AgentChoice
    from fission_grpo.config import RunSettings

evaluation = typer.Typer(
    no_args_is_help=True, help="Evaluate a policy, here or behind a server.", rich_markup_mode=None
)

Run: TypeAlias = Annotated[
    Path | None, typer.Option(help="A finished run of `fission train`: its policy, its settings, and a folder in it.")
]
AnyModel: TypeAlias = Annotated[
    str | None, typer.Option(help="nano, smollm2, a folder, or the server's name for it.", show_default="of --run")
]
Output: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder for traces, numbers and summary.", show_default="in --run")
]
ConfigOnTop: TypeAlias = Annotated[
    Path | None, typer.Option(help="YAML file of settings; each wins over the run's own, as one that is typed does.")
]
NoRunRecipe: TypeAlias = Annotated[
    Recipe | None, typer.Option(help="Settings to start from, without --run: a run starts from its own.")
]
Endpoint: TypeAlias = Annotated[
    str | None, typer.Option(help="Address of an OpenAI-compatible server; the key is taken from OPENAI_API_KEY.")
]
Server: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Address of a vLLM server that has --model: it continues our own prompts, token by token."),
]
Mode: TypeAlias = Annotated[
    str | None, typer.Option(help="official-qwen-fc, chat-tools or compact.", show_default="by the benchmark")
]
BaselineName: TypeAlias = Annotated[
    str, typer.Option(help="Help at inference time, without training: none, structured-errors or wait.")
]


def _renamed(value: str | None) -> str | None:
    if value is not None:
        typer.echo("--aid is now called --baseline; the old name goes with the next release", err=True)
    return value


Aid: TypeAlias = Annotated[str | None, typer.Option(hidden=True, callback=_renamed)]
Temperature: TypeAlias = Annotated[float, typer.Option(min=0, help="0 is greedy.")]
MaxTokens: TypeAlias = Annotated[int, typer.Option(min=1, help="Most tokens of one answer.")]
Width: TypeAlias = Annotated[int, typer.Option(min=1, help="Dialogues side by side; of a server, its concurrency.")]
Limit: TypeAlias = Annotated[int | None, typer.Option(min=1, help="Only the first so many of each kind.")]
Resume: TypeAlias = Annotated[bool, typer.Option("--resume", help="Go on where the evaluation in --output stopped.")]
Lenient: TypeAlias = Annotated[
    bool, typer.Option("--lenient", help="Take every well-formed call, whatever stands around it; not official.")
]
Timeout: TypeAlias = Annotated[
    float | None, typer.Option(min=1, help="Most seconds of one try with --endpoint.", show_default="600")
]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")]


@evaluation.command(context_settings=OVERRIDES, epilog="Any setting of `fission train` that concerns tasks.")
def heldout(
    ctx: typer.Context,
    run: Run = None,
    model: AnyModel = None,
    output: Output = None,
    server: Server = None,
    config: ConfigOnTop = None,
    recipe: NoRunRecipe = None,
    size: Annotated[int, typer.Option(min=3, help="Episodes, and items of each probe.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the held-out tasks.")] = 0,
    validation: Annotated[
        bool, typer.Option("--validation", help="Use the validation split: to choose settings.")
    ] = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Play our own held-out episodes and fixed-error probes, as in the quickstart."""
    what = subject(run, model, output, folder="evaluation")
    settings = what.settings(recipe, config, ctx.args)
    from fission_grpo.commands.heldout import evaluate_heldout, rates, tables
    from fission_grpo.tasks.synthesis.generator import Split

    split = Split.VALIDATION if validation else Split.HELDOUT
    found = evaluate_heldout(
        settings, output=what.output, split=split, seed=seed, size=size, server=server, resume=resume
    )
    typer.echo(json_text(rates(found)) if as_json else tables(found, name=what.name))


@evaluation.command()
def bfcl(
    run: Run = None,
    model: AnyModel = None,
    output: Output = None,
    endpoint: Endpoint = None,
    server: Server = None,
    mode: Mode = None,
    categories: Annotated[
        str | None, typer.Option(help="Of base, miss_func, miss_param, long_context; by commas.")
    ] = None,
    limit: Limit = None,
    lenient: Lenient = False,
    baseline: BaselineName = "none",
    aid: Aid = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 is greedy.", show_default="0.001, as officially; with --server 0")
    ] = None,
    max_tokens: MaxTokens = 4096,
    width: Width = 16,
    timeout: Timeout = None,
    seed: Seed = 0,
    resume: Resume = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be played, and how officially.")] = False,
    as_json: Json = False,
) -> None:
    """Play BFCL v4 multi-turn by the official protocol, with the official verdicts, and recovery beside accuracy."""
    from fission_grpo.agents.formats import PromptMode
    from fission_grpo.agents.local import OFFICIAL_TEMPERATURE
    from fission_grpo.agents.qwen_fc import Strictness
    from fission_grpo.commands.bfcl import BfclSettings, evaluate_bfcl
    from fission_grpo.environments.bfcl.entries import BfclCategory

    by_default = PromptMode.CHAT_TOOLS if endpoint else PromptMode.OFFICIAL_QWEN_FC
    what = subject(run, model, output, folder="bfcl")
    if temperature is None:
        temperature = 0.0 if server else OFFICIAL_TEMPERATURE
    agent = what.agent(
        mode or by_default,
        aid or baseline,
        endpoint=endpoint,
        server=server,
        temperature=temperature,
        max_tokens=max_tokens,
        timeout=timeout,
    )
    settings = BfclSettings(
        agent=replace(agent, strictness=Strictness.LENIENT) if lenient else agent,
        categories=tuple(_member(BfclCategory, name) for name in _names(categories)) or tuple(BfclCategory),
        limit=limit,
        seed=seed,
    )
    if dry_run:
        settings.agent.check()
        plan = {"entries": len(settings.entries()), "departures": list(settings.deviations())}
        typer.echo(json_text(plan))
        return
    found = evaluate_bfcl(settings, output=what.output, resume=resume, width=width)
    typer.echo(json_text(found.as_json()) if as_json else _read(what.output / "summary.md"))


@evaluation.command()
def rescore(
    folder: Annotated[Path, typer.Argument(help="A folder that `fission eval bfcl` wrote.")],
    as_json: Json = False,
) -> None:
    """Judge recorded BFCL transcripts again, from their calls alone, and say whether any verdict changed."""
    from fission_grpo.commands.bfcl import rescore_bfcl

    found = rescore_bfcl(folder)
    typer.echo(json_text(found.as_json()) if as_json else str(found))
    raise typer.Exit(FAILED if found.changed else 0)


@evaluation.command()
def probes(
    run: Run = None,
    model: AnyModel = None,
    output: Output = None,
    endpoint: Endpoint = None,
    server: Server = None,
    mode: Mode = None,
    limit: Limit = None,
    baseline: BaselineName = "none",
    aid: Aid = None,
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = 1024,
    width: Width = 16,
    timeout: Timeout = None,
    seed: Seed = 0,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Play fixed errors on BFCL Base, and the blind spot: the same error as the model's own and as another's."""
    from fission_grpo.agents.formats import PromptMode
    from fission_grpo.commands.probes import ProbeSettings, evaluate_probes

    what, mode = subject(run, model, output, folder="probes"), mode or PromptMode.CHAT_TOOLS
    agent = what.agent(
        mode,
        aid or baseline,
        endpoint=endpoint,
        server=server,
        temperature=temperature,
        max_tokens=max_tokens,
        timeout=timeout,
    )
    settings = ProbeSettings(agent=agent, limit=limit, seed=seed)
    found = evaluate_probes(settings, output=what.output, resume=resume, width=width)
    typer.echo(json_text(found.as_json()) if as_json else _read(what.output / "summary.md"))


@evaluation.command()
def tau2(
    run: Run = None,
    model: AnyModel = None,
    output: Output = None,
    endpoint: Endpoint = None,
    server: Server = None,
    mode: Mode = None,
    split: Annotated[str, typer.Option(help="base, train, test, small or full.")] = "base",
    limit: Limit = None,
    baseline: BaselineName = "none",
    aid: Aid = None,
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = 4096,
    ticket_as_user: Annotated[
        bool, typer.Option("--ticket-as-user", help="For templates that need a user message; not official.")
    ] = False,
    width: Width = 16,
    timeout: Timeout = None,
    seed: Seed = 0,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Play TAU2 telecom in solo mode, judged by the official rules."""
    from fission_grpo.agents.formats import PromptMode
    from fission_grpo.commands.tau2 import Tau2Settings, evaluate_tau2
    from fission_grpo.environments.tau2.official import Tau2Split
    from fission_grpo.evaluation.protocols.tau2 import SoloPrompt

    what, mode = subject(run, model, output, folder="tau2"), mode or PromptMode.CHAT_TOOLS
    settings = Tau2Settings(
        agent=what.agent(
            mode,
            aid or baseline,
            endpoint=endpoint,
            server=server,
            temperature=temperature,
            max_tokens=max_tokens,
            timeout=timeout,
        ),
        split=_member(Tau2Split, split),
        limit=limit,
        prompt=SoloPrompt.TICKET_AS_USER if ticket_as_user else SoloPrompt.OFFICIAL,
        seed=seed,
    )
    found = evaluate_tau2(settings, output=what.output, resume=resume, width=width)
    typer.echo(json_text(found.as_json()))


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluation folders, the baseline first.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of resampling.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare evaluations entry by entry: difference, interval, p-value, what was fixed, what was broken."""
    from fission_grpo.evaluation.compare_runs import compare_runs
    from fission_grpo.report.contrasts import comparison_markdown
    from fission_grpo.run.folder import quoted

    found = compare_runs(runs, seed=seed)
    typer.echo(json_text(found.to_json()) if as_json else comparison_markdown(found))
    if not as_json and all(run.is_dir() for run in runs):
        typer.echo(f"read the episodes behind it: fission report {' '.join(map(quoted, runs))}", err=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is evaluated, and where that is kept."""

    model: str
    output: Path
    config: Path | None
    """Settings of the run that the model came of."""

    @property
    def name(self) -> str:
        """For tables: of a policy in a run folder that of the run."""
        path = Path(self.model)
        return path.parent.name if self.config and path == self.config.parent / "policy" else path.name

    def settings(self, recipe: Recipe | None, config: Path | None, typed: Sequence[str]) -> RunSettings:
        """The run's own settings, key by key under those of a file and those that are typed; else a recipe's.

        Whatever a run was trained on would be no held-out tasks: its `data` is not taken along.

        Raises:
            ConfigError: a run and a recipe, which both bring all settings; or see `resolve`.
        """
        from fission_grpo.config import load_settings

        if self.config and recipe:
            raise ConfigError("--run brings the settings of the run along; leave out --recipe, and change single ones")
        base = load_settings(file=self.config).model_copy(update={"data": "synthetic"}) if self.config else None
        return read_settings(recipe, config, None, {"model": self.model}, typed, base=base)

    def agent(
        self,
        mode: str,
        baseline: str,
        *,
        endpoint: str | None,
        server: str | None,
        temperature: float,
        max_tokens: int,
        timeout: float | None,
    ) -> AgentChoice:
        """The agent of some options; chat template and precision are those of the run.

        Raises:
            ConfigError: a word that an option does not know, or options that do not go together.
        """
        from fission_grpo.agents.choice import AgentChoice, Baseline
        from fission_grpo.agents.formats import PromptMode
        from fission_grpo.config import load_settings

        settings = load_settings(file=self.config) if self.config and endpoint is None else None
        return AgentChoice(
            model=self.model,
            endpoint=endpoint,
            server=server,
            mode=_member(PromptMode, mode),
            temperature=temperature,
            max_tokens=max_tokens,
            timeout=timeout,
            baseline=_member(Baseline, baseline),
            chat_template=settings.chat_template if settings else None,
            precision=settings.precision if settings else None,
        )


def subject(run: Path | None, model: str | None, output: Path | None, *, folder: str) -> Subject:
    """What the options name; a run gives what they leave open.

    Args:
        folder: name of the default output in a run.
    Raises:
        ConfigError: they name too little, or the run has no policy yet.
    """
    if run is None:
        if model is None or output is None:
            raise ConfigError("nothing to evaluate: give --run RUN, or both --model MODEL and --output FOLDER")
        return Subject(model=model, output=output, config=None)
    from fission_grpo.run.folder import RunFolder

    found = RunFolder(run)
    found.require_settings()
    return Subject(model=model or str(found.trained_policy()), output=output or run / folder, config=found.config)


def _member(kind: Any, word: str) -> Any:
    if word not in list(kind):
        raise ConfigError(f"{word!r} is unknown; expected {', '.join(kind)}")
    return kind(word)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")

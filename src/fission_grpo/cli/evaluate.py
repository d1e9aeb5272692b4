"""`fission eval` and `fission compare`: how a policy copes with errors, and whether two differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from fission_grpo.cli.options import FAILED, OVERRIDES, ConfigFile, Json, RecipeName, json_text, read_settings
from fission_grpo.errors import ConfigError

if TYPE_CHECKING:
    from fission_grpo.agents.choice import AgentChoice

evaluation = typer.Typer(
    no_args_is_help=True, help="Evaluate a policy, here or behind a server.", rich_markup_mode=None
)

AnyModel: TypeAlias = Annotated[str, typer.Option(help="nano, smollm2, a folder, or the server's name for it.")]
Output: TypeAlias = Annotated[Path, typer.Option(help="Folder for traces, numbers and summary.")]
Endpoint: TypeAlias = Annotated[
    str | None, typer.Option(help="Address of an OpenAI-compatible server; the key is taken from OPENAI_API_KEY.")
]
Mode: TypeAlias = Annotated[
    str | None, typer.Option(help="official-qwen-fc, chat-tools or compact.", show_default="by the benchmark")
]
AidName: TypeAlias = Annotated[str, typer.Option(help="Help without training: none, structured-errors or wait.")]
Temperature: TypeAlias = Annotated[float, typer.Option(min=0, help="0 is greedy.")]
MaxTokens: TypeAlias = Annotated[int, typer.Option(min=1, help="Most tokens of one answer.")]
Width: TypeAlias = Annotated[int, typer.Option(min=1, help="Dialogues side by side; of a server, its concurrency.")]
Limit: TypeAlias = Annotated[int | None, typer.Option(min=1, help="Only the first so many of each kind.")]
Resume: TypeAlias = Annotated[bool, typer.Option("--resume", help="Go on where the evaluation in --output stopped.")]
Lenient: TypeAlias = Annotated[
    bool, typer.Option("--lenient", help="Take every well-formed call, whatever stands around it; not official.")
]
Seed: TypeAlias = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]


@evaluation.command(context_settings=OVERRIDES, epilog="Any setting of `fission train` that concerns tasks.")
def heldout(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="nano, smollm2, or a Hugging Face folder.")],
    output: Annotated[Path, typer.Option(help="Folder for the records, one JSONL file for each part.")],
    config: ConfigFile = None,
    recipe: RecipeName = None,
    size: Annotated[int, typer.Option(min=3, help="Episodes, and items of each probe.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the held-out tasks.")] = 0,
    validation: Annotated[
        bool, typer.Option("--validation", help="Use the validation split: to choose settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Our own held-out episodes and fixed-error probes, as in the quickstart."""
    settings = read_settings(recipe, config, None, {"model": model}, ctx.args)
    from fission_grpo.commands.heldout import evaluate_model, rates, tables
    from fission_grpo.tasks.synthesis.generator import Split

    split = Split.VALIDATION if validation else Split.HELDOUT
    found = evaluate_model(settings, split=split, seed=seed, size=size)
    found.save(output)
    typer.echo(json_text(rates(found)) if as_json else tables(found, name=Path(model).name))


@evaluation.command()
def bfcl(
    model: AnyModel,
    output: Output,
    endpoint: Endpoint = None,
    mode: Mode = None,
    categories: Annotated[
        str | None, typer.Option(help="Of base, miss_func, miss_param, long_context; by commas.")
    ] = None,
    limit: Limit = None,
    lenient: Lenient = False,
    aid: AidName = "none",
    temperature: Annotated[float, typer.Option(min=0, help="Officially 0.001; 0 is greedy.")] = 0.001,
    max_tokens: MaxTokens = 4096,
    width: Width = 16,
    seed: Seed = 0,
    resume: Resume = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be played, and how officially.")] = False,
    as_json: Json = False,
) -> None:
    """BFCL v4 multi-turn by the official protocol, with the official verdicts, and recovery beside accuracy."""
    from fission_grpo.agents.formats import PromptMode
    from fission_grpo.commands.bfcl import BfclSettings, evaluate_bfcl
    from fission_grpo.environments.bfcl.entries import BfclCategory

    by_default = PromptMode.CHAT_TOOLS if endpoint else PromptMode.OFFICIAL_QWEN_FC
    asked = {"mode": mode or by_default, "strictness": "lenient" if lenient else "official", "aid": aid}
    settings = BfclSettings(
        agent=_choice(model, endpoint, asked, temperature=temperature, max_tokens=max_tokens),
        categories=tuple(_member(BfclCategory, name) for name in _names(categories)) or tuple(BfclCategory),
        limit=limit,
        seed=seed,
    )
    if dry_run:
        settings.agent.check()
        plan = {"entries": len(settings.entries()), "departures": list(settings.departures())}
        typer.echo(json_text(plan))
        return
    found = evaluate_bfcl(settings, output=output, resume=resume, width=width)
    typer.echo(json_text(found.as_json()) if as_json else _read(output / "summary.md"))


@evaluation.command()
def rescore(
    folder: Annotated[Path, typer.Argument(help="A folder that `fission eval bfcl` wrote.")],
    as_json: Json = False,
) -> None:
    """Judge recorded BFCL transcripts again, from their calls alone, and say whether any verdict changed."""
    from fission_grpo.evaluation.bfcl.records import read_records
    from fission_grpo.evaluation.bfcl.score import rescore as judge_again
    from fission_grpo.evaluation.bfcl.score import score

    traces = folder / "traces.jsonl"
    if not traces.is_file():
        raise ConfigError(f"{folder} holds no traces.jsonl; expected a folder that `fission eval bfcl` wrote")
    held = read_records(traces)
    again = [judge_again(record) for record in held]
    changed = [new.entry for old, new in zip(held, again, strict=True) if old.verdict != new.verdict]
    told = {"changed": changed, **score(again).as_json()}
    typer.echo(json_text(told) if as_json else f"{len(held)} entries judged again, {len(changed)} verdicts changed")
    raise typer.Exit(FAILED if changed else 0)


@evaluation.command()
def probes(
    model: AnyModel,
    output: Output,
    endpoint: Endpoint = None,
    mode: Mode = None,
    limit: Limit = None,
    aid: AidName = "none",
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = 1024,
    width: Width = 16,
    seed: Seed = 0,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Fixed errors on BFCL Base, and the blind spot: the same error as the model's own and as another's."""
    from fission_grpo.agents.formats import PromptMode
    from fission_grpo.commands.probes import ProbeSettings, evaluate_probes

    asked = {"mode": mode or PromptMode.CHAT_TOOLS, "aid": aid}
    choice = _choice(model, endpoint, asked, temperature=temperature, max_tokens=max_tokens)
    settings = ProbeSettings(agent=choice, limit=limit, seed=seed)
    found = evaluate_probes(settings, output=output, resume=resume, width=width)
    typer.echo(json_text(found.as_json()) if as_json else _read(output / "summary.md"))


@evaluation.command()
def tau2(
    model: AnyModel,
    output: Output,
    endpoint: Endpoint = None,
    mode: Mode = None,
    split: Annotated[str, typer.Option(help="base, train, test, small or full.")] = "base",
    limit: Limit = None,
    aid: AidName = "none",
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = 4096,
    ticket_as_user: Annotated[
        bool, typer.Option("--ticket-as-user", help="For templates that need a user message; not official.")
    ] = False,
    width: Width = 16,
    seed: Seed = 0,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """TAU2 telecom in solo mode, judged by the official rules."""
    from fission_grpo.agents.formats import PromptMode
    from fission_grpo.commands.tau2 import Tau2Settings, evaluate_tau2
    from fission_grpo.environments.tau2.official import Tau2Split
    from fission_grpo.evaluation.protocols.tau2 import SoloPrompt

    asked = {"mode": mode or PromptMode.CHAT_TOOLS, "aid": aid}
    settings = Tau2Settings(
        agent=_choice(model, endpoint, asked, temperature=temperature, max_tokens=max_tokens),
        split=_member(Tau2Split, split),
        limit=limit,
        prompt=SoloPrompt.TICKET_AS_USER if ticket_as_user else SoloPrompt.OFFICIAL,
        seed=seed,
    )
    found = evaluate_tau2(settings, output=output, resume=resume, width=width)
    typer.echo(json_text(found.as_json()))


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluation folders, the baseline first.")],
    seed: Annotated[int, typer.Option(help="Seed of resampling.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare evaluations entry by entry: difference, interval, p-value, what was fixed, what was broken."""
    from fission_grpo.evaluation.compare_runs import compare_runs
    from fission_grpo.report.contrasts import comparison_markdown

    found = compare_runs(runs, seed=seed)
    typer.echo(json_text(found.to_json()) if as_json else comparison_markdown(found))


def _choice(
    model: str, endpoint: str | None, asked: Mapping[str, str], *, temperature: float, max_tokens: int
) -> AgentChoice:
    """The agent of some options.

    Raises:
        ConfigError: a word that an option does not know, or options that do not go together.
    """
    from fission_grpo.agents.choice import AgentChoice, Aid
    from fission_grpo.agents.formats import PromptMode
    from fission_grpo.agents.qwen_fc import Strictness

    kinds: Mapping[str, Any] = {"mode": PromptMode, "strictness": Strictness, "aid": Aid}
    chosen = {name: _member(kinds[name], word) for name, word in asked.items()}
    return AgentChoice(model=model, endpoint=endpoint, temperature=temperature, max_tokens=max_tokens, **chosen)


def _member(kind: Any, word: str) -> Any:
    if word not in list(kind):
        raise ConfigError(f"{word!r} is unknown; expected {', '.join(kind)}")
    return kind(word)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")

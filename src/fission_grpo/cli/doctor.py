"""`fission doctor`: is this model's chat template safe?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fission_grpo.cli.options import FAILED, Json, json_text


def doctor(
    model: Annotated[str, typer.Argument(help="nano, smollm2, or a Hugging Face folder.")],
    chat_template: Annotated[str | None, typer.Option(help="hermes, nano, or a Jinja file.")] = None,
    as_json: Json = False,
) -> None:
    """Say whether a model's chat template is safe for training on tool dialogues, and why."""
    from fission_grpo.chat.doctor import Status, diagnose_template
    from fission_grpo.models.catalog import load_tokenizer

    findings = diagnose_template(load_tokenizer(model, chat_template=chat_template))
    unsafe = any(finding.status is Status.FAIL for finding in findings)
    if as_json:
        typer.echo(
            json_text({"model": model, "safe": not unsafe, "findings": [asdict(finding) for finding in findings]})
        )
    else:
        for finding in findings:
            typer.echo(f"{finding.status.value:<4}  {finding.name:<18} {finding.why}")
            if finding.remedy:
                typer.echo(f"{'':<25}-> {finding.remedy}")
        typer.echo(f"{model}: {'not safe to train' if unsafe else 'safe to train'}")
    raise typer.Exit(FAILED if unsafe else 0)

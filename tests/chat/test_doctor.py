import pytest
from chat_tokenizers import (
    EMPTY_THINKING,
    FORGETS_THINKING,
    NANO,
    NO_END,
    NO_HEAD,
    NO_TOOLS,
    OTHER_CALLS,
    SWALLOWS_RESULTS,
    WRAPPED_RESULTS,
    byte_tokenizer,
)

from fission_grpo.chat.doctor import Finding, Status, diagnose_template
from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.templates import chat_template
from fission_grpo.errors import ConfigError


def by_name(template: str | None, **options: object) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose_template(byte_tokenizer(template, **options))}  # type: ignore[arg-type]


def worse(findings: dict[str, Finding]) -> dict[str, Status]:
    return {name: finding.status for name, finding in findings.items() if finding.status is not Status.PASS}


@pytest.mark.parametrize("template", [NANO, chat_template("hermes"), WRAPPED_RESULTS])
@pytest.mark.parametrize("tags", [True, False])
def test_a_good_template_passes_everything(template: str, tags: bool) -> None:
    findings = by_name(template, tags=tags)
    assert worse(findings) == {}
    assert len(findings) == 10


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, {"chat template": Status.FAIL}),
        (FORGETS_THINKING, {"prefix-preserving": Status.WARN}),
        (SWALLOWS_RESULTS, {"tool results": Status.FAIL, "append-only": Status.FAIL, "injection": Status.FAIL}),
        (
            EMPTY_THINKING,
            {"thinking": Status.WARN, "prefix-preserving": Status.WARN, "append-only": Status.WARN},
        ),
        (OTHER_CALLS, {"call round trip": Status.FAIL, "append-only": Status.FAIL}),
    ],
)
def test_each_bad_template_fails_for_its_own_reason(template: str | None, expected: dict[str, Status]) -> None:
    findings = by_name(template)
    assert worse(findings) == expected
    for finding in findings.values():
        assert finding.why
        assert bool(finding.remedy) is (finding.status is not Status.PASS)


@pytest.mark.parametrize(
    ("template", "failing"),
    [(NO_TOOLS, "tools"), (NO_HEAD, "generation prompt"), (NO_END, "end of turn"), ("{% for", "tools")],
)
def test_further_bad_templates_fail_there_too(template: str, failing: str) -> None:
    assert by_name(template)[failing].status is Status.FAIL


@pytest.mark.parametrize(
    "template",
    [NANO, FORGETS_THINKING, SWALLOWS_RESULTS, EMPTY_THINKING, OTHER_CALLS, NO_TOOLS, NO_HEAD, NO_END, WRAPPED_RESULTS],
)
def test_the_doctor_fails_exactly_what_training_refuses(template: str) -> None:
    fails = Status.FAIL in worse(by_name(template)).values()
    try:
        ChatFormat(byte_tokenizer(template))
    except ConfigError:
        assert fails
    else:
        assert not fails


def test_the_place_where_renderings_part_is_shown() -> None:
    finding = by_name(FORGETS_THINKING)["prefix-preserving"]
    assert "turns with thinking" in finding.why
    assert "<think>" in finding.why


def test_an_end_of_turn_that_is_not_eos_is_named() -> None:
    finding = by_name(NANO, eos="<|endoftext|>")["end of turn"]
    assert finding.status is Status.WARN
    assert "<|im_end|> (id 2)" in finding.why
    assert "<|endoftext|> (id 0)" in finding.why


def test_a_tokenizer_that_forges_tokens_is_unsafe() -> None:
    """A normalizer that rewrites text into control tokens cannot be shielded from: it must be found."""
    from tokenizers import AddedToken, normalizers

    tokenizer = byte_tokenizer(NANO)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("im_end|>", "<halt>")
    tokenizer.add_tokens([AddedToken("<halt>", normalized=True)])
    finding = {finding.name: finding for finding in diagnose_template(tokenizer)}["injection"]
    assert finding.status is Status.FAIL
    assert "<halt>" in finding.why

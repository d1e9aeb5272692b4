"""A learned simulator with nets below it: what fails or leaks is written by `rules`, or where they break by `static`.

Nothing that a model or a server does reaches the training but a text that passed the leak check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fission_grpo.errors import RolloutError, SimulatorError
from fission_grpo.simulator.base import NO_COST, Case, Cost, FailedCall, Fallback, Feedback, Leakage
from fission_grpo.simulator.leak import Leak, leaks_of
from fission_grpo.simulator.prompts import Draft, NoDraft, Question, Writer, questions_of
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator.static import StaticSimulator


@dataclass(slots=True)
class GuardCount:
    """What a guarded simulator did since it was last asked."""

    cases: int = 0
    written: int = 0
    """Feedback that the learned simulator wrote."""
    fallbacks: Counter[str] = field(default_factory=Counter)
    """Feedback that others wrote in its place, by reason."""
    leaks: Counter[str] = field(default_factory=Counter)
    """Leaks found and kept out, by kind of literal."""
    cost: Cost = NO_COST

    def metrics(self) -> dict[str, float]:
        """Flat numbers for `metrics.jsonl`."""
        return {
            "simulator/cases": self.cases,
            "simulator/written": self.written,
            "time/simulator": self.cost.seconds,
            "simulator/tokens": self.cost.prompt_tokens + self.cost.tokens,
            **{f"simulator/fallback/{reason}": count for reason, count in sorted(self.fallbacks.items())},
        }


class GuardedSimulator:
    """Asks a writer, checks what it says against the reference, and falls back: rules, then static."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.count = GuardCount()
        self._rules = RulesSimulator()
        self._static = StaticSimulator()

    @property
    def name(self) -> str:
        return self.writer.name

    def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
        """Without references: the writer cannot be shown one, and nothing can be checked."""
        return self.diagnose_cases([Case(failed=one, reference=()) for one in failed])

    def diagnose_cases(self, cases: Sequence[Case]) -> list[Feedback]:
        """One feedback for each case, in order; the writer gets all questions at once. Never raises."""
        questions = [questions_of(case) for case in cases]
        answers = iter(self._written([question for asked in questions for question in asked]))
        return [
            self._feedback(case, asked, [next(answers) for _ in asked])
            for case, asked in zip(cases, questions, strict=True)
        ]

    def take_count(self) -> GuardCount:
        """What was done since the last call; counting starts afresh."""
        count, self.count = self.count, GuardCount()
        return count

    def _written(self, questions: Sequence[Question]) -> Sequence[Draft | NoDraft]:
        try:
            return self.writer.write(questions) if questions else []
        except RolloutError as error:
            return [NoDraft(reason=Fallback.UNANSWERED, detail=str(error))] * len(questions)

    def _feedback(self, case: Case, asked: Sequence[Question], answers: Sequence[Draft | NoDraft]) -> Feedback:
        self.count.cases += 1
        cost = sum((answer.cost for answer in answers), NO_COST)
        self.count.cost += cost
        safe = self._safe(case.failed)
        if not asked:
            return safe
        missing = next((answer.reason for answer in answers if isinstance(answer, NoDraft)), None)
        drafts = [answer.text for answer in answers if isinstance(answer, Draft)]
        leaks = leaks_of(drafts, case)
        reason = missing or (Fallback.LEAK if leaks else None)
        if reason is not None:
            self._note(reason, leaks)
            leakage = Leakage.LEAKED if reason is Fallback.LEAK else Leakage.BLIND
            return replace(safe, leakage=leakage, fallback=reason, cost=cost)
        self.count.written += 1
        leakage = Leakage.CLEAN if case.reference else Leakage.BLIND
        texts = list(safe.texts)
        for question, draft in zip(asked, drafts, strict=True):
            texts[question.place] = draft if question.answer is None else f"{question.answer}\n{draft}".lstrip()
        return Feedback(texts=tuple(texts), origin=self.name, leakage=leakage, cost=cost)

    def _note(self, reason: Fallback, leaks: Sequence[Leak]) -> None:
        self.count.fallbacks[reason] += 1
        self.count.leaks.update(str(leak.kind) for leak in leaks)

    def _safe(self, failed: FailedCall) -> Feedback:
        try:
            return self._rules.diagnose([failed])[0]
        except SimulatorError:
            return self._static.diagnose([failed])[0]

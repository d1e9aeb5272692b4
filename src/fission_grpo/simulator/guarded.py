"""A learned simulator behind a leak guard: what fails or leaks is written by `rules`, or where they break by `static`.

Nothing that a model or a server does reaches the training but a text that passed the leak check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fission_grpo.errors import RolloutError, SimulatorError
from fission_grpo.simulator.base import NO_COST, Case, Cost, FailedCall, Fallback, Feedback, Leakage
from fission_grpo.simulator.leak import Leak, leaks_of
from fission_grpo.simulator.prompts import Candidate, NoCandidate, Prompt, Writer, prompts_of
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator.static import StaticSimulator


@dataclass(slots=True)
class LeakGuardCount:
    """What a leak-guarded simulator did since it was last asked."""

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


class LeakGuardedSimulator:
    """Asks a writer, checks what it says against the reference, and falls back: rules, then static."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.count = LeakGuardCount()
        self._rules = RulesSimulator()
        self._static = StaticSimulator()

    @property
    def name(self) -> str:
        return self.writer.name

    @property
    def remote(self) -> bool:
        """Whether its writer is another machine."""
        return self.writer.remote

    def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
        """Without references: the writer cannot be shown one, and nothing can be checked."""
        return self.diagnose_cases([Case(failed=one, reference=()) for one in failed])

    def diagnose_cases(self, cases: Sequence[Case]) -> list[Feedback]:
        """One feedback for each case, in order; the writer gets all prompts at once. Never raises."""
        prompts = [prompts_of(case) for case in cases]
        answers = iter(self._written([prompt for asked in prompts for prompt in asked]))
        return [
            self._feedback(case, asked, [next(answers) for _ in asked])
            for case, asked in zip(cases, prompts, strict=True)
        ]

    def take_metrics(self) -> dict[str, float]:
        """`take_count` by the names of `metrics.jsonl`."""
        return self.take_count().metrics()

    def take_count(self) -> LeakGuardCount:
        """What was done since the last call; counting starts afresh."""
        count, self.count = self.count, LeakGuardCount()
        return count

    def _written(self, prompts: Sequence[Prompt]) -> Sequence[Candidate | NoCandidate]:
        try:
            return self.writer.write(prompts) if prompts else []
        except RolloutError as error:
            return [NoCandidate(reason=Fallback.UNANSWERED, detail=str(error))] * len(prompts)

    def _feedback(self, case: Case, asked: Sequence[Prompt], answers: Sequence[Candidate | NoCandidate]) -> Feedback:
        self.count.cases += 1
        cost = sum((answer.cost for answer in answers), NO_COST)
        self.count.cost += cost
        safe = self._safe(case.failed)
        if not asked:
            return safe
        missing = next((answer.reason for answer in answers if isinstance(answer, NoCandidate)), None)
        candidates = [answer.text for answer in answers if isinstance(answer, Candidate)]
        leaks = leaks_of(candidates, case)
        reason = missing or (Fallback.LEAK if leaks else None)
        if reason is not None:
            self._note(reason, leaks)
            leakage = Leakage.LEAKED if reason is Fallback.LEAK else Leakage.BLIND
            return replace(safe, leakage=leakage, fallback=reason, cost=cost)
        self.count.written += 1
        leakage = Leakage.CLEAN if case.reference else Leakage.BLIND
        texts = list(safe.texts)
        for prompt, candidate in zip(asked, candidates, strict=True):
            texts[prompt.place] = candidate if prompt.answer is None else f"{prompt.answer}\n{candidate}".lstrip()
        return Feedback(texts=tuple(texts), origin=self.name, leakage=leakage, cost=cost)

    def _note(self, reason: Fallback, leaks: Sequence[Leak]) -> None:
        self.count.fallbacks[reason] += 1
        self.count.leaks.update(str(leak.kind) for leak in leaks)

    def _safe(self, failed: FailedCall) -> Feedback:
        try:
            return self._rules.diagnose([failed])[0]
        except SimulatorError:
            return self._static.diagnose([failed])[0]

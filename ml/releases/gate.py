"""What the gate asks of a verdict: which guards there are, and which of them may have had nothing to look at."""

from importlib import import_module
from typing import Literal, Protocol

from ml.evaluation.outcome import Outcome
from ml.releases.verdicts import GuardResult, Verdict

Silence = Literal["never", "first", "ever"]
"""When a guard may have measured nothing: never, where there is no champion, or where its surface gives it nothing."""


OF_POPULARITY = ("data", "onnx", "serving", "provenance")
"""Guards that look at a model which learnt nothing; of the others, each says that it did not."""


class Rule(Protocol):
    """What promotion knows of a guard."""

    @property
    def number(self) -> int: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def silent(self) -> Silence: ...  # noqa: D102


def gate() -> tuple[Rule, ...]:
    """Return the guards of this installation.

    They stand above this package. Nobody who asks for a promotion hands them over: he could leave some out.
    """
    return import_module("checks.guards").GUARDS


def shortcomings(verdict: Verdict) -> list[str]:
    """Return what a verdict lacks to be one of this gate: every guard once, and each with what it measured."""
    found = []
    rules = {rule.name: rule for rule in gate()}
    for guard in verdict.guards:
        if guard.name not in rules:
            found.append(f"guard {guard.number} ({guard.name}) is none of this gate's")
    for name, rule in rules.items():
        told = [guard for guard in verdict.guards if guard.name == name]
        if len(told) != 1:
            found.append(f"guard {rule.number} ({name}) is there {len(told)} times, not once")
        elif told[0].number != rule.number:
            found.append(f"guard {rule.number} ({name}) has the number {told[0].number}")
        elif verdict.about == "popularity" and name not in OF_POPULARITY:
            if told[0].outcome is not Outcome.NOT_EVALUATED:
                found.append(f"guard {rule.number} ({name}) {told[0].outcome}, and does not look at popularity")
        elif unmeasured(told[0], rule, first=verdict.key.champion is None):
            found.append(f"guard {rule.number} ({name}) {told[0].outcome}, and measured nothing")
    return found


def unmeasured(guard: GuardResult, rule: Rule, *, first: bool) -> bool:
    """Tell whether a guard says that nothing speaks against a candidate without having measured anything.

    Args:
        guard: What it found.
        rule: When it may be silent.
        first: Whether there was no champion.
    """
    if guard.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
        return False
    measured = any(check.outcome is not Outcome.NOT_EVALUATED for check in guard.checks)
    may_be_silent = rule.silent == "ever" or (rule.silent == "first" and first)
    return not measured and not (guard.outcome is Outcome.NOT_EVALUATED and may_be_silent)

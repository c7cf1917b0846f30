"""The gate: runs the guards over one candidate, and writes the verdict last."""

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

from checks import gx
from checks.guard import Guard, Subject
from checks.guards import GUARDS
from ml.evaluation.outcome import TOLD, Outcome
from ml.foundation.artifacts import Artifact
from ml.foundation.settings import Settings
from ml.releases.gate import unmeasured
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Check, GuardResult, StoredVerdict
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    from ml.evaluation.results import Evaluation

log = logging.getLogger(__name__)

_TOLD = 5


def judge(
    settings: Settings,
    surface: Surface,
    candidate: Artifact,
    evaluation: "Evaluation",
    *,
    store: ReleaseStore | None = None,
    checkpoint: Artifact | None = None,
    run_id: str | None = None,
) -> StoredVerdict:
    """Judge a candidate against the present champion, and record the verdict.

    Args:
        settings: The home.
        surface: Specification and thresholds.
        candidate: Artifact with the files of ``ml.releases.release.CANDIDATE``.
        evaluation: Evaluation of the candidate's partition.
        store: Where champion and verdicts are; default is the home's.
        checkpoint: The checkpoint that was exported; default is the one that the manifest names.
        run_id: Dagster run that judges.

    Raises:
        DamagedError: The candidate's files are not what their hashes say: there is nothing to judge.
        UnusableKey: Only what is signed counts here, and no key can sign the verdict.
        UnusableIdentity: The same of an identity that signs in place of a key.
    """
    store = store or ReleaseStore.of(settings)
    _ = store.keys.signer
    candidate.verify()
    key = store.verdict_key(surface, candidate)
    with ExitStack() as lakes:
        subject = Subject(settings, surface, candidate, evaluation, store, key, checkpoint, lakes)
        guards = tuple(ask(guard, subject) for guard in GUARDS)
    return store.record(candidate, key, guards, promotion=surface.gate.promotion, run_id=run_id)


def ask(guard: Guard, subject: Subject) -> GuardResult:
    """Run one guard; whatever it raises fails it."""
    try:
        checks, note = guard.judge(subject)
    except Exception as error:  # a gate that cannot look must not pass
        log.exception("guard %d (%s) could not be evaluated", guard.number, guard.name)
        reason = f"could not be evaluated: {type(error).__name__}: {error}"
        return _result(guard, Outcome.FAIL, reason[:2000])
    if unmeasured(_result(guard, gx.worst(checks), note, tuple(checks)), guard, first=subject.key.champion is None):
        return _result(guard, Outcome.FAIL, f"measured nothing; {note}" if note else "measured nothing", tuple(checks))
    outcome = gx.worst(checks)
    told = [_told(check) for check in checks if check.outcome is outcome and outcome in TOLD]
    more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
    reason = "; ".join([*told[:_TOLD], *more, *([note] if note else [])])
    return _result(guard, outcome, reason, tuple(checks))


def _result(guard: Guard, outcome: Outcome, reason: str, checks: tuple[Check, ...] = ()) -> GuardResult:
    told = {"means": guard.means, "to_do": guard.to_do} if outcome in TOLD else {}
    return GuardResult(number=guard.number, name=guard.name, outcome=outcome, reason=reason, checks=checks, **told)


def _told(check: Check) -> str:
    if check.value is None:
        return f"{check.name}: {check.detail}"
    value = f"{check.value:.4g}" if isinstance(check.value, float) else check.value
    return f"{check.name} is {value}, wanted {check.threshold}" + (f" ({check.detail})" if check.detail else "")

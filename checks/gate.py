"""The gate: judges one candidate, guard by guard, and writes the verdict last."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import date
from functools import cached_property
from typing import Any

from checks import gx
from checks.names import GUARDS
from ml.evaluation.evaluate import Evaluation
from ml.features import empty_days
from ml.lake import Lake
from ml.settings import Settings
from ml.store.artifacts import Artifact
from ml.store.manifest import Manifest
from ml.store.releases import MANIFEST, MODEL, SCHEMA, Champion, Release, ReleaseStore
from ml.store.verdicts import Check, Guard, Outcome, StoredVerdict, Verdict, VerdictKey, decide, now
from ml.surfaces.spec import Surface
from ml.teacher.contract import Contract

log = logging.getLogger(__name__)

_TOLD = 5
_NO_FEATURES = "the lake lacks the feature tables of the surface's daily inputs: nothing to compare with"
_WORTH_TELLING = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.WARN)


def judge(
    settings: Settings,
    surface: Surface,
    candidate: Artifact,
    evaluation: Evaluation,
    *,
    store: ReleaseStore | None = None,
    checkpoint: Artifact | None = None,
    run_id: str | None = None,
) -> StoredVerdict:
    """Judge a candidate against the present champion, and record the verdict.

    Guards 1 and 2 are measured again over the manifest's snapshot of the lake, whatever earlier checks said. A guard
    that raises has failed.

    Args:
        settings: The home.
        surface: Specification and thresholds.
        candidate: Artifact with the files of ``ml.store.releases.CANDIDATE``.
        evaluation: Evaluation of the candidate's partition.
        store: Where champion and verdicts are; default is the home's.
        checkpoint: The checkpoint that was exported; default is the one that the manifest names.
        run_id: Dagster run that judges.

    Raises:
        DamagedError: The candidate's files are not what their hashes say: there is nothing to judge.
    """
    store = store or ReleaseStore(settings.artifacts_dir)
    candidate.verify()
    key = store.verdict_key(surface, candidate)
    with ExitStack() as lakes:
        judgement = _Judgement(settings, surface, candidate, evaluation, store, key, checkpoint, lakes)
        guards = tuple(_guard(number, judgement.checks(number)) for number in GUARDS)
    verdict = Verdict(
        key=key,
        partition=judgement.manifest.partition,
        decision=decide(guards),
        guards=guards,
        judged=dict(candidate.files),
        judged_at=now(),
        run_id=run_id,
    )
    return store.verdicts.write(verdict)


def check_examples(lake: Lake, surface: Surface, days: Sequence[date]) -> list[Check]:
    """Run guard 1 over some days of the lake, as it is or at the snapshot that it shows."""
    from checks.suites.data import FEATURES, data_rows, data_suite, features_suite
    from ml.gate.data import measure_examples, measure_features

    days, empty = _shown(lake, surface, days)
    if empty and not days:
        return empty
    measured = measure_examples(lake, surface, days)
    compared = measure_features(lake, surface, days)
    checks = empty + gx.validate(data_rows(measured, days), data_suite(surface.gate.data, days))
    if compared is None:
        return [*checks, Check(name=FEATURES, outcome=Outcome.WARN, detail=_NO_FEATURES)]
    return checks + gx.validate([{**row, "day": str(row["day"])} for row in compared], features_suite())


def check_soft_labels(lake: Lake, surface: Surface, days: Sequence[date], contract: Contract) -> list[Check]:
    """Run guard 2 over some days of the lake, as it is or at the snapshot that it shows."""
    from checks.suites.soft_labels import RESCORE, rescore_suite, soft_labels_suite
    from ml.gate.data import measure_soft_labels
    from ml.teacher.labels import rescore

    days, empty = _shown(lake, surface, days)
    if empty and not days:
        return empty
    gate = surface.gate.soft_labels
    measured = measure_soft_labels(
        lake,
        surface,
        days,
        teacher_version=contract.version,
        contract_hash=contract.contract_hash,
        outputs=len(contract.outputs),
        inputs=len(contract.inputs),
    )
    rows = [{**row, "day": str(row["day"])} for row in measured]
    checks = empty + gx.validate(rows, soft_labels_suite(gate, days))
    try:
        difference = rescore(lake, lake.settings, surface.name, contract, days, gate.rescore_rows, lake.settings.seed)
    except ValueError as error:  # rows that cannot be scored again; the checks above say what is wrong with them
        return [*checks, Check(name=RESCORE, outcome=Outcome.FAIL, detail=f"could not be scored again: {error}")]
    n = min(gate.rescore_rows, sum(row["labels"] for row in measured))
    return checks + gx.validate([{"difference": difference, "n": n}], rescore_suite(gate))


def _shown(lake: Lake, surface: Surface, days: Sequence[date]) -> tuple[list[date], list[Check]]:
    """Return the days on which something was shown, and a check that names the empty ones: they pass as empty.

    It warns where the surface does not say, by ``min_rows: 0``, that its days may be empty.
    """
    empty = sorted(empty_days(lake, surface.name, days))
    if not empty:
        return list(days), []
    outcome = Outcome.WARN if surface.gate.data.min_rows else Outcome.PASS
    told = f"nothing was shown on {', '.join(map(str, empty))}"
    check = Check(name="empty_days", outcome=outcome, value=float(len(empty)), threshold=gx.between(0, 0), detail=told)
    return [day for day in days if day not in empty], [check]


def _guard(number: int, run: Callable[[], tuple[list[Check], str]]) -> Guard:
    """Run one guard; whatever it raises fails it."""
    try:
        checks, note = run()
    except Exception as error:  # a gate that cannot look must not pass
        log.exception("guard %d (%s) could not be evaluated", number, GUARDS[number])
        reason = f"could not be evaluated: {type(error).__name__}: {error}"
        return Guard(number=number, name=GUARDS[number], outcome=Outcome.FAIL, reason=reason[:2000])
    outcome = gx.worst(checks)
    told = [_told(check) for check in checks if check.outcome is outcome and outcome in _WORTH_TELLING]
    more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
    reason = "; ".join([*told[:_TOLD], *more, *([note] if note else [])])
    return Guard(number=number, name=GUARDS[number], outcome=outcome, reason=reason, checks=tuple(checks))


def _told(check: Check) -> str:
    if check.value is None:
        return f"{check.name}: {check.detail}"
    value = f"{check.value:.4g}" if isinstance(check.value, float) else check.value
    return f"{check.name} is {value}, wanted {check.threshold}" + (f" ({check.detail})" if check.detail else "")


class _Judgement:
    """What the guards of one candidate look at."""

    def __init__(
        self,
        settings: Settings,
        surface: Surface,
        candidate: Artifact,
        evaluation: Evaluation,
        store: ReleaseStore,
        key: VerdictKey,
        checkpoint: Artifact | None,
        lakes: ExitStack,
    ) -> None:
        self._lakes = lakes
        self.settings, self.surface, self.candidate, self.evaluation = settings, surface, candidate, evaluation
        self.store, self.key, self._checkpoint = store, key, checkpoint
        self.manifest = Manifest.from_bytes(candidate.read(MANIFEST), f"{candidate.path}/{MANIFEST}")
        self.days = sorted({*self.manifest.train_days, *self.manifest.eval_days})

    @cached_property
    def past(self) -> Lake:
        """The lake at the manifest's snapshot."""
        return self._lakes.enter_context(Lake(self.settings, snapshot=self.manifest.snapshot))

    @cached_property
    def present(self) -> Lake:
        """The lake as it is: it has the predictions, which are newer than the rows that were learnt from."""
        return self._lakes.enter_context(Lake(self.settings))

    def checks(self, number: int) -> Callable[[], tuple[list[Check], str]]:
        """Return the function that runs one guard and returns (checks, note)."""
        guards = {
            1: self._data,
            2: self._soft_labels,
            3: self._quality,
            4: self._slices,
            5: self._calibration,
            6: self._shift,
            7: self._onnx,
            8: self._serving,
            9: self._rollback,
            10: self._provenance,
        }
        return guards[number]

    def _contract(self) -> Contract:
        from ml.teacher.contract import teacher_contract

        return teacher_contract(self.settings)

    def _champion(self) -> Champion | None:
        """Return the champion that the verdict's key names; it may have changed while guards ran."""
        champion = self.store.champion(self.surface.name)
        found = champion.release.id if champion else None
        if found != self.key.champion:
            raise RuntimeError(f"the champion changed from {self.key.champion} to {found} while the gate was judging")
        return champion

    def _compared(self) -> Champion | None:
        """Return the champion, which the evaluation has to know."""
        champion = self._champion()
        if champion is not None and "champion" not in self.evaluation.models:
            raise RuntimeError(f"evaluated before {champion.release.id} was champion: materialize `evaluation` again")
        return champion

    def _data(self) -> tuple[list[Check], str]:
        return check_examples(self.past, self.surface, self.days), ""

    def _soft_labels(self) -> tuple[list[Check], str]:
        if self.manifest.teacher is None:
            return [], "trained without a teacher"
        return check_soft_labels(self.past, self.surface, self.days, self._contract()), ""

    def _quality(self) -> tuple[list[Check], str]:
        from checks.suites.quality import choice_suite, quality_suite
        from ml.gate.figures import CHAMPION, chosen_kind, measure_quality
        from ml.gate.rules import days_to_decide

        kind, gate = self.manifest.kind, self.surface.gate.quality
        champion = self._compared() is not None
        reference = self._reference() is not None
        rows = measure_quality(self.evaluation, self.surface, kind, champion=champion, reference=reference)
        chosen = chosen_kind(self.evaluation, self.surface)
        checks = gx.validate(rows, quality_suite(gate, rows))
        checks += gx.validate([{"stated": chosen, "found": kind}], choice_suite(chosen))
        notes = [] if champion else ["the first candidate: no champion to compare with"]
        if gx.worst(checks) is Outcome.INCONCLUSIVE:
            days = len(self.manifest.eval_days)
            compared = [row for row in rows if row["comparison"] == CHAMPION and row["lo"] is not None]
            more = max(
                [days_to_decide(row["lo"], row["hi"], gate[row["task"]].margin, days) for row in compared], default=days
            )
            if more:
                notes.append(f"about {more} more evaluation days would decide")
        if not reference:
            confirmed = self.store.reference(self.surface.name)
            detail = (
                f"the reference {confirmed} is the champion" if confirmed else "no release was confirmed as reference"
            )
            checks.append(Check(name="minus_reference", outcome=Outcome.NOT_EVALUATED, detail=detail))
        return checks, "; ".join(notes)

    def _reference(self) -> Release | None:
        """Return the reference release, where it is another one than the champion."""
        name = self.store.reference(self.surface.name)
        return None if name in (None, self.key.champion) else self.store.release(self.surface.name, name)

    def _slices(self) -> tuple[list[Check], str]:
        from checks.suites.slices import slices_suite
        from ml.gate.figures import measure_slices

        if not self.surface.slices:
            return [], "the surface declares no slices"
        champion = self._compared() is not None
        rows = measure_slices(self.evaluation, self.surface, self.manifest.kind, champion=champion)
        return gx.validate(rows, slices_suite(self.surface.gate.slices, self.surface.gate.quality, rows)), ""

    def _calibration(self) -> tuple[list[Check], str]:
        from checks.suites.calibration import calibration_suite
        from ml.gate.figures import measure_calibration

        rows = measure_calibration(self.evaluation, self.surface, self.manifest.kind)
        if not rows:
            return [], "the surface has no binary task"
        return gx.validate(rows, calibration_suite(self.surface.gate.calibration, rows)), ""

    def _shift(self) -> tuple[list[Check], str]:
        from checks.suites.shift import shift_suite
        from ml.gate.probe import load_model
        from ml.gate.shift import measure_shift

        champion = self._champion()
        if champion is None:
            return [], "the first candidate: no champion to compare with"
        gate, days = self.surface.gate.shift, self.manifest.eval_days
        candidate, serving = load_model(self.candidate.path), load_model(champion.release.path)
        rows = measure_shift(self.past, self.surface, candidate, serving, days, top=gate.top)
        return gx.validate(rows, shift_suite(gate, rows)), ""

    def _onnx(self) -> tuple[list[Check], str]:
        from checks.suites.onnx import graph_suite, parity_suite, size_suite
        from ml.gate.data import example_rows
        from ml.gate.model import measure_onnx, measure_parity, measure_predictions, model_bytes

        surface, manifest = self.surface, self.manifest
        gate, model = surface.gate.onnx, self.candidate.path / MODEL
        graph = measure_onnx(surface, model)
        checks = gx.validate(graph, graph_suite(graph))
        checks += gx.validate([{"megabytes": model_bytes(model) / 1e6}], size_suite(gate))
        if gx.worst(checks) is Outcome.FAIL:
            return checks, "not compared with its checkpoint"
        order = "ts desc, exposure_id"
        rows = example_rows(self.past, surface, manifest.eval_days, order=order, limit=gate.max_batch)
        parity = measure_parity(surface, model, self._exported(), rows, max_batch=gate.max_batch)
        evaluated = measure_predictions(self.present, surface, rows, model, manifest.partition, manifest.kind)
        return checks + gx.validate([*parity, evaluated], parity_suite(gate, [*parity, evaluated])), ""

    def _exported(self) -> Artifact:
        from ml.pipeline import artifact_name
        from ml.store.artifacts import ArtifactStore

        if self._checkpoint is not None:
            found = self._checkpoint
        else:
            name = artifact_name(self.surface, self.manifest.kind)
            artifacts = ArtifactStore(self.settings.artifacts_dir)
            found = artifacts.get(name, self.candidate.partition, self.manifest.checkpoint_sha256)
        if found.digest != self.manifest.checkpoint_sha256:
            raise ValueError(f"checkpoint {found.digest} is not the manifest's {self.manifest.checkpoint_sha256}")
        return found

    def _serving(self) -> tuple[list[Check], str]:
        from checks.suites.serving import schema_suite, serving_suite
        from ml.export.schema import feature_schema, schema_hash
        from ml.gate.probe import ROUNDS, measure_serving

        champion, gate = self._champion(), self.surface.gate.serving
        stated = schema_hash(self.candidate.json(SCHEMA))
        checks = gx.validate([{"stated": feature_schema(self.surface)["hash"], "found": stated}], schema_suite())
        path = champion.release.path if champion else None
        row = measure_serving(self.candidate.path, path, timeout_s=2 * gate.max_ready_s) | {"n": ROUNDS}
        return checks + gx.validate([row], serving_suite(gate, champion=champion is not None)), ""

    def _rollback(self) -> tuple[list[Check], str]:
        from ml.gate.model import measure_restorable

        champion = self._champion()
        if champion is None:
            return [], "there is no champion to return to"
        answer = measure_restorable(champion.release)
        outcome = Outcome.PASS if answer["finite"] and answer["outputs"] else Outcome.FAIL
        detail = f"{champion.release.id}: files verified, model loaded and answered"
        check = Check(name="champion_restores", outcome=outcome, value=float(answer["outputs"]), detail=detail)
        return [check.model_copy(update={"threshold": "finite answers"})], ""

    def _provenance(self) -> tuple[list[Check], str]:
        from checks.suites.provenance import leaks_suite, origins_suite, teacher_suite
        from ml.gate.provenance import compare_figures, compare_origins, measure_leaks

        manifest, surface = self.manifest, self.surface
        champion = self._champion()
        release = champion.release if champion else None
        contract = self._contract()
        origins = compare_origins(
            self.past, self.settings, surface, manifest, contract, self.evaluation, release, self._reference()
        )
        leaks = measure_leaks(self.past, surface, manifest.eval_days, self.evaluation, manifest.kind)
        origins.append(compare_figures(self.present, surface, manifest, contract, self.evaluation))
        tasks = [task for task, spec in surface.tasks.items() if spec.kind == "binary"]
        checks = gx.validate(origins, origins_suite(origins))
        checks += gx.validate(leaks, leaks_suite(surface.gate.provenance, tasks)) if tasks else []
        return [*checks, *_teacher_is_older(manifest, teacher_suite())], ""


def _teacher_is_older(manifest: Manifest, suite: Any) -> list[Check]:
    if manifest.teacher is None:
        return []
    if manifest.teacher.trained_through is None:
        told = "the teacher does not say what it was trained through"
        return [Check(name="days_from_teacher_to_evaluation", outcome=Outcome.WARN, threshold=">= 1", detail=told)]
    between = (min(manifest.eval_days) - manifest.teacher.trained_through).days
    return gx.validate([{"days_between": between}], suite)

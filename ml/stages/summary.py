"""What a demo says about a surface: rows, figures, verdict and release."""

from datetime import date

from ml.evaluation.report import SurfaceReport, surface_report
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import StoredVerdict, because, missing_traffic
from ml.stages.artifacts import find
from ml.stages.evaluation import read_evaluation
from ml.stages.training_set import read_training_set
from ml.students.dataset import TrainingSet
from ml.surfaces.spec import Surface
from ml.teacher.teachers import LabelsOf, contracts_of


def surface_summary(
    lake: Lake, settings: Settings, surface: Surface, partition: date, teacher_parameters: int | None
) -> SurfaceReport:
    """Return what demo.json says about a surface: rows, figures, verdict and release."""
    training_set = read_training_set(settings, surface, partition)
    contracts = contracts_of(settings, surface).values()
    candidate = find(settings, surface, "onnx", partition)
    checkpoint = find(settings, surface, "student", partition).json("checkpoint.json")
    store = ReleaseStore.of(settings)
    verdicts, pointer = store.verdicts.of_candidate(surface.name, candidate.digest), store.pointer(surface.name)
    released = None
    if pointer is not None and pointer.partition == partition:
        released = store.release(surface.name, pointer.release)
    return surface_report(
        read_evaluation(settings, surface, partition),
        surface,
        rows={"train": training_set.train_rows, "test": training_set.eval_rows},
        defaulted_input_share=max(
            defaulted_share(lake, surface, training_set, of, len(contract.inputs))
            for of, contract in zip(training_set.labels, contracts, strict=True)
        ),
        parameters={
            "teacher": teacher_parameters,
            "student": int(checkpoint["parameters"]["serving"]),
        },
        verdict=_told(verdicts[-1]) if verdicts else None,
        release={"id": released.id, "path": str(released.path), "kind": released.manifest.kind} if released else None,
    )


def _told(stored: StoredVerdict) -> dict[str, str]:
    verdict = stored.verdict
    told = {
        "decision": verdict.decision,
        "because": because(verdict.guards),
        "lacking": missing_traffic(verdict.guards),
    }
    return {**told, "path": str(stored.path)}


def defaulted_share(lake: Lake, surface: Surface, training_set: TrainingSet, of: LabelsOf, inputs: int) -> float:
    """Return the mean share of a teacher's inputs that took the contract's default, over the training set's days."""
    days = [*training_set.train_days, *training_set.eval_days]
    row = lake.connection.execute(
        f"select avg(defaulted_inputs) from lake.ml.soft_labels_{surface.name} "
        "where day between ? and ? and teacher_version = ? and contract_hash = ?",
        [days[0], days[-1], of.version, of.contract_hash],
    ).fetchone()
    return float(row[0]) / inputs if row and row[0] is not None and inputs else 0.0

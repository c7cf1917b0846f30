"""Students: a training set is a query and a snapshot; control and student are trained on it alike."""

import time

import dagster as dg
from pydantic import Field

from assets.names import LAKE_WRITER, OWNER, TRAINING, label_keys, surface_key
from assets.partitions import partition_day, student_partitions, student_window
from assets.progress import ProgressResource
from ml.foundation.settings import Settings
from ml.surfaces.spec import Role, Surface

_FAILS = (
    "**If it fails**: the training set of the day is missing, or training diverged: the message names the step. "
    "Materialize `training_set` and this again, or lower `learning_rate` in the surface's YAML; the champion goes on "
    "serving."
)


class StudentConfig(dg.Config):
    """How one student is trained."""

    seed: int | None = Field(default=None, description="Seed of initialisation; default CROSSFADE_SEED.")


def build_students(settings: Settings, surface: Surface) -> list[dg.AssetsDefinition]:
    """Return ``training_set``, ``control`` and ``student`` of one surface."""
    partitions = student_partitions(settings, surface)
    control = _build_ranker(
        surface,
        partitions,
        "control",
        "The same network, rows, order and seed as the student, without soft labels: "
        f"what distillation is measured against.\n\n{_FAILS}",
    )
    student = _build_ranker(
        surface,
        partitions,
        "student",
        f"The ranker that also learns the teacher's soft labels ({surface.distillation.technique}); the heads that "
        f"learn them never serve.\n\n{_FAILS}",
    )
    return [_build_training_set(settings, surface, partitions), control, student]


def _build_training_set(
    settings: Settings, surface: Surface, partitions: dg.PartitionsDefinition
) -> dg.AssetsDefinition:
    @dg.asset(
        key=surface_key(surface.name, "training_set"),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"duckdb"},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        deps=[
            dg.AssetDep(key, partition_mapping=student_window(surface))
            for key in [surface_key(surface.name, "examples"), *label_keys(settings, surface)]
        ],
        pool=LAKE_WRITER,  # soft labels of links that were withdrawn are dropped
        code_version=surface.digest,
        description=(
            "Which rows the students of a day learn from and are judged on: a query and a lake snapshot, "
            f"{surface.window.train_days} "
            f"days for training and {surface.window.eval_days} after them for evaluation. No rows are copied. "
            "Soft labels of accounts whose link a user withdrew are dropped before.\n\n"
            "**If it fails**: the message names the day that is missing, not final, or has no soft labels."
        ),
    )
    def training_set(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
        from ml.stages.training_set import make_training_set, without_consent

        started = time.monotonic()
        made = make_training_set(settings, surface, partition_day(context))
        withdrawn, learnt = without_consent(settings, made)
        if withdrawn and learnt:
            context.log.warning(f"releases that learnt from links withdrawn since: {', '.join(learnt)}")
        return dg.MaterializeResult(
            metadata={
                "seconds": time.monotonic() - started,
                "rows": made.train_rows + made.eval_rows,
                "train_rows": made.train_rows,
                "eval_rows": made.eval_rows,
                "train_days": f"{made.train_days[0]} to {made.train_days[-1]}",
                "eval_days": f"{made.eval_days[0]} to {made.eval_days[-1]}",
                "lake_snapshot": made.snapshot,
                "teacher_version": ", ".join(" ".join(filter(None, (of.teacher, of.version))) for of in made.labels),
                "soft_labels_withdrawn": withdrawn,
                "releases_that_learnt_from_them": ", ".join(learnt) or "none",
                "query": dg.MetadataValue.md(f"```sql\n{made.query}\n```"),
            },
            data_version=dg.DataVersion(made.content_hash),
        )

    return training_set


def _build_ranker(
    surface: Surface, partitions: dg.PartitionsDefinition, name: Role, description: str
) -> dg.AssetsDefinition:
    @dg.asset(
        key=surface_key(surface.name, name),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"torch"},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        deps=[surface_key(surface.name, "training_set")],
        pool=TRAINING,
        code_version=surface.digest,
        description=description,
    )
    def train_ranker(
        context: dg.AssetExecutionContext,
        config: StudentConfig,
        settings: dg.ResourceParam[Settings],
        progress: ProgressResource,
    ) -> dg.MaterializeResult:
        from ml.stages.training import train_model

        seed = settings.seed if config.seed is None else config.seed
        trained = train_model(
            settings,
            surface,
            partition_day(context),
            name,
            seed=seed,
            run_id=context.run_id,
            progress=progress.of(context),
        )
        return dg.MaterializeResult(
            metadata={
                "path": dg.MetadataValue.path(str(trained.path)),
                "checkpoint_sha256": trained.digest,
                **trained.metrics,
            },
            data_version=dg.DataVersion(trained.digest[:32]),
        )

    return train_ranker

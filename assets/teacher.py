"""The teacher: a frozen model with a contract, pinned by content; in the demo it is trained on the sister's logs."""

import dagster as dg

from assets.names import OWNER, TRAINING, teacher_key
from assets.progress import ProgressResource
from ml.foundation.settings import Settings
from ml.teacher.contract import teacher_contract
from ml.teacher.teachers import contract_named

_DEMO_TEACHER = dg.AssetKey(["teacher_training", "demo_teacher"])


def build_teacher(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the asset ``teacher``, or one of each of several; the demo teacher before it where it is trained here."""
    if settings.trains_demo_teacher:
        return [_build_demo_teacher(), _build_pinned_teacher(None, [_DEMO_TEACHER])]
    return [_build_pinned_teacher(name, []) for name in settings.teachers or [None]]


def _build_demo_teacher() -> dg.AssetsDefinition:
    @dg.asset(
        key=_DEMO_TEACHER,
        group_name="teacher",
        owners=[OWNER],
        kinds={"torch", "onnx"},
        deps=[dg.AssetKey(["features", "source_examples"])],
        pool=TRAINING,
    )
    def demo_teacher(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings], progress: ProgressResource
    ) -> dg.MaterializeResult:
        """A multi-task ranker trained on the sister platform's logs only, up to `teacher_trained_through`, then frozen.

        It never sees an event of the app. It stands in for a foreign teacher: to use your own, set
        `CROSSFADE_TEACHER` to its `contract.yaml`, and this asset leaves the graph.

        **If it fails**: the message names the setting or the day of source logs that is missing; an earlier teacher
        stays as it is.
        """
        from ml.lab.demo_teacher import read_card, train_demo_teacher

        if settings.teacher_trained_through is None:
            raise ValueError("set CROSSFADE_TEACHER_TRAINED_THROUGH to the last source day to learn from")
        assert settings.teacher is not None
        teacher = train_demo_teacher(
            settings,
            settings.teacher_trained_through,
            settings.teacher.parent,
            settings.seed,
            progress=progress.of(context),
        )
        card = read_card(teacher_contract(settings))
        return dg.MaterializeResult(
            metadata={
                "rows": card["rows"],
                "parameters": teacher.parameters or 0,
                "trained_through": str(teacher.trained_through),
                "validation": dg.MetadataValue.json(card["validation"]),
                "contract": dg.MetadataValue.path(str(settings.teacher)),
            },
            data_version=dg.DataVersion(teacher.contract_hash),
        )

    return demo_teacher


def _build_pinned_teacher(name: str | None, deps: list[dg.AssetKey]) -> dg.AssetsDefinition:
    @dg.asset(
        key=teacher_key(name),
        group_name="teacher",
        owners=[OWNER],
        kinds={"onnx"},
        deps=deps,
        # Has no partitions, but without it a range of days and its teacher are no single run.
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def teacher(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
        """The pinned teacher: its contract is valid and its model answers; the data version is its content hash.

        **If it fails**: the message names the input, output or file of the contract that is wrong; nothing is labelled.
        """
        from ml.teacher.runtime import validate

        contract = contract_named(settings, name)
        validate(contract)
        table = "| input | dtype | shape | default | meaning |\n|---|---|---|---|---|\n" + "\n".join(
            f"| {i.name} | {i.dtype} | {list(i.shape)} | {i.default} | {i.meaning} |" for i in contract.inputs
        )
        return dg.MaterializeResult(
            metadata={
                "name": contract.name,
                "version": contract.version,
                "trained_through": str(contract.trained_through),
                "outputs": ", ".join(f"{output.task} ({output.kind})" for output in contract.outputs),
                "inputs": dg.MetadataValue.md(table),
                "contract": dg.MetadataValue.path(str(settings.teacher if name is None else settings.teachers[name])),
            },
            data_version=dg.DataVersion(contract.contract_hash),
        )

    return teacher

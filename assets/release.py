"""Export and release: the candidate becomes an ONNX model, and serving only if its verdict says so."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from assets.names import OWNER, release_page, surface_key
from assets.partitions import partition_day, student_partitions
from ml.foundation.settings import Settings
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.store import ReleaseStore
from ml.stages.release import promote_candidate
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    from ml.releases.champions import Pointer


def build_release(settings: Settings, surface: Surface) -> list[dg.AssetsDefinition]:
    """Return ``onnx`` and ``release`` of one surface."""
    partitions = student_partitions(settings, surface)
    return [_build_onnx(surface, partitions), _build_promotion(surface, partitions)]


def _build_onnx(surface: Surface, partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        key=surface_key(surface.name, "onnx"),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"onnx"},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        deps=[surface_key(surface.name, name) for name in ("evaluation", "control", "student")],
        code_version=surface.digest,
        description=(
            f"The candidate of {surface.name}: raw columns in, one output per task and the ranking score out, no "
            "distillation head. The gate is the set of checks on this asset.\n\n"
            "**If it fails**: a failed check has value and threshold in its table, and the champion goes on serving; "
            "an export that fails names the operator or the missing evaluation."
        ),
    )
    def onnx(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
        from ml.stages.candidate import export_candidate

        started = time.monotonic()
        exported = export_candidate(settings, surface, partition_day(context), run_id=context.run_id)
        return dg.MaterializeResult(
            metadata={
                "seconds": time.monotonic() - started,
                "path": dg.MetadataValue.path(str(exported.path)),
                "candidate": exported.kind,
                "bytes": exported.bytes,
                "parameters": exported.parameters,
                "operators": dg.MetadataValue.json(exported.operators),
                "manifest": dg.MetadataValue.json(exported.manifest),
            },
            data_version=dg.DataVersion(exported.digest[:32]),
        )

    return onnx


def _build_promotion(surface: Surface, partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        key=surface_key(surface.name, "release"),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"onnx"},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        deps=[surface_key(surface.name, "onnx")],
        output_required=False,
        description=(
            f"The champion of {surface.name}. Promotion reads the verdict about exactly these bytes again, and refuses "
            "without one, whoever asks.\n\n**If it fails**: promotion was refused, the message has the reason; see the "
            "checks of `onnx`. The champion goes on serving. Where a person has to approve it, the run ends without a "
            "release, and `approve_job` makes it one."
        ),
    )
    def release(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> Iterator[dg.MaterializeResult]:
        try:
            released = promote_candidate(settings, surface, partition_day(context), by=f"dagster run {context.run_id}")
        except PromotionRefused as refused:
            if refused.code is not Refusal.NOT_APPROVED:
                raise
            context.log.warning(f"nothing was promoted: {refused}")
            return
        history = ReleaseStore.of(settings).history(surface.name)
        yield dg.MaterializeResult(
            metadata={
                "release": released.id,
                "page": dg.MetadataValue.url(release_page(surface.name, released.id)),
                "path": dg.MetadataValue.path(str(released.path)),
                "model_card": dg.MetadataValue.path(str(released.path / "model_card.html")),
                "previous": released.previous or "none",
                "champions": sum(entry.moves for entry in history),
                "history": dg.MetadataValue.md(champion_history(history)),
            },
            data_version=dg.DataVersion(released.digest[:32]),
        )

    return release


def champion_history(entries: "Sequence[Pointer]", newest: int = 20) -> str:
    """Return the last entries of a champion log that changed what serves, as Markdown, newest first."""
    moves = [entry for entry in entries if entry.moves][-newest:]
    rows = [
        f"| {e.at:%Y-%m-%d %H:%M} | {e.release} | {e.action} | {e.by} | {e.reason.replace('|', ' ')} |"
        for e in reversed(moves)
    ]
    return "\n".join(["| at (UTC) | release | action | by | reason |", "|---|---|---|---|---|", *rows])

"""Studies: whether distillation helps, over simulated worlds, seeds and placebos."""

from pathlib import Path

import dagster as dg

from assets.names import OWNER, STUDY_GROUP, TRAINING
from assets.progress import ProgressResource
from ml.foundation.documents import digest
from ml.foundation.progress import Step
from ml.foundation.settings import Settings
from ml.lab.study.design import DESIGNS_FILE, design_names, load_design


def build_study(designs: Path = DESIGNS_FILE) -> dg.AssetsDefinition:
    """Return the asset ``study``, a partition per study of a file."""

    @dg.asset(
        group_name=STUDY_GROUP,
        owners=[OWNER],
        kinds={"python", "duckdb"},
        partitions_def=dg.StaticPartitionsDefinition(design_names(designs)),
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        pool=TRAINING,
        description=(
            "Trains every variant of a study in every world that it names and compares it with the control of its "
            "world and seed. Trials that the lake holds are not repeated; the worlds are its own, no data of this "
            "instance directory is read.\n\n"
            "**If it fails**: the message names the world; materialize the partition again, finished trials stay."
        ),
    )
    def study(
        context: dg.AssetExecutionContext,
        settings: dg.ResourceParam[Settings],
        progress: ProgressResource,
    ) -> dg.MaterializeResult:
        from ml.evaluation.plots import markdown_image
        from ml.lab.study.analysis import levels, lifts
        from ml.lab.study.report import findings, plots_of, study_rows
        from ml.lab.study.run import TRIALS_TABLE, run_study

        design, say = load_design(context.partition_key, designs), progress.of(context)
        trials = run_study(
            settings, design, report=lambda p: say(Step(f"study {design.name}", p.done, p.total, note=p.what))
        )
        rows = study_rows(settings, design)
        table = lifts(rows, design)
        found = [f"| {f.claim} | {f.verdict} | {f.evidence} |" for f in findings(table, levels(rows))]
        return dg.MaterializeResult(
            metadata={
                "findings": dg.MetadataValue.md("\n".join(["| claim | here | evidence |", "|---|---|---|", *found])),
                **{k: dg.MetadataValue.md(markdown_image(png, k)) for k, png in plots_of(table, design).items()},
                "trials": len(trials),
                "dagster/table_name": f"lake.{TRIALS_TABLE}",
            },
            data_version=dg.DataVersion(digest(trials)),
        )

    return study

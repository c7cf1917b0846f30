"""``crossfade experiment``: control and student serve simulated users side by side, over HTTP."""

import time
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.shared import TablesAsJson
from deploy.cli.terminal import minutes, note, say, show_table
from ml.foundation.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Let control and student serve simulated users side by side, over HTTP.")

Name = Annotated[str, typer.Argument(help="Experiment of ml/lab/live/designs.yaml: quick, live or aa.")]

_REPEAT_S = 30.0
"""Seconds between two lines about the same day of a world."""


@app.command("run")
def run(
    name: Name = "quick",
    workers: Annotated[int | None, typer.Option(help="Worlds at a time; default one per core.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do and cost.")] = False,
) -> None:
    """Run what is missing of an experiment. Stop it at any time: a rerun repeats only what was under way."""
    from deploy.serving.variants import serving_variants
    from ml.lab.live.design import load_design
    from ml.lab.live.run import Progress, plan, run_experiment
    from ml.lab.study.worlds import worlds_dir

    settings, design = Settings(), load_design(name)
    cost = plan(settings, design, workers)
    (say if dry_run else note)(
        f"experiment {name}: {' and '.join(design.surfaces)} in {cost.worlds} worlds, {cost.worlds_to_make} of them to "
        f"be made in {worlds_dir(settings)}; about {cost.requests:,} requests per variant, world and surface, "
        f"{cost.calls:,} over HTTP in all; about {minutes(cost.seconds)} on {cost.workers} processes if none is done"
    )
    if dry_run:
        return

    shown: dict[str, float] = {}

    def report(progress: Progress) -> None:
        if time.monotonic() - shown.get(progress.what, -_REPEAT_S) < _REPEAT_S:
            return
        shown[progress.what] = time.monotonic()
        left = "" if progress.seconds_left is None else f", about {minutes(progress.seconds_left)} left"
        note(f"  {progress.done:,} of {progress.total:,}{left}: {progress.what}")

    run_experiment(settings, design, serving_variants, workers=workers, report=report)
    show(name)


@app.command("show")
def show(name: Name = "quick", as_json: TablesAsJson = False) -> None:
    """Print the table of an experiment from the rows in the lake."""
    from ml.experiments.analysis import effects
    from ml.lab.live.design import load_design
    from ml.lab.live.run import experiment_rows

    design = load_design(name)
    rows = [
        {
            "surface": effect.surface,
            "estimate": effect.estimate,
            "metric": effect.metric,
            "variant": effect.variant,
            "per request": f"{effect.level:.4g}",
            "lift": f"{100 * effect.lift.estimate:+.2f}",
            "95 % interval": f"{100 * effect.lift.lo:+.2f} to {100 * effect.lift.hi:+.2f}",
            "p": f"{effect.lift.p:.3f}" if effect.lift.p == effect.lift.p else "",
            "worlds above 0": f"{effect.lift.above} of {effect.lift.worlds}",
        }
        for effect in effects(experiment_rows(Settings(), design), design.baseline)
    ]
    show_table(f"experiment {name}: difference to {design.baseline}, %", rows)


@app.command("report")
def report(
    name: Name = "live",
    aa: Annotated[str, typer.Option(help="Experiment with the control in both variants, to stand beside it.")] = "aa",
    out: Annotated[Path, typer.Option(help="Markdown file; plots and an HTML page go beside it.")] = Path(
        "docs/results/live.md"
    ),
) -> None:
    """Write the report of an experiment: the paper's online table beside ours, days, and the A/A run."""
    from ml.lab.live.report import write_report

    for path in write_report(Settings(), name, aa, out):
        say(f"wrote {path}")

"""``crossfade study``: what distillation does, over worlds and seeds, beside its placebos."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.shared import TablesAsJson
from deploy.cli.terminal import minutes, note, say, show_table
from ml.foundation.settings import Settings
from ml.lab.study.design import load_design

if TYPE_CHECKING:
    from ml.lab.study.analysis import Lift

app = typer.Typer(no_args_is_help=True, help="Test what distillation does over worlds and seeds, beside its placebos.")

Name = Annotated[
    str,
    typer.Argument(help="A study of designs.yaml, such as quick, headline, full, sweeps or kuairand."),
]


@app.command("run")
def run(
    name: Name = "quick",
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do and cost.")] = False,
) -> None:
    """Run what is missing of a study. Stop it at any time: finished trials stay in the lake, a rerun goes on."""
    from ml.lab.study.run import Progress, plan, run_study
    from ml.lab.study.worlds import worlds_dir

    settings, design = Settings(), load_design(name)
    cost = plan(settings, design, workers)
    (say if dry_run else note)(
        f"study {name}: {cost.trials} trials in {cost.worlds} worlds, {cost.worlds_to_make} of them to be made in "
        f"{worlds_dir(settings)}; about {minutes(cost.seconds)} on {cost.workers} processes if no trial is done yet"
    )
    if dry_run:
        return

    def report(progress: Progress) -> None:
        left = "" if progress.seconds_left is None else f", about {minutes(progress.seconds_left)} left"
        note(f"  {progress.done} of {progress.total}{left}: {progress.what}")

    run_study(settings, design, workers=workers, report=report)
    show(name)


@app.command("show")
def show(name: Name = "quick", as_json: TablesAsJson = False) -> None:
    """Print the table of a study from the trials in the lake."""
    from ml.lab.study.analysis import lifts
    from ml.lab.study.report import study_rows

    design = load_design(name)
    table = lifts(study_rows(Settings(), design), design)
    claims = [
        _row(lift, lift.corrected.lo, lift.corrected.hi)
        | {"p (Holm)": f"{lift.corrected.p:.3f}", "claim": "shown" if lift.shown else "not shown"}
        for lift in table
        if lift.corrected
    ]
    numbers = ("control", "difference", "p (Holm)", "above 0")
    show_table(f"study {name}: student over control, corrected among these, x100 (AUC, R2)", claims, right=numbers)
    rest = [_row(lift, lift.lo, lift.hi) for lift in table if not lift.corrected]
    show_table(f"study {name}: exploratory, each row alone, x100 (AUC, R2)", rest, right=numbers)


def _row(lift: "Lift", lo: float, hi: float) -> dict[str, str]:
    """Return the cells of one difference."""
    place = [lift.surface, lift.task, *([] if lift.slice == "all" else [lift.slice.replace("_", " ")])]
    return {
        "task": " ".join(place) + (f", {lift.condition}" if lift.condition else ""),
        "variant": f"{lift.variant} (placebo)" if lift.placebo else lift.variant,
        "control": f"{100 * lift.base:.2f}",
        "difference": f"{100 * lift.lift:+.2f} [{100 * lo:+.2f}, {100 * hi:+.2f}]",
        "above 0": f"{lift.above} of {lift.worlds}",
    }


@app.command("report")
def report(
    name: Name = "demo",
    out: Annotated[
        Path | None,
        typer.Option(help="Markdown file, default docs/results/NAME.md; plots and an HTML page go beside it."),
    ] = None,
) -> None:
    """Write the report of a study: tables beside the paper's, forest plots, what did not reproduce."""
    from ml.lab.study.report import write_report

    for path in write_report(Settings(), load_design(name), out or Path("docs/results") / f"{name}.md"):
        say(f"wrote {path}")


@app.command("spread")
def spread(name: Name = "spread", as_json: TablesAsJson = False) -> None:
    """Print what the initialisation alone moves in a finished study, and keep it for the demo to show."""
    from ml.lab.study.report import study_rows
    from ml.lab.study.spread import SPREAD_FILE, keep_spreads, spreads

    design = load_design(name)
    found = spreads(study_rows(Settings(), design), design)
    table = [
        {
            "task": f"{surface} {task}, {spread.metric.upper()}",
            "deviation": f"{100 * spread.deviation:.2f}",
            "of": f"{spread.worlds} worlds x {spread.seeds} initialisations",
        }
        for surface, tasks in found.items()
        for task, spread in tasks.items()
    ]
    show_table(
        f"student less control between initialisations of a world, study {name}, x100", table, right=("deviation",)
    )
    keep_spreads(design.preset, found)
    note(f"kept as preset {design.preset} in {SPREAD_FILE}")


@app.command("diagnose")
def diagnose(
    name: Name = "kuairand",
    seeds: Annotated[int, typer.Option(help="Initialisations of a diagnosis.", min=1)] = 4,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.", min=1)] = None,
    out: Annotated[Path, typer.Option(help="Markdown file; a plot and an HTML page go beside it.")] = Path(
        "docs/results/diagnosis.md"
    ),
    as_json: TablesAsJson = False,
) -> None:
    """Diagnose every world of a finished study, and compare with what the study found later."""
    from ml.lab.study.foretelling import error_rates, foretell, write_foretelling

    settings, design = Settings(), load_design(name)
    table = foretell(
        settings,
        design,
        seeds=seeds,
        workers=workers or os.cpu_count() or 1,
        report=lambda p: note(f"  {p.done} of {p.total}: {p.what}"),
    )
    rates = [
        {
            "what": rate.what,
            "how often": f"{rate.errors} of {rate.of}",
            "share": f"{100 * rate.errors / rate.of:.0f} % [{100 * rate.lo:.0f}, {100 * rate.hi:.0f}]"
            if rate.of
            else "",
        }
        for rate in error_rates(table)
    ]
    show_table(
        f"error rates of the diagnosis on study {name}, exact 95 % intervals", rates, right=("how often", "share")
    )
    for path in write_foretelling(table, design, seeds, out):
        say(f"wrote {path}")

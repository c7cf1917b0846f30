"""``crossfade experiment``: plan and read experiments of landed days, and run simulated ones over HTTP."""

import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deploy.cli.shared import Surface, TablesAsJson, day_of, home_settings, surface_named
from deploy.cli.terminal import minutes, note, say, show_table
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings

if TYPE_CHECKING:
    from ml.surfaces.spec import Surface as Spec

app = typer.Typer(
    no_args_is_help=True, help="Plan and read experiments of landed days; run simulated ones side by side, over HTTP."
)

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


Through = Annotated[str | None, typer.Option("--through", help="Last landed day that counts; the last by default.")]


@app.command("plan")
def plan_landed(
    surface: Surface,
    figure: Annotated[
        Literal["engagement", "discovery", "new_releases"], typer.Option(help="Figure that decides.")
    ] = "engagement",
    lift: Annotated[
        float | None,
        typer.Option(help="Relative difference to find; `experiment: expected_lift` of the surface by default.", min=0),
    ] = None,
    through: Through = None,
    as_json: TablesAsJson = False,
) -> None:
    """Say what an experiment would find after how many days, and how often it would cry wolf, from landed days."""
    from ml.experiments.plan import AA_RUNS, LONGEST, plan

    settings = home_settings()
    spec = surface_named(settings, surface)
    with Lake(settings) as lake:
        found = plan(lake, spec, _last_day(lake, spec, through), figure, lift or spec.experiment.expected_lift)
    shown = [h for h in found.horizons if h.users is not None or h.days % 7 == 0]
    rows = [
        {
            "days": h.days,
            "users": "" if h.users is None else f"{h.users:,}",
            "one look": _percent(h.once),
            "daily looks": _percent(h.daily),
            "one look, history": _percent(h.once_before),
            "daily looks, history": _percent(h.daily_before),
        }
        for h in shown
    ]
    show_table(f"{surface}, {figure}: difference found with 80 % power, %, users split evenly", rows)
    needed = {
        "one look": found.days_needed(lambda h: h.once_before),
        "daily looks": found.days_needed(lambda h: h.daily_before),
    }
    told = ", ".join(f"{name} {k or f'more than {LONGEST}'}" for name, k in needed.items())
    note(
        f"days until {found.expected:.1%} are found, with {found.history_days} days of history: {told}; "
        f"days without users are extrapolated from {len(found.days)} landed ones"
    )
    note(
        f"A/A: of {AA_RUNS} random splits of these users over {len(found.days)} days, {found.false_alarms} "
        f"({found.false_alarms / AA_RUNS:.1%}) found a difference on some day; at most 5 % should"
    )


@app.command("look")
def look(surface: Surface, through: Through = None, as_json: TablesAsJson = False) -> None:
    """Show what the landed experiment of a surface says on each day since its start; look as often as you like."""
    from ml.experiments.landed import look_landed

    settings = home_settings()
    spec = surface_named(settings, surface)
    with Lake(settings) as lake:
        day = _last_day(lake, spec, through)
        looks = look_landed(lake, spec, day)
    if looks is None:
        raise ValueError(
            f"{surface}: fewer than two variants are recorded on {day}; the landed column `arm` names them, and the "
            f"asset {surface}/experiment records them"
        )
    if looks.ratio:
        note(str(looks.ratio))
        if looks.ratio.refused:
            raise typer.Exit(1)
    rows = [
        {
            "day": str(k.day),
            "variant": k.variant,
            "figure": k.metric,
            "users": f"{k.users:,}",
            "lift": f"{100 * k.lift.relative:+.2f}",
            "95 % at every look": f"{100 * k.lo:+.2f} to {100 * k.hi:+.2f}",
            "variance left": f"{k.variance_left:.2f}",
            "decided": "yes" if k.decided else "",
        }
        for k in looks.looks
    ]
    show_table(f"{surface}, since {looks.days[0]}: difference to {looks.baseline}, %", rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share <= 1 else "over 100"


def _last_day(lake: "Lake", spec: "Spec", through: str | None) -> date:
    """Return the day that was named, or the last one with final examples."""
    from ml.evaluation.rows import newest_day

    if through is not None:
        return day_of(lake.settings, through, "--through")
    if (last := newest_day(lake, spec)) is None:
        raise ValueError(f"{spec.name} has no final examples here; land days and build them: `crossfade land`")
    return last


@app.command("rates")
def rates(
    quick: Annotated[bool, typer.Option("--quick", help="A twentieth of the runs, of a smaller app.")] = False,
    runs: Annotated[int, typer.Option(help="Simulated experiments of each true difference.", min=10)] = 200,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file; a page in HTML and the plot are written beside it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 1,
    as_json: TablesAsJson = False,
) -> None:
    """Simulate experiments with and without a difference, looked at daily: false alarms, power and days.

    The last line is the greatest share of false alarms among what one may look at daily.
    """
    from ml.experiments.rates import METHODS, App, rates, write_rates

    small = App(users=800, days=10, history_days=10) if quick else App()
    count = max(10, runs // 20) if quick else runs
    found = rates((0.0, 0.05, 0.1), count, small, seed, note)
    rows = [
        {
            "method": METHODS[rate.method],
            "true lift": f"{rate.lift:.0%}",
            "decided, %": f"{100 * rate.share:.1f}",
            "half decided by day": "" if rate.days is None else rate.days,
            "wrong sign": rate.wrong if rate.lift else "",
        }
        for rate in found
    ]
    show_table(f"experiments with daily looks, {count} of each true lift, {small.days} days", rows)
    if out is not None:
        command = f"crossfade experiment rates{' --quick' if quick else ''} --runs {runs} --seed {seed} --out {out}"
        note("written: " + ", ".join(map(str, write_rates(found, small, command, out))))
    false = [rate.share for rate in found if not rate.lift and rate.method in ("daily", "history", "interleaved")]
    say(f"false alarms {max(false):.3f}")

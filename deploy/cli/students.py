"""Before a release: tune the control, and tell whether distilling helps."""

from datetime import date
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.shared import Surface, surface_named
from deploy.cli.terminal import note, reporter, say, show_table
from ml.foundation.settings import Settings

if TYPE_CHECKING:
    from ml.evaluation.bootstrap import Interval
    from ml.evaluation.transfer import Ratio


def tune(
    surface: Surface,
    partition: Annotated[str, typer.Option(help="Day of the student; its validation days judge.")],
    trials: Annotated[int, typer.Option(help="Settings to try.")] = 20,
) -> None:
    """Tune the control on validation days and print the best setting as lines for the surface's YAML.

    Evaluation days are never read. What was tried goes to stderr.
    """
    from ml.stages.training import tune_control
    from ml.students.tune import as_yaml

    settings = Settings()
    spec = surface_named(settings, surface)
    found = tune_control(settings, spec, date.fromisoformat(partition), trials=trials, progress=reporter())
    show_table(f"control of {surface}, best first", [trial.row() for trial in found], result=False)
    typer.echo(f"# {surface}, tuned on the validation days of {partition}: the best of {trials} settings")
    typer.echo(as_yaml(spec, found[0]), nl=False)


def diagnose_surface(
    surface: Surface,
    partition: Annotated[str, typer.Option(help="Day of the student; its validation days judge.")],
    seeds: Annotated[int, typer.Option(help="Initialisations.", min=1)] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file; default $CROSSFADE_HOME/reports/diagnosis_<surface>.md.")
    ] = None,
) -> None:
    """Tell before a release whether distilling helps a surface. Evaluation days are never read."""
    from ml.evaluation.diagnosis import MEANING, diagnose, write_diagnosis
    from ml.stages.training_set import read_training_set

    settings = Settings()
    spec = surface_named(settings, surface)
    training_set = read_training_set(settings, spec, date.fromisoformat(partition))
    found = diagnose(settings, training_set, spec, seeds=seeds, progress=reporter())
    rows = [
        {
            "task": f"{task.task} {task.metric.upper()}",
            "stacked": _gain(task.stacked),
            "student": _gain(task.student),
            "kept": _share(task.kept),
            "shuffled": _gain(task.shuffled),
            "judgement": task.judgement,
        }
        for task in found.tasks
    ]
    show_table(f"gain over the control of {surface} on its validation days, x100", rows)
    slices = [
        {
            "task": f"{task.task} {task.metric.upper()}",
            "users": part.name.replace("_", " "),
            "training rows": part.history,
            "student": _gain(part.student),
        }
        for task in found.tasks
        for part in task.slices
    ]
    show_table("gain by how many training rows the user has, x100", slices)
    for judgement, meaning in MEANING.items():
        if any(task.judgement == judgement for task in found.tasks):
            say(f"{judgement}: {meaning}")
    say(found.advice, style="bold")
    pages = write_diagnosis(found, out or settings.reports_dir / f"diagnosis_{surface}.md")
    note(f"read {pages[1]}")


def _share(ratio: "Ratio | None") -> str | None:
    if ratio is None or isnan(ratio.lo):
        return None
    return f"{100 * ratio.estimate:.0f} % [{100 * ratio.lo:.0f}, {100 * ratio.hi:.0f}]"


def _gain(gain: "Interval | None") -> str | None:
    return None if gain is None else f"{100 * gain.estimate:+.2f} [{100 * gain.lo:+.2f}, {100 * gain.hi:+.2f}]"

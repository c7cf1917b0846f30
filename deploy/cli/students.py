"""Before a release: tune control and student, and tell whether distilling helps."""

import difflib
import json
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.shared import Surface, TablesAsJson, day_of, home_settings, surface_named
from deploy.cli.terminal import note, reporter, say, show_table
from ml.surfaces.edit import changed, changes
from ml.surfaces.files import load_surface, surface_file

if TYPE_CHECKING:
    from ml.evaluation.bootstrap import Interval
    from ml.evaluation.transfer import Ratio


def tune(
    surface: Surface,
    partition: Annotated[str, typer.Option(help="Day of the student; its validation days judge.")],
    minutes: Annotated[float, typer.Option(help="Minutes of training in all, of earlier runs too.", min=0)] = 10.0,
    settings_of_each: Annotated[
        int, typer.Option("--settings", help="Settings to try at most, of control and student each.", min=1)
    ] = 12,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change no file; print what would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print choice and trials as JSON.")] = False,
) -> None:
    """Tune the control, then technique and weights of its student, and write what is better into the surface's YAML.

    Validation days judge; evaluation days are never read. The control is trained without a teacher: learning rates,
    decay, passes, size of ids and layers. The student keeps these. What stands in the file stays unless another is
    better by more than its standard error. A killed run goes on where it was, and more minutes go on from there.
    """
    from ml.stages.training import tune_surface
    from ml.students.tune import Budget

    settings = home_settings()
    spec = surface_named(settings, surface)
    budget = Budget(60 * minutes, settings_of_each)
    tuned = tune_surface(settings, spec, day_of(settings, partition), budget=budget, progress=reporter())
    path = surface_file(settings, surface)
    old = path.read_bytes().decode()
    new = changed(old, changes(spec, tuned.surface))
    if load_surface(path, new) != tuned.surface:
        raise ValueError(
            f"{path}: these keys cannot be changed one by one; write them yourself: {changes(spec, tuned.surface)}"
        )
    if as_json:
        typer.echo(json.dumps(tuned.to_json() | {"changes": _diff(path, old, new)}))
    else:
        for stage in ("control", "student"):
            rows = [row for row in tuned.rows() if row["stage"] == stage]
            if rows:
                show_table(f"{stage} of {surface} on the validation days of {partition}, best first", rows)
        for line in tuned.lines():
            say(line, style="bold")
        typer.echo(_diff(path, old, new), nl=False)
    if new != old and not dry_run:
        path.write_bytes(new.encode())
        note(f"wrote {path}; next: `crossfade diagnose {surface} --partition {partition}`")


def _diff(path: Path, old: str, new: str) -> str:
    before, after = (text.splitlines(keepends=True) for text in (old, new))
    return "".join(difflib.unified_diff(before, after, str(path), str(path), n=1))


def diagnose_surface(
    surface: Surface,
    partition: Annotated[str, typer.Option(help="Day of the student; its validation days judge.")],
    seeds: Annotated[int, typer.Option(help="Initialisations.", min=1)] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file; default $CROSSFADE_HOME/reports/diagnosis_<surface>.md.")
    ] = None,
    as_json: TablesAsJson = False,
) -> None:
    """Tell before a release whether distilling helps a surface. Evaluation days are never read."""
    from ml.evaluation.diagnosis import MEANING, diagnose, write_diagnosis
    from ml.stages.training_set import read_training_set

    settings = home_settings()
    spec = surface_named(settings, surface)
    training_set = read_training_set(settings, spec, day_of(settings, partition))
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
    parts = [
        {
            "output": part.output,
            "deviation": part.deviation,
            **{name: f"{100 * getattr(part, name):.0f} %" for name in ("user", "item", "pair", "kept")},
            "advice": part.advice,
        }
        for part in found.teacher
    ]
    if parts:
        show_table("what the teacher's logits differ by: shares of their variance, and what centring keeps", parts)
    for warning in found.warnings:
        say(f"warning: {warning}")
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

"""Does the transfer diagnosis foretell? What it says of validation days, beside the lift on evaluation days later."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter
from scipy.stats import binomtest, spearmanr

from ml.evaluation.bootstrap import CONFIDENCE
from ml.evaluation.diagnosis import TaskDiagnosis, diagnose
from ml.evaluation.page import write_pages
from ml.evaluation.plots import SERIES, finish, panels
from ml.evaluation.results import ALL
from ml.foundation.code import code_hash
from ml.foundation.documents import digest
from ml.foundation.files import Files
from ml.foundation.settings import Settings
from ml.lab.study.analysis import Lift, lifts
from ml.lab.study.design import CONTROL, STUDENT, Design, Trial, World
from ml.lab.study.pool import Messages, Progress, run_worlds
from ml.lab.study.report import study_rows
from ml.lab.study.trials import Bench
from ml.lab.study.worlds import prepare_teacher, world_settings
from ml.students.dataset import TrainingSet
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface

_TEMPLATE = Path(__file__).with_name("foretelling.md.j2")
_CODE = ("ml/students", "ml/distillation", "ml/evaluation")
"""Code between rows and judgements."""


@dataclass(frozen=True)
class Foretold:
    """One task of one surface of one world.

    Attributes:
        world: Folder name of the world.
        condition: Label of the study's condition.
        surface: Name of the surface.
        diagnosis: Of the validation days.
        lift: Student - control on the evaluation days after them, in the study.
    """

    world: str
    condition: str
    surface: str
    diagnosis: TaskDiagnosis
    lift: Lift


def foretell(
    settings: Settings,
    design: Design,
    *,
    seeds: int,
    workers: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[Foretold]:
    """Diagnose every world and teacher of a finished study; a rerun takes what an earlier one found.

    Args:
        settings: The home of the study.
        design: The study; conditions that change rankers rather than worlds or teachers are left out.
        seeds: Initialisations of a diagnosis.
        workers: Processes.
        report: Told after each surface.

    Raises:
        NoTrials: The study was not run to its end here.
    """
    rows = study_rows(settings, design)
    places: dict[World, dict[Trial, None]] = {}
    for trial in design.trials():
        own = trial.condition.model_dump(include={"volume", "capacity", "weight"})
        if trial.variant.name == STUDENT and all(value == 1 for value in own.values()):
            places.setdefault(trial.world, {}).setdefault(_first_seed(trial), None)
    total = sum(map(len, places.values()))
    found: list[tuple[Trial, tuple[TaskDiagnosis, ...]]] = []

    def hear(message: tuple[Trial, tuple[TaskDiagnosis, ...]]) -> None:
        found.append(message)
        trial, _ = message
        report(Progress(f"{trial.world.name} {trial.surface} {trial.condition.label}", len(found), total, None))

    jobs = {world: (settings, tuple(trials), seeds) for world, trials in places.items()}
    run_worlds(_diagnose, jobs, workers, hear, lambda reason: report(Progress(reason, len(found), total, None)))
    table: list[Foretold] = []
    for trial, tasks in sorted(found, key=lambda item: (item[0].condition.label, item[0].world.name, item[0].surface)):
        mine = {lift.task: lift for lift in lifts(_of(rows, trial), design) if lift.variant == STUDENT}
        table += [
            Foretold(trial.world.name, trial.condition.label, trial.surface, task, mine[task.task])
            for task in tasks
            if task.task in mine
        ]
    return table


@dataclass(frozen=True)
class ErrorRate:
    """How often the diagnosis said what did not come.

    Attributes:
        what: What counts as an error, and of what.
        errors: How many.
        of: Of how many.
        lo: Lower end of the exact 95 % interval of their share; NaN of none.
        hi: Upper end.
    """

    what: str
    errors: int
    of: int
    lo: float
    hi: float


def error_rates(table: list[Foretold]) -> list[ErrorRate]:
    """Return how often the diagnosis erred, task by task, to either side; and how often it gave no advice."""
    promised = [x for x in table if x.diagnosis.judgement == "helps"]
    warned = [x for x in table if x.diagnosis.judgement in ("nothing to learn", "hurts")]
    unshared = [x for x in table if x.condition == "shared_taste 0"]
    counts = {
        "said `helps`, and the lift later is not above 0": (promised, lambda x: x.lift.lift <= 0),
        "said `helps`, and the lift later lies below 0 with its interval": (promised, lambda x: x.lift.hi < 0),
        "said `nothing to learn` or `hurts`, and the lift later lies above 0 with its interval": (
            warned,
            lambda x: x.lift.lo > 0,
        ),
        "nothing is shared, and it said `helps`": (unshared, lambda x: x.diagnosis.judgement == "helps"),
        "nothing is shared, and it said `promising`": (unshared, lambda x: x.diagnosis.judgement == "promising"),
        "gave no advice, since the control is not tuned": (table, lambda x: x.diagnosis.untuned != ""),
        "could not tell, since there are too few rows": (table, lambda x: x.diagnosis.judgement == "too few rows"),
    }
    found: list[ErrorRate] = []
    for what, (among, is_error) in counts.items():
        errors = sum(map(is_error, among))
        ends = binomtest(errors, len(among)).proportion_ci(CONFIDENCE) if among else (float("nan"), float("nan"))
        found.append(ErrorRate(what, errors, len(among), float(ends[0]), float(ends[1])))
    return found


def write_foretelling(table: list[Foretold], design: Design, seeds: int, out: Path) -> list[Path]:
    """Write the comparison, of diagnoses with ``seeds`` initialisations: Markdown, HTML and plot; return the files."""
    gains = {
        "student's gain": [x.diagnosis.student.estimate for x in table],
        "stacked gain": [x.diagnosis.stacked.estimate if x.diagnosis.stacked else np.nan for x in table],
    }
    later = [x.lift.lift for x in table]
    ranks = {name: float(np.asarray(spearmanr(values, later, nan_policy="omit"))[0]) for name, values in gains.items()}
    outcomes: dict[str, list[Foretold]] = {}
    for x in table:
        outcomes.setdefault(x.diagnosis.judgement, []).append(x)
    facts = {
        "design": design,
        "seeds": seeds,
        "table": table,
        "ranks": ranks,
        "outcomes": outcomes,
        "rates": error_rates(table),
    }
    return write_pages(_TEMPLATE, facts, {"gains": _scatter(table)}, out, "Crossfade: does the diagnosis foretell?")


def _first_seed(trial: Trial) -> Trial:
    return Trial(trial.world, trial.surface, trial.variant, 0, trial.condition)


def _of(rows: pa.Table, trial: Trial) -> pa.Table:
    """Return the rows of control and student of a trial's world, surface and condition, on all rows."""
    wanted = {"world": trial.world.seed, "surface": trial.surface, "condition": trial.condition.label, "slice": ALL}
    keep = pc.field("arm").isin([CONTROL, STUDENT])
    for name, value in wanted.items():
        keep &= pc.field(name) == value
    return rows.filter(keep)


def _diagnose(settings: Settings, trials: tuple[Trial, ...], seeds: int, messages: Messages) -> None:
    for trial in trials:
        made = world_settings(settings, trial.world)
        surface = load_surfaces(made)[trial.surface]
        bench = Bench(made, surface, prepare_teacher(made, trial.world, trial.teacher))
        messages.put((trial, _asked(made, bench.training_set, surface, seeds)))


def _asked(made: Settings, rows: TrainingSet, surface: Surface, seeds: int) -> tuple[TaskDiagnosis, ...]:
    """Diagnose a world's surface, or return what an earlier run found with the same rows, surface, seeds and code."""
    facts = {"rows": rows.content_hash, "surface": surface.ranker_digest, "seeds": seeds, "code": code_hash(_CODE)}
    return kept(made.home / "diagnoses", digest(facts), lambda: diagnose(made, rows, surface, seeds=seeds).tasks)


def kept(folder: Path, name: str, ask: Callable[[], tuple[TaskDiagnosis, ...]]) -> tuple[TaskDiagnosis, ...]:
    """Return a diagnosis that the folder has, or ask for it and keep it there."""
    files, key = Files(folder), f"{name}.json"
    if not files.exists(key):
        files.replace(key, json.dumps([asdict(task) for task in ask()]).encode())
    return TypeAdapter(tuple[TaskDiagnosis, ...]).validate_python(json.loads(files.read(key)))


def _scatter(table: list[Foretold]) -> bytes:
    """Plot the lift on evaluation days against the diagnosed gains, a mark per task and world."""
    figure, axes = panels(4.2, 2)
    looks = dict(zip(("auc", "r2"), SERIES, strict=False))
    for axis, name in zip(axes, ("student", "stacked"), strict=True):
        for metric, (colour, mark) in looks.items():
            pairs = [
                (100 * gain.estimate, 100 * x.lift.lift)
                for x in table
                if x.diagnosis.metric == metric and (gain := getattr(x.diagnosis, name)) is not None
            ]
            if pairs:
                axis.plot(*zip(*pairs, strict=True), mark, color=colour, markersize=5, alpha=0.8, label=metric.upper())
        axis.axhline(0, color="#1F2933", linewidth=1)
        axis.axvline(0, color="#1F2933", linewidth=1)
        axis.set_xlabel(f"{name} gain on validation days, x100")
    axes[0].set_ylabel("lift on evaluation days, x100")
    axes[0].legend(frameon=False)
    return finish(
        figure, axes[0], "What the diagnosis said, and what came", f"{len(table)} tasks of surfaces and worlds"
    )

"""The transfer diagnosis: will distilling help this surface? Judged on training and validation days alone.

Three questions, each with an interval over users and initialisations:

1. What does the teacher know? Its zero-shot figure on the validation days.
2. What does it know that the control does not? Its scores are added to the control's in a linear model, fitted on some
   users and judged on others: stacking after Wolpert, "Stacked generalization", Neural Networks 5 (1992).
3. What does a student take up? Student and control are trained without the validation days and compared on them, beside
   a student whose soft labels are shuffled within each day.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml.evaluation import metrics
from ml.evaluation.bootstrap import Interval, UserWeights, interval
from ml.evaluation.over_worlds import over_seeds
from ml.evaluation.page import write_pages
from ml.evaluation.plots import Mark, finish, forest
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.students.checkpoint import predict
from ml.students.dataset import Dataset, TrainingSet, load
from ml.students.train import centre_soft_labels, fit, shuffle_soft_labels
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE

FOLDS = 5
REPLICATES = 400

Judgement = Literal["helps", "hurts", "promising", "nothing to learn", "too few rows"]
MEANING: Mapping[Judgement, str] = {
    "helps": "the student beats its control on days that neither learnt from",
    "hurts": "the student is worse than its control: try a smaller weight, another technique, or none",
    "promising": (
        "the teacher knows what the control does not, but these days do not show that the student takes it up: "
        "look at more days, or try other weights and techniques"
    ),
    "nothing to learn": "adding the teacher's scores to the control's gains nothing that matters, nor does the student",
    "too few rows": "these days are too few to tell: gather more, or lengthen validation_days",
}
MATTERS = 0.002
"""Gain in AUC or R2 below which nobody would distil; the paper's smallest lift in AUC is 0.0016."""


@dataclass(frozen=True)
class TaskDiagnosis:
    """What the validation days say of one task. Figures are AUC or R2, gains are differences of them.

    Attributes:
        task: Name of the task.
        metric: ``auc`` or ``r2``.
        rows: Labelled validation rows.
        positives: Of a binary task, else None.
        users: Users of these rows.
        control: The control's figure, mean over seeds.
        teacher: The teacher's own; None where the task has no counterpart.
        teacher_ratio: The teacher's mean probability over the share of positives; None without a binary counterpart.
        stacked: Gain of adding the teacher's scores to the control's; None where labels lack soft labels.
        student: Gain of the student.
        shuffled: Gain of a student whose labels were shuffled within each day.
        judgement: What follows; see ``MEANING``.
    """

    task: str
    metric: str
    rows: int
    positives: int | None
    users: int
    control: float
    teacher: Interval | None
    teacher_ratio: float | None
    stacked: Interval | None
    student: Interval
    shuffled: Interval
    judgement: Judgement


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of a surface.

    Attributes:
        surface: Name of the surface.
        technique: Technique of its students.
        train_rows: Rows that students and controls learnt from.
        train_days: First and last day of these rows.
        validation_days: First and last day of the rows that judge.
        labelled_share: Share of the training rows that have a soft label.
        seeds: Initialisations.
        tasks: One entry per task.
    """

    surface: str
    technique: str
    train_rows: int
    train_days: tuple[str, str]
    validation_days: tuple[str, str]
    labelled_share: float
    seeds: int
    tasks: tuple[TaskDiagnosis, ...]

    @property
    def advice(self) -> str:
        """Whether to distil, in one sentence."""
        of = {judgement: [t.task for t in self.tasks if t.judgement == judgement] for judgement in MEANING}
        if of["helps"] and not of["hurts"]:
            return f"Distil: it helps {', '.join(of['helps'])} and shows no harm elsewhere."
        if of["helps"]:
            return f"Weigh it: distilling helps {', '.join(of['helps'])} and hurts {', '.join(of['hurts'])}."
        if of["hurts"]:
            return f"Do not distil like this: it hurts {', '.join(of['hurts'])} and helps nothing."
        if of["promising"]:
            return (
                f"Promising, not shown: the teacher knows more about {', '.join(of['promising'])} than the control, "
                f"but these days do not show that technique {self.technique} takes it up."
            )
        if of["too few rows"]:
            return "Cannot tell: the validation days have too few rows."
        return "Do not distil: the teacher adds nothing to what the control knows."


def diagnose(
    settings: Settings,
    training_set: TrainingSet,
    surface: Surface,
    *,
    seeds: int,
    progress: Progress = silent,
) -> Diagnosis:
    """Diagnose a surface. No evaluation day is read.

    Args:
        settings: Names the lake.
        training_set: Rows and days.
        surface: Tasks, heads and technique.
        seeds: Initialisations of control, student and shuffled student.
        progress: Told after each training.

    Raises:
        ValueError: The surface has no technique, or no training day before its validation days.
    """
    technique = surface.distillation.technique
    if technique == NO_TECHNIQUE:
        raise ValueError(f"surface {surface.name} distils nothing: distillation.technique is none")
    fit_days, validation_days = training_set.validation_split(surface.window.validation_days)
    data = load(settings, training_set, surface, fit_days, soft_labels=True)
    held_out = load(settings, training_set, surface, validation_days, soft_labels=True, after_ranking="serving")
    scores: dict[str, list[dict[str, np.ndarray]]] = {"control": [], "student": [], "shuffled": []}
    done = 0
    for seed in range(seeds):
        for variant, found in scores.items():
            rows = shuffle_soft_labels(data, seed) if variant == "shuffled" else data
            ranker, _, _ = fit(rows, surface, technique=NO_TECHNIQUE if variant == "control" else technique, seed=seed)
            found.append(predict(ranker, {name: column.numpy() for name, column in held_out.inputs.items()}))
            done += 1
            progress(Step(f"diagnose {surface.name}", done, seeds * len(scores)))
    labelled = np.mean([~np.isnan(label.numpy()) for label in data.soft_labels.values()])
    judge = _Judge(held_out, surface, settings.seed)
    return Diagnosis(
        surface=surface.name,
        technique=technique,
        train_rows=len(data),
        train_days=(str(fit_days[0]), str(fit_days[-1])),
        validation_days=(str(validation_days[0]), str(validation_days[-1])),
        labelled_share=float(labelled),
        seeds=seeds,
        tasks=tuple(
            judge.task(name, {variant: [s[name] for s in found] for variant, found in scores.items()})
            for name in surface.tasks
            if judge.can(name)
        ),
    )


class _Judge:
    """Compares scores on the validation rows."""

    def __init__(self, held_out: Dataset, surface: Surface, seed: int) -> None:
        self.held_out, self.surface, self.seed = held_out, surface, seed
        self.users = held_out.user_id.numpy()
        self.weights = UserWeights(self.users, seed=seed, replicates=REPLICATES)
        raw = {name: label.numpy().astype(np.float64) for name, label in held_out.soft_labels.items()}
        centred = centre_soft_labels(held_out, _centred(surface)).soft_labels
        self.soft = raw
        self.hints = np.stack([*raw.values(), *(label.numpy().astype(np.float64) for label in centred.values())], 1)

    def can(self, task: str) -> bool:
        """Tell whether the rows define the task's metric."""
        labels = self._labels(task)
        present = labels[np.isfinite(labels)]
        return len(np.unique(present)) > 1

    def task(self, name: str, scores: dict[str, list[np.ndarray]]) -> TaskDiagnosis:
        spec, labels = self.surface.tasks[name], self._labels(name)
        rows = np.isfinite(labels)
        control = [self._figure(name, s, rows) for s in scores["control"]]
        gains = {
            variant: self._gain([self._figure(name, s, rows) for s in scores[variant]], control)
            for variant in ("student", "shuffled")
        }
        stacked = self._stacked(name, np.mean(scores["control"], axis=0), rows & np.isfinite(self.hints).all(axis=1))
        teacher, ratio = None, None
        if spec.teacher_output in self.soft:
            own = self.soft[spec.teacher_output]
            known = rows & np.isfinite(own)
            value, replicates = self._figure(name, own, known)
            teacher = interval(value, replicates)
            if spec.kind == "binary":
                ratio = metrics.predicted_over_observed(labels[known], own[known])
        return TaskDiagnosis(
            task=name,
            metric="auc" if spec.kind == "binary" else "r2",
            rows=int(rows.sum()),
            positives=int(labels[rows].sum()) if spec.kind == "binary" else None,
            users=len(np.unique(self.users[rows])),
            control=float(np.mean([value for value, _ in control])),
            teacher=teacher,
            teacher_ratio=ratio,
            stacked=stacked,
            student=gains["student"],
            shuffled=gains["shuffled"],
            judgement=judgement(gains["student"], stacked),
        )

    def _labels(self, task: str) -> np.ndarray:
        return self.held_out.labels[task].numpy().astype(np.float64)

    def _figure(self, task: str, scores: np.ndarray, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """Return AUC or R2 and its replicates."""
        y, s, codes = self._labels(task)[rows], scores[rows].astype(np.float64), self.weights.codes[rows]
        if self.surface.tasks[task].kind == "binary":
            return metrics.auc(y, s), self.weights.auc(codes, y, s)
        [replicates] = self.weights.replicate([self.weights.r2(codes, y, s)])
        return metrics.r2(y, s), replicates

    def _gain(self, mine: list[tuple[float, np.ndarray]], base: list[tuple[float, np.ndarray]]) -> Interval:
        values = [a - b for (a, _), (b, _) in zip(mine, base, strict=True)]
        replicates = np.stack([a - b for (_, a), (_, b) in zip(mine, base, strict=True)])
        return interval(float(np.mean(values)), over_seeds(replicates, self.seed))

    def _stacked(self, task: str, control: np.ndarray, rows: np.ndarray) -> Interval | None:
        """Return the gain of a linear model of the control's score and the teacher's over one of the former alone."""
        binary = self.surface.tasks[task].kind == "binary"
        y, users = self._labels(task)[rows], self.users[rows]
        base = control[rows].astype(np.float64)[:, None]
        if len(np.unique(users)) < FOLDS or len(np.unique(y)) < 2:
            return None
        scores = [np.zeros(len(control)), np.zeros(len(control))]
        place = np.flatnonzero(rows)
        folds = GroupKFold(FOLDS, shuffle=True, random_state=self.seed)
        for learn, judge in folds.split(base, y, users):
            if len(np.unique(y[learn])) < 2:
                return None
            for found, inputs in zip(scores, (base, np.hstack([base, self.hints[rows]])), strict=True):
                model = make_pipeline(StandardScaler(), LogisticRegression() if binary else LinearRegression())
                model.fit(inputs[learn], y[learn])
                found[place[judge]] = model.decision_function(inputs[judge]) if binary else model.predict(inputs[judge])
        return self._gain([self._figure(task, scores[1], rows)], [self._figure(task, scores[0], rows)])


def judgement(student: Interval, stacked: Interval | None) -> Judgement:
    """Return what the gains of a task mean, in this order: what was shown, what could be, what cannot be seen."""
    if student.lo > 0:
        return "helps"
    if student.hi < 0:
        return "hurts"
    if stacked is not None and stacked.lo > 0 and stacked.estimate >= MATTERS:
        return "promising"
    if stacked is not None and stacked.hi < MATTERS and student.hi < MATTERS:
        return "nothing to learn"
    return "too few rows"


def _centred(surface: Surface) -> Surface:
    """Return the surface with every head's labels centred per user."""
    heads = tuple(head.model_copy(update={"centre_by": "user_id"}) for head in surface.distillation.heads)
    return surface.model_copy(update={"distillation": surface.distillation.model_copy(update={"heads": heads})})


def gains_plot(diagnosis: Diagnosis) -> bytes:
    """Plot the gains of every task with their intervals; the placebo is hollow."""
    groups = {
        f"{task.task}, {task.metric.upper()}: {task.judgement}": [
            Mark(name, gain.estimate, gain.lo, gain.hi, colour, gain is task.shuffled)
            for name, gain, colour in (
                ("control + teacher, stacked", task.stacked, "#009E73"),
                ("student", task.student, "#0072B2"),
                ("student, labels shuffled (placebo)", task.shuffled, "#7F7F7F"),
            )
            if gain is not None
        ]
        for task in diagnosis.tasks
    }
    figure, axes = forest(groups, "gain over the control, x100")
    days = " to ".join(dict.fromkeys(diagnosis.validation_days))
    note = f"validation days {days}; {diagnosis.seeds} initialisations; 95 % intervals over users and initialisations"
    return finish(figure, axes, f"What distilling gives {diagnosis.surface}", note)


def write_diagnosis(diagnosis: Diagnosis, out: Path) -> list[Path]:
    """Write the diagnosis as Markdown, an HTML page beside it and the plot; return the files."""
    template = Path(__file__).with_name("diagnosis.md.j2")
    facts = {"d": diagnosis, "meaning": MEANING, "folds": FOLDS, "matters": MATTERS}
    return write_pages(
        template, facts, {"gains": gains_plot(diagnosis)}, out, f"Crossfade: diagnosis of {diagnosis.surface}"
    )

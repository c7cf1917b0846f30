"""The transfer diagnosis: will distilling help this surface? Judged on training and validation days alone.

Five questions, each with an interval over users and initialisations:

1. Is the control worth beating? It must not lie below its baseline, the mean label or a linear model of its inputs, no
   other learning rate or number of epochs of a small sweep may do better, and labels that know nothing may not help. A
   control that could do better without a teacher makes any teacher look good, so nothing is advised then.
2. What does the teacher know? Its zero-shot figure on the validation days.
3. What does it know that the control does not? The gain of the stacked teacher: see ``ml/evaluation/transfer.py``.
4. What do its logits differ by, and which technique fits that? See ``ml/evaluation/teacher_parts.py``.
5. What does a student take up? Student and control are trained without the validation days and compared on them, beside
   a student whose soft labels are shuffled within each day.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ml.evaluation import metrics
from ml.evaluation.bootstrap import CONFIDENCE, Interval, UserWeights, interval
from ml.evaluation.frame import history_slices
from ml.evaluation.linear import linear_scores
from ml.evaluation.over_worlds import over_seeds, quantile
from ml.evaluation.page import write_pages
from ml.evaluation.plots import Mark, finish, forest
from ml.evaluation.teacher_parts import TeacherParts, teacher_parts
from ml.evaluation.transfer import FOLDS, Ratio, figure, hints, ratio_over_worlds, stacked_scores
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.students.checkpoint import predict
from ml.students.dataset import Dataset, TrainingSet, load
from ml.students.optimizer import Recipe
from ml.students.train import fit, shuffle_soft_labels
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE

REPLICATES = 400
SWEEP_SEEDS = 2
"""Initialisations at most with which another learning rate or number of epochs is tried."""

Judgement = Literal["control untuned", "helps", "hurts", "promising", "nothing to learn", "too few rows"]
MEANING: Mapping[Judgement, str] = {
    "control untuned": (
        "the control can do better without a teacher, and a gain over it would say nothing: tune it first "
        "(`crossfade tune`), then diagnose again"
    ),
    "helps": "the student beats its control on days that neither learnt from",
    "hurts": "the student is worse than its control: `crossfade tune` looks for another weight or technique, or none",
    "promising": (
        "the teacher knows what the control does not, but these days do not show that the student takes it up: "
        "look at more days, or let `crossfade tune` look for other weights and techniques"
    ),
    "nothing to learn": "even adding the teacher's own scores to the control's gains nothing that matters",
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
        baseline: Of the input that stands for popularity; None where the task names none.
        stacked: Gain of adding the teacher's scores to the control's; None where labels lack soft labels.
        student: Gain of the student.
        kept: The student's share of the stacked gain.
        shuffled: Gain of a student whose labels were shuffled within each day.
        slices: Gain of the student on the users with few, some and many training rows.
        untuned: Why the control is not worth beating; empty where it is.
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
    baseline: float | None
    stacked: Interval | None
    student: Interval
    kept: Ratio | None
    shuffled: Interval
    slices: tuple["SliceGain", ...]
    untuned: str
    judgement: Judgement


@dataclass(frozen=True)
class SliceGain:
    """Gain of the student on some users.

    Attributes:
        name: Name of the slice.
        history: Training rows of its users, for example ``3 to 11``.
        rows: Labelled validation rows.
        users: Users of these rows.
        student: Gain of the student over its control there.
    """

    name: str
    history: str
    rows: int
    users: int
    student: Interval


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
        tried: Settings that the control was tried with besides its own.
        tasks: One entry per task.
        teacher: What each output that a head learns differs by.
    """

    surface: str
    technique: str
    train_rows: int
    train_days: tuple[str, str]
    validation_days: tuple[str, str]
    labelled_share: float
    seeds: int
    tried: tuple[str, ...]
    tasks: tuple[TaskDiagnosis, ...]
    teacher: tuple[TeacherParts, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Settings that take away most of what the teacher says."""
        return tuple(parts.warning for parts in self.teacher if parts.warning)

    @property
    def advice(self) -> str:
        """Whether to distil, in one sentence."""
        of = {judgement: [t.task for t in self.tasks if t.judgement == judgement] for judgement in MEANING}
        if untuned := [t for t in self.tasks if t.untuned]:
            reasons = "; ".join(f"{t.task}: {t.untuned}" for t in untuned)
            return f"No advice: the control is not tuned ({reasons}). Tune it, then diagnose again: `crossfade tune`."
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
    trainings = _trainings(surface, technique, seeds, len(data))
    scores: dict[str, list[dict[str, np.ndarray]]] = {}
    for done, (variant, trained, own_technique, seed) in enumerate(trainings, start=1):
        rows = shuffle_soft_labels(data, seed) if variant == "shuffled" else data
        ranker = fit(rows, trained, technique=own_technique, seed=seed)[0]
        found = predict(ranker, {name: column.numpy() for name, column in held_out.inputs.items()})
        scores.setdefault(variant, []).append(found)
        progress(Step(f"diagnose {surface.name}", done, len(trainings)))
    linear = linear_scores(data, held_out, surface)
    labelled = np.mean([~np.isnan(label.numpy()) for label in data.soft_labels.values()])
    judge = _Judge(held_out, surface, settings.seed, data.user_id.numpy())
    return Diagnosis(
        surface=surface.name,
        technique=technique,
        train_rows=len(data),
        train_days=(str(fit_days[0]), str(fit_days[-1])),
        validation_days=(str(validation_days[0]), str(validation_days[-1])),
        labelled_share=float(labelled),
        seeds=seeds,
        tried=tuple(other_settings(surface, len(data))),
        tasks=tuple(
            judge.task(name, {variant: [s[name] for s in found] for variant, found in scores.items()}, linear.get(name))
            for name in surface.tasks
            if judge.can(name)
        ),
        teacher=teacher_parts(data, surface),
    )


def _trainings(surface: Surface, technique: str, seeds: int, rows: int) -> list[tuple[str, Surface, str, int]]:
    """Return what is trained: (variant, surface, technique, seed), control, student and placebo of each seed first."""
    variants = {"control": NO_TECHNIQUE, "student": technique, "shuffled": technique}
    found = [(name, surface, used, seed) for seed in range(seeds) for name, used in variants.items()]
    return found + [
        (name, other, NO_TECHNIQUE, seed)
        for seed in range(min(seeds, SWEEP_SEEDS))
        for name, other in other_settings(surface, rows).items()
    ]


def other_settings(surface: Surface, rows: int) -> dict[str, Surface]:
    """Return the surface with settings beside its own, by what differs: learning rates and epochs, lower and higher."""
    own = Recipe.of(surface.training, rows)
    rates = {name: getattr(own, name) for name in ("learning_rate", "embedding_learning_rate")}
    changes: dict[str, dict[str, float]] = {
        f"{what} learning rates": {name: rate * factor for name, rate in rates.items()}
        for what, factor in (("a third of its", 1 / 3), ("three times its", 3.0))
    }
    changes |= {
        f"{n} epoch{'s' if n > 1 else ''}": {"epochs": n}
        for n in (max(1, own.epochs // 2), 2 * own.epochs)
        if n != own.epochs
    }
    return {
        what: surface.model_copy(update={"training": surface.training.model_copy(update=change)})
        for what, change in changes.items()
    }


class _Judge:
    """Compares scores on the validation rows.

    Args:
        held_out: The validation rows.
        surface: Tasks.
        seed: Of bootstrap and folds.
        trained_on: User of each training row.
    """

    def __init__(self, held_out: Dataset, surface: Surface, seed: int, trained_on: np.ndarray) -> None:
        self.held_out, self.surface, self.seed = held_out, surface, seed
        self.users = held_out.user_id.numpy()
        self.weights = UserWeights(self.users, seed=seed, replicates=REPLICATES)
        self.soft = {name: label.numpy().astype(np.float64) for name, label in held_out.soft_labels.items()}
        self.hints = hints(self.soft, self.users)
        known, counts = np.unique(trained_on, return_counts=True)
        place = np.minimum(np.searchsorted(known, self.users), len(known) - 1)
        self.slices, self.history = history_slices(self.users, np.where(known[place] == self.users, counts[place], 0))

    def can(self, task: str) -> bool:
        """Tell whether the rows define the task's metric."""
        return self._defined(task, np.ones(len(self.users), dtype=bool))

    def _defined(self, task: str, rows: np.ndarray) -> bool:
        labels = self._labels(task)[rows]
        return len(np.unique(labels[np.isfinite(labels)])) > 1

    def task(self, name: str, scores: dict[str, list[np.ndarray]], linear: np.ndarray | None = None) -> TaskDiagnosis:
        """Diagnose one task from scores [n] of every variant, one array per initialisation, and of a linear model."""
        spec, labels = self.surface.tasks[name], self._labels(name)
        rows = np.isfinite(labels)
        figures = {variant: [self._figure(name, s, rows) for s in found] for variant, found in scores.items()}
        control = figures["control"]
        gains = {variant: self._gain(figures[variant], control) for variant in ("student", "shuffled")}
        known = rows & np.isfinite(self.hints).all(axis=1)
        stack = self._stack(name, np.mean(scores["control"], axis=0), known)
        stacked = None if stack is None else self._gain([stack[1]], [stack[0]])
        teacher, ratio = self._teacher(name, rows)
        baseline = self._baseline(name, rows)
        untuned = self._untuned(name, figures, baseline, gains["shuffled"])
        if not untuned and linear is not None:
            untuned = self._below(control, self._figure(name, linear, rows))
        return TaskDiagnosis(
            task=name,
            metric="auc" if spec.kind == "binary" else "r2",
            rows=int(rows.sum()),
            positives=int(labels[rows].sum()) if spec.kind == "binary" else None,
            users=len(np.unique(self.users[rows])),
            control=float(np.mean([value for value, _ in control])),
            teacher=teacher,
            teacher_ratio=ratio,
            baseline=baseline,
            stacked=stacked,
            student=gains["student"],
            kept=None if stack is None else self._kept(figures["student"], control, stack),
            shuffled=gains["shuffled"],
            slices=tuple(
                self._slice(name, place, scores) for place in self.slices if self._defined(name, self.slices[place])
            ),
            untuned=untuned,
            judgement=judgement(gains["student"], stacked, untuned),
        )

    def _labels(self, task: str) -> np.ndarray:
        return self.held_out.labels[task].numpy().astype(np.float64)

    def _figure(self, task: str, scores: np.ndarray, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """Return AUC or R2 and its replicates."""
        binary = self.surface.tasks[task].kind == "binary"
        return figure(self.weights, self.weights.codes[rows], self._labels(task)[rows], scores[rows], binary=binary)

    def _gain(self, mine: list[tuple[float, np.ndarray]], base: list[tuple[float, np.ndarray]]) -> Interval:
        values = [a - b for (a, _), (b, _) in zip(mine, base, strict=True)]
        replicates = np.stack([a - b for (_, a), (_, b) in zip(mine, base, strict=True)])
        return interval(float(np.mean(values)), over_seeds(replicates, self.seed))

    def _teacher(self, task: str, rows: np.ndarray) -> tuple[Interval | None, float | None]:
        """Return the teacher's own figure, and its mean probability over the share of positives."""
        spec, labels = self.surface.tasks[task], self._labels(task)
        if spec.teacher_output not in self.soft:
            return None, None
        own = self.soft[spec.teacher_output]
        known = rows & np.isfinite(own)
        value, replicates = self._figure(task, own, known)
        ratio = metrics.predicted_over_observed(labels[known], own[known]) if spec.kind == "binary" else None
        return interval(value, replicates), ratio

    def _baseline(self, task: str, rows: np.ndarray) -> float | None:
        """Return the figure of the input that stands for popularity, where the task has one."""
        name = self.surface.tasks[task].baseline
        if name is None:
            return None
        column = self.held_out.inputs[name].numpy().astype(np.float64)
        value, _ = self._figure(task, np.where(np.isfinite(column), column, self.surface.inputs[name].default), rows)
        return value

    def _untuned(
        self,
        task: str,
        figures: dict[str, list[tuple[float, np.ndarray]]],
        baseline: float | None,
        shuffled: Interval,
    ) -> str:
        """Return why the control is not worth beating, or an empty text."""
        control = float(np.mean([value for value, _ in figures["control"]]))
        if baseline is not None and control < baseline:
            return f"{100 * control:.2f}, below its baseline's {100 * baseline:.2f}"
        if self.surface.tasks[task].kind == "regression" and control < 0:
            return f"R2 {100 * control:.2f}, worse than the mean label"
        tried = [name for name in figures if name not in ("control", "student", "shuffled")]
        family = 1 - (1 - CONFIDENCE) / max(1, len(tried) * len(self.surface.tasks))
        for name in tried:
            gain = self._gain(figures[name], figures["control"][: len(figures[name])])
            wider = quantile(1, family) / quantile(1, CONFIDENCE)
            if gain.estimate >= MATTERS and gain.estimate - (gain.estimate - gain.lo) * wider > 0:
                return f"{100 * gain.estimate:.2f} better with {name}"
        if shuffled.estimate >= MATTERS and shuffled.lo > 0:
            return f"{100 * shuffled.estimate:.2f} better with labels that know nothing"
        return ""

    def _below(self, control: list[tuple[float, np.ndarray]], linear: tuple[float, np.ndarray]) -> str:
        """Return that the control is below a linear model of the same inputs by its interval, or an empty text."""
        gain = self._gain([linear] * len(control), control)
        below = gain.estimate >= MATTERS and gain.lo > 0
        return f"{100 * gain.estimate:.2f} better with a linear model of the same inputs" if below else ""

    def _stack(
        self, task: str, control: np.ndarray, rows: np.ndarray
    ) -> tuple[tuple[float, np.ndarray], tuple[float, np.ndarray]] | None:
        """Return the figures of the control's score alone and with the teacher's, by models that saw other users."""
        binary, users, labels = self.surface.tasks[task].kind == "binary", self.users[rows], self._labels(task)
        found = stacked_scores(labels[rows], control[rows], self.hints[rows], users, binary=binary, seed=self.seed)
        if found is None:
            return None
        codes = self.weights.codes[rows]
        alone, both = (figure(self.weights, codes, labels[rows], score, binary=binary) for score in found)
        return alone, both

    def _kept(
        self,
        student: list[tuple[float, np.ndarray]],
        control: list[tuple[float, np.ndarray]],
        stack: tuple[tuple[float, np.ndarray], tuple[float, np.ndarray]],
    ) -> Ratio:
        gain = self._gain(student, control)
        drawn = np.stack([a - b for (_, a), (_, b) in zip(student, control, strict=True)])
        (alone, alone_drawn), (both, both_drawn) = stack
        return ratio_over_worlds(
            [gain.estimate], [both - alone], over_seeds(drawn, self.seed), both_drawn - alone_drawn
        )

    def _slice(self, task: str, name: str, scores: dict[str, list[np.ndarray]]) -> SliceGain:
        rows = self.slices[name] & np.isfinite(self._labels(task))
        student, control = ([self._figure(task, s, rows) for s in scores[v]] for v in ("student", "control"))
        users = len(np.unique(self.users[rows]))
        return SliceGain(name, self.history[name], int(rows.sum()), users, self._gain(student, control))


def judgement(student: Interval, stacked: Interval | None, untuned: str = "") -> Judgement:
    """Return what the gains of a task mean: first whether they mean anything, last what cannot be seen."""
    if untuned:
        return "control untuned"
    if student.hi < 0:
        return "hurts"
    if stacked is not None and stacked.hi < MATTERS:
        return "nothing to learn"
    if student.lo > 0:
        return "helps"
    if stacked is not None and stacked.lo > 0 and stacked.estimate >= MATTERS:
        return "promising"
    return "too few rows"


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
    facts = {"d": diagnosis, "meaning": MEANING, "folds": FOLDS, "matters": MATTERS, "sweep": diagnosis.tried}
    return write_pages(
        template, facts, {"gains": gains_plot(diagnosis)}, out, f"Crossfade: diagnosis of {diagnosis.surface}"
    )

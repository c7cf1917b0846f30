"""Tuning on validation days: first of the control on the app's own labels, then of a student around it.

A student is only as convincing as the control that it beats, so the control has half of the budget, and no teacher.
Both searches try a declared first list, then every setting that differs from the best so far in one value, and go on
from where one is better; where none is, what a last list has. This is compass search (Kolda, Lewis and Torczon,
"Optimization by Direct Search", SIAM Review 45, 2003). One initialisation each; the best few are trained with further
ones beside the file's own.

What is there stays unless another is better by more than its standard error ("the 1 SE rule" of Breiman, Friedman,
Olshen and Stone, "Classification and Regression Trees", 1984), and a teacher is listened to only where a student beats
the control beyond chance.

Every trial is a line of a file, and the next one follows from those before: a killed search goes on.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import inf, isfinite, sqrt
from pathlib import Path
from typing import Literal

import numpy as np

from ml.foundation.documents import Document
from ml.students.checkpoint import predict
from ml.students.dataset import Dataset, TrainingSet
from ml.students.loop import DivergedError
from ml.students.measure import Metrics, task_metrics
from ml.students.optimizer import Recipe
from ml.students.space import ControlSpace, Setting, Space, StudentSpace
from ml.students.train import fit
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE

Stage = Literal["control", "student"]

FINALISTS = 2
FURTHER_SEEDS = 2
"""Initialisations that the finalists are trained with beside the first."""
GROUPS = 50
"""Groups of users whose losses a trial keeps: what they differ by is the error of a difference of two trials."""
SHOWN = 1.64
"""Standard errors that a student must gain over its control: a one-sided test at 5 %."""
_SHARES: Mapping[Stage, float] = {"control": 0.5, "student": 1.0}
"""Share of the budget that is gone at the end of a stage."""
_OF_FINALISTS = 0.2
"""Share of it at most that is kept back for the finalists' further initialisations."""


@dataclass(frozen=True)
class Trial:
    """One training, judged on the validation days.

    Attributes:
        stage: Whether a control or a student.
        setting: Values by name; see ``ml/students/space.py``.
        seed: Of initialisation and unknown ids.
        unexplained: Mean over tasks of the share of the label's uncertainty that is left, 1 for a model that only knows
            the mean label: log loss over that of the base rate, or 1 - R2. Lower is better; infinite where the training
            diverged.
        groups: What each group of users adds to it.
        metrics: {task: metrics on the validation days}.
        seconds: Of the training.
    """

    stage: Stage
    setting: Setting
    seed: int
    unexplained: float
    groups: tuple[float, ...]
    metrics: dict[str, Metrics]
    seconds: float

    @classmethod
    def from_json(cls, content: Document) -> "Trial":
        """Take what JSON kept of its fields."""
        fields: Document = content | {"groups": tuple(content["groups"])}
        return cls(**fields)


@dataclass(frozen=True)
class Gain:
    """How much less a setting leaves unexplained than another, with the standard error over users and seeds."""

    estimate: float
    se: float

    def __str__(self) -> str:
        return f"{100 * self.estimate:+.2f} +- {100 * self.se:.2f} %"

    def beyond(self, errors: float) -> bool:
        """Tell whether it is above 0 by more than so many standard errors."""
        return self.estimate == inf or (isfinite(self.estimate) and self.estimate > errors * self.se)


@dataclass(frozen=True)
class Choice:
    """What a stage chose.

    Attributes:
        setting: The setting; None for a student where no technique is shown to gain.
        over_present: Gain over the file's own setting; None where that is what was chosen, or where there is none.
        over_control: Of the best student over the control.
        converged: Whether no change of a single value was left to try, so that more time would change nothing.
    """

    setting: Setting | None
    over_present: Gain | None
    over_control: Gain | None
    converged: bool


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Attributes:
        surface: With what was chosen.
        control: Choice of the control.
        student: Choice of the student; None where the teacher gives no output to learn.
        trials: Every training, in order.
    """

    surface: Surface
    control: Choice
    student: Choice | None
    trials: tuple[Trial, ...]

    def lines(self) -> list[str]:
        """Return in sentences what was chosen, and by how much."""
        return [self._of_control(), *([self._of_student(self.student)] if self.student else [])]

    def _of_control(self) -> str:
        gain = self.control.over_present
        end = "" if self.control.converged else "; the budget ended before every neighbour was tried"
        if gain is None:
            return f"control: nothing tried is better than the file's setting by more than its standard error{end}"
        return f"control: {_shown(self.control.setting)} explains {gain} more than the file's setting{end}"

    def _of_student(self, student: Choice) -> str:
        gain = student.over_control
        end = "" if student.converged else "; the budget ended before every neighbour was tried"
        if student.setting is None:
            return f"student: no technique is shown to gain over the control, the best explains {gain} more: none{end}"
        kept = "the file's own, " if student.over_present is None else ""
        return f"student: {kept}{_shown(student.setting)} explains {gain} more than the control{end}"

    def to_json(self) -> dict[str, object]:
        """Return choice and trials as plain values."""
        return {
            "control": asdict(self.control),
            "student": asdict(self.student) if self.student else None,
            "trials": self.rows(),
        }

    def rows(self) -> list[dict[str, object]]:
        """Return a flat row per setting, seeds averaged: controls, then students, best first."""
        found: list[dict[str, object]] = []
        for stage in ("control", "student"):
            of: dict[str, list[Trial]] = {}
            for trial in self.trials:
                if trial.stage == stage:
                    of.setdefault(json.dumps(trial.setting), []).append(trial)
            rows = [_row(same) for same in of.values()]
            found += sorted(rows, key=lambda row: float(str(row["unexplained"])))
        return found


def _shown(setting: Setting | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (setting or {}).items())


def _row(same: list[Trial]) -> dict[str, object]:
    names = ("auc", "log_loss", "r2")
    shown = {
        f"{task} {name}": float(np.mean([trial.metrics[task][name] for trial in same]))
        for task, metrics in same[0].metrics.items()
        for name in names
        if name in metrics
    }
    of = {"unexplained": float(np.mean([trial.unexplained for trial in same])), "seeds": len(same)}
    return {"stage": same[0].stage, **of, **shown, "seconds": sum(t.seconds for t in same), **same[0].setting}


@dataclass(frozen=True)
class Budget:
    """How long to search: seconds of training in all, and settings of each stage."""

    seconds: float
    settings: int


Report = Callable[[Stage, int, int, Trial], None]
"""Called with (stage, trainings done, trainings at most, the newest)."""


@dataclass
class TrialLog:
    """The trials so far, in memory and, if it has a path, in a file of one JSON line each.

    Args:
        path: The file; None keeps nothing.
        identity: Digest of what the trials were trained on; lines of another are not read.
    """

    path: Path | None = None
    identity: str = ""
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                content = json.loads(line)
            except ValueError:  # the line that a kill broke off
                continue
            if content.get("identity") == self.identity:
                self.trials.append(Trial.from_json(content["trial"]))

    def add(self, trial: Trial) -> None:
        """Keep a trial."""
        self.trials.append(trial)
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"identity": self.identity, "trial": asdict(trial)})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return sum(trial.seconds for trial in self.trials)


def tune(
    data: Dataset,
    held_out: Dataset,
    surface: Surface,
    *,
    budget: Budget,
    seed: int,
    log: TrialLog | None = None,
    report: Report | None = None,
) -> Tuned:
    """Choose settings of the control, then technique, heads and weights of a student around it.

    Args:
        data: Rows to train on, with soft labels; no evaluation day.
        held_out: The validation days after them, which judge, with ``after_ranking`` inputs as they serve.
        surface: What to tune.
        budget: When to stop; the present setting of each stage is tried in any case.
        seed: Seed of the first initialisation.
        log: Trials so far, which are not repeated.
        report: Told after each training.

    Raises:
        ValueError: The validation days have no labels to judge by.
    """
    search = _Search(data, held_out, budget, seed, log or TrialLog(), report)
    control_space = ControlSpace(surface, len(data))
    control = search.run("control", control_space)
    tuned = control_space.surface_of(control.setting or control_space.present)
    student_space = StudentSpace(tuned)
    student = None
    if student_space.outputs:
        student = search.run("student", student_space, control=control.setting)
        tuned = student_space.surface_of(student.setting or {"technique": NO_TECHNIQUE})
    return Tuned(tuned, control, student, tuple(search.log.trials))


class _Search:
    """Trains, keeps and compares trials."""

    def __init__(
        self,
        data: Dataset,
        held_out: Dataset,
        budget: Budget,
        seed: int,
        log: TrialLog,
        report: Report | None,
    ) -> None:
        self.data, self.held_out, self.budget, self.seed = data, held_out, budget, seed
        self.log, self.report = log, report
        users, group = np.unique(held_out.user_id.numpy(), return_inverse=True)
        self.groups = np.random.default_rng(seed).permutation(len(users))[group] % GROUPS
        self.inputs = {name: column.numpy() for name, column in held_out.inputs.items()}
        self.labels = {name: label.numpy() for name, label in held_out.labels.items()}

    def run(self, stage: Stage, space: Space, control: Setting | None = None) -> Choice:
        """Search one stage and choose."""
        converged = self._explore(stage, space)
        firsts = sorted(self._settings(stage).items(), key=lambda item: item[1].unexplained)
        finalists = [trial.setting for _, trial in firsts[:FINALISTS] if isfinite(trial.unexplained)]
        present = space.present
        if not finalists:
            raise ValueError(f"surface {space.surface.name}: every training of a {stage} diverged")
        confirmed = [*finalists, present] if present and present not in finalists else finalists
        for further in range(1, FURTHER_SEEDS + 1):
            for setting in confirmed:
                if len(firsts) > 1 and not self._spent(stage):
                    self._trial(stage, space, setting, self.seed + further)
        seeds = min(len(self._groups(stage, setting)) for setting in finalists)
        best = min(finalists, key=lambda setting: np.sum(self._groups(stage, setting)[:seeds]))
        over_present = self._gain((stage, best), (stage, present)) if present else None
        if present and over_present and not over_present.beyond(1.0):
            best, over_present = present, None
        if stage == "control":
            return Choice(best, over_present, None, converged)
        assert control is not None
        over_control = self._gain((stage, best), ("control", control))
        return Choice(best if over_control.beyond(SHOWN) else None, over_present, over_control, converged)

    def _explore(self, stage: Stage, space: Space) -> bool:
        """Try settings until the budget ends or no change of one value is left; return whether none is."""
        if space.present:
            self._trial(stage, space, space.present, self.seed)
        while True:
            asked = next(self._next(stage, space), None)
            if asked is None:
                return True
            tried = self._settings(stage)
            if len(tried) >= self.budget.settings or (tried and self._spent(stage, keep_for_finalists=True)):
                return False
            self._trial(stage, space, asked, self.seed)

    def _next(self, stage: Stage, space: Space) -> Iterator[Setting]:
        """Yield what was not tried: of the first list, around the best, of the last list."""
        tried = self._settings(stage)
        around: list[Setting] = []
        if tried:
            around = space.around(min(tried.values(), key=lambda trial: trial.unexplained).setting)
        for setting in (*space.first(), *around, *space.last()):
            if _key(setting) not in tried:
                yield setting

    def _settings(self, stage: Stage) -> dict[str, Trial]:
        """Return the trials with the first seed by setting."""
        return {_key(t.setting): t for t in self.log.trials if t.stage == stage and t.seed == self.seed}

    def _spent(self, stage: Stage, *, keep_for_finalists: bool = False) -> bool:
        """Tell whether the budget of a stage has no room for another training."""
        own = float(np.mean([trial.seconds for trial in self.log.trials if trial.stage == stage] or [0.0]))
        end = _SHARES[stage] * self.budget.seconds
        kept = min(FURTHER_SEEDS * (FINALISTS + 1) * own, _OF_FINALISTS * end) if keep_for_finalists else 0.0
        return self.log.seconds + own + kept > end

    def _trial(self, stage: Stage, space: Space, setting: Setting, seed: int) -> Trial:
        for trial in self.log.trials:
            if (trial.stage, trial.setting, trial.seed) == (stage, setting, seed):
                return trial
        surface, begun = space.surface_of(setting), time.perf_counter()
        technique = NO_TECHNIQUE if stage == "control" else surface.distillation.technique
        try:
            ranker, _ = fit(self.data, surface, technique=technique, seed=seed)
            scores = predict(ranker, self.inputs)
            groups, metrics = self._judge(surface, scores)
        except DivergedError:
            groups, metrics = np.full(GROUPS, inf), {}
        seconds = time.perf_counter() - begun
        trial = Trial(stage, setting, seed, float(groups.sum()), tuple(groups.tolist()), metrics, seconds)
        self.log.add(trial)
        if self.report:
            done = sum(trial.stage == stage for trial in self.log.trials)
            self.report(stage, done, self.budget.settings + FURTHER_SEEDS * (FINALISTS + 1), trial)
        return trial

    def _judge(self, surface: Surface, scores: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, Metrics]]:
        """Return what each group of users adds to what is left unexplained, and the metrics."""
        metrics = task_metrics(surface, scores, self.labels)
        parts = [
            left
            for name, task in surface.tasks.items()
            if (left := _unexplained(self.labels[name], scores[name], self.groups, task.kind == "binary")) is not None
        ]
        if not parts:
            raise ValueError(f"surface {surface.name}: the validation days have no labels to judge by: {metrics}")
        return np.mean(parts, axis=0), metrics

    def _groups(self, stage: Stage, setting: Setting) -> list[tuple[float, ...]]:
        """Return the groups' shares of a setting, seed by seed."""
        return [trial.groups for trial in self.log.trials if trial.stage == stage and trial.setting == setting]

    def _gain(self, mine: tuple[Stage, Setting], other: tuple[Stage, Setting | None]) -> Gain:
        """Return how much less the first leaves unexplained, over the seeds that both were trained with."""
        of = [
            {trial.seed: trial for trial in self.log.trials if trial.stage == stage and trial.setting == setting}
            for stage, setting in (mine, other)
        ]
        seeds = sorted(of[0].keys() & of[1].keys())
        less, more = (np.array([trials[seed].groups for seed in seeds]) for trials in of)
        with np.errstate(invalid="ignore"):
            return gain_of(more - less)


def gain_of(differences: np.ndarray) -> Gain:
    r"""Return the sum over groups, mean over seeds, of differences [seeds, groups], with its standard error.

    .. math:: se^2 = \frac{G}{G-1} \sum_g (\bar d_g - \bar d)^2 + \frac{1}{S} \mathrm{Var}_s \sum_g d_{s,g}

    Groups of users are independent; with one seed the second term is left out.
    """
    with np.errstate(invalid="ignore"):  # a training that diverged leaves infinitely much unexplained
        groups, seeds = differences.mean(axis=0), len(differences)
        among = groups.size / max(groups.size - 1, 1) * np.square(groups - groups.mean()).sum()
        if seeds > 1:
            among += differences.sum(axis=1).var(ddof=1) / seeds
    return Gain(float(groups.sum()), sqrt(float(among)) if isfinite(among) else inf)


def _unexplained(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, binary: bool) -> np.ndarray | None:
    """Return the share of a label's uncertainty that scores leave, by group of users; None where there is none."""
    known = ~np.isnan(labels)
    label, score = labels[known].astype(np.float64), scores[known].astype(np.float64)
    if len(np.unique(label)) < 2:
        return None
    if binary:
        loss, rate = np.logaddexp(0.0, score) - label * score, label.mean()
        base = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    else:
        loss, base = np.square(label - score), label.var()
    return np.bincount(groups[known], weights=loss, minlength=GROUPS) / (len(label) * base)


def _key(setting: Setting) -> str:
    return json.dumps(setting)


def identity(training_set: TrainingSet, surface: Surface, seed: int) -> str:
    """Return the digest of what decides a trial beside its setting."""
    recipe = asdict(Recipe.of(surface.training, training_set.train_rows))
    content = json.dumps([training_set.digest, surface.ranker_digest, seed, recipe])
    return hashlib.sha256(content.encode()).hexdigest()[:16]

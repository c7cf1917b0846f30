"""What a new user gets: three scaffolded apps, each tuned by `crossfade tune`'s search alone.

    python -m benchmarks apps [--size 30k] [--sweep]
    python -m benchmarks apps --teachers

A line per app on stdout: the student's gain over its control in AUC x 100 on evaluation days that chose nothing, with
its interval over users and initialisations, and that of the best setting that is known (``apps.yaml``), over the same
control. The control against a linear model and gradient-boosted trees of the same inputs is on stderr. `--sweep` looks
for better settings by random search on the validation days, and writes them. `--teachers` shows what is advised, chosen
and gained with teachers that know users, items, who likes what, and nothing.

The rows are written straight into the lake: landing, SQL and the gate are left out.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.preprocessing import TargetEncoder

from benchmarks.synthetic import LABELS, Shape, write_world
from ml.evaluation.bootstrap import Interval, UserWeights, interval
from ml.evaluation.linear import against_control, linear_scores
from ml.evaluation.over_worlds import over_seeds
from ml.evaluation.teacher_parts import teacher_parts
from ml.evaluation.transfer import figure
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.students.checkpoint import predict
from ml.students.dataset import Dataset, build_training_set, load
from ml.students.preprocessing import Preprocessing
from ml.students.space import ControlSpace, StudentSpace
from ml.students.train import fit
from ml.students.tune import Budget, Tuned, tune
from ml.surfaces.edit import changed, changes
from ml.surfaces.files import load_surface
from ml.surfaces.scaffold import scaffold
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE

FIRST_DAY = date(2026, 1, 1)
SETTINGS = Path(__file__).with_suffix(".yaml")
APPS: Mapping[str, dict[str, Any]] = {
    "3k": {"days": 16, "rows_per_day": 200, "users": 60, "items": 40, "popularity": 0.5, "activity": 0.8},
    "30k": {"days": 31, "rows_per_day": 1_000, "users": 400, "items": 200, "popularity": 0.7, "activity": 0.3},
    "300k": {"days": 31, "rows_per_day": 10_000, "users": 6_000, "items": 1_500, "popularity": 0.4, "activity": 0.6},
}
TEACHERS = {"users": ("user",), "items": ("item",), "pairs": ("pair",), "nothing": ()}
SEEDS, REPLICATES, SWEEP = 2, 200, 30
WORLD = 1
"""Seed of the worlds. Those of seed 0 were looked at while the order of the search was chosen."""
NOISE = 0.4


@dataclass(frozen=True)
class App:
    """A scaffolded surface with rows: those to fit and to judge settings by, all training rows, and those to judge."""

    surface: Surface
    path: Path
    fitted: Dataset
    validation: Dataset
    train: Dataset
    judged: Dataset


def make_app(folder: Path, world: Mapping[str, Any], seed: int = 0) -> App:
    """Scaffold a surface, write its world and read it back."""
    [path, *_] = scaffold("podcasts", folder, surfaces_dir=folder / "surfaces")
    surface = load_surface(path)
    settings = Settings(home=folder / "home", first_day=FIRST_DAY, threads=1)
    last = FIRST_DAY + timedelta(days=world["days"])
    with Lake(settings) as lake:
        write_world(lake, surface, Shape(first_day=FIRST_DAY, teacher_noise=NOISE, seed=seed, **world))
        rows = build_training_set(lake, surface, last, LABELS)
    fit_days, validation_days = rows.validation_split(surface.window.validation_days)

    def read(days: tuple[date, ...], *, judged: bool) -> Dataset:
        where = "serving" if judged else "logged"
        return load(settings, rows, surface, days, soft_labels=not judged, after_ranking=where)

    return App(
        surface,
        path,
        read(fit_days, judged=False),
        read(validation_days, judged=True),
        read(rows.train_days, judged=False),
        read(rows.eval_days, judged=True),
    )


def tuned_app(app: App) -> Tuned:
    """Tune as the command does without an option, and write the file."""
    tuned = tune(app.fitted, app.validation, app.surface, budget=Budget(600.0, 12), seed=0, report=_said)
    app.path.write_text(changed(app.path.read_text(), changes(app.surface, tuned.surface)))
    assert load_surface(app.path) == tuned.surface
    return tuned


def scores_of(app: App, surface: Surface, technique: str) -> list[np.ndarray]:
    """Return the scores of the evaluation rows, one array per initialisation."""
    inputs = {name: column.numpy() for name, column in app.judged.inputs.items()}
    rankers = [fit(app.train, surface, technique=technique, seed=seed)[0] for seed in range(SEEDS)]
    return [predict(ranker, inputs)["ctr"] for ranker in rankers]


def gain_of(app: App, mine: list[np.ndarray], other: list[np.ndarray]) -> Interval:
    """Return the difference in AUC, its interval over users and initialisations."""
    weights = UserWeights(app.judged.user_id.numpy(), seed=0, replicates=REPLICATES)
    labels = app.judged.labels["ctr"].numpy().astype(np.float64)
    pairs = [
        [figure(weights, weights.codes, labels, scores, binary=True) for scores in pair]
        for pair in zip(mine, other, strict=True)
    ]
    drawn = np.stack([a[1] - b[1] for a, b in pairs])
    return interval(float(np.mean([a[0] - b[0] for a, b in pairs])), over_seeds(drawn, 0))


def boosted_scores(app: App) -> np.ndarray:
    """Return the scores of gradient-boosted trees of the same inputs, ids by their cross-fitted click rate."""
    preprocessing = Preprocessing.fit(app.surface.inputs, app.train.inputs)
    with torch.no_grad():
        learn, judge = (preprocessing.convert(data.inputs) for data in (app.train, app.judged))
    labels = app.train.labels["ctr"].numpy().astype(int)
    encoder = TargetEncoder()
    learnt = np.hstack([encoder.fit_transform(learn[0].numpy(), labels), learn[1].numpy()])
    shown = np.hstack([encoder.transform(judge[0].numpy()), judge[1].numpy()])
    model = HistGradientBoostingClassifier(random_state=0, early_stopping=True).fit(learnt, labels)  # pyright: ignore[reportArgumentType]
    return model.decision_function(shown)


def best_surface(app: App, tuned: Tuned, size: str) -> Surface:
    """Return the surface with the best settings that are known for this app."""
    found = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))[size]
    control = ControlSpace(app.surface, len(app.fitted))
    base = control.surface_of({**control.present, **found["control"]})
    return StudentSpace(base).surface_of(found["student"])


def run(size: str) -> str:
    """Tune, train and judge one app; return its line."""
    with tempfile.TemporaryDirectory() as folder:
        app = make_app(Path(folder), APPS[size], WORLD)
        tuned = tuned_app(app)
        for line in tuned.lines():
            _note(f"{size}: {line}")
        control = scores_of(app, tuned.surface, NO_TECHNIQUE)
        linear = linear_scores(app.train, app.judged, app.surface)
        [against] = against_control(linear, {"ctr": np.mean(control, axis=0)}, app.judged, app.surface, seed=0)
        ends = f"[{100 * against.lo:+.2f}, {100 * against.hi:+.2f}]"
        below = ", the control is undertrained" if against.undertrained else ""
        _note(f"{size}: linear model - control {100 * against.gain:+.2f} {ends}{below}")
        trees = gain_of(app, [boosted_scores(app)] * SEEDS, control)
        _note(f"{size}: boosted trees - control {_shown(trees)}")
        technique = tuned.surface.distillation.technique
        student = scores_of(app, tuned.surface, technique) if technique != NO_TECHNIQUE else control
        surface = best_surface(app, tuned, size)
        best = gain_of(app, scores_of(app, surface, surface.distillation.technique), control)
        return f"{size} gain {_shown(gain_of(app, student, control))} best {100 * best.estimate:+.2f}"


def sweep(size: str, trials: int = SWEEP) -> dict[str, Any]:
    """Search control and student settings at random on the validation days; return the best."""
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        app = make_app(Path(folder), APPS[size])
        inputs = {name: column.numpy() for name, column in app.validation.inputs.items()}
        label = app.validation.labels["ctr"].numpy().astype(np.float64)
        control = ControlSpace(app.surface, len(app.fitted))
        found: list[tuple[float, dict[str, Any]]] = []
        for _ in range(trials):
            of_control = {
                "learning_rate": float(f"{10 ** rng.uniform(-0.7, 0.7):.3g}"),
                "embedding_learning_rate": float(f"{10 ** rng.uniform(-0.7, 0.7):.3g}"),
                "weight_decay": float(rng.choice([0.0, 0.01, 0.1])),
                "embedding": int(rng.choice([4, 8, 16, 32])),
                "width": float(rng.choice([1.0, 2.0])),
            }
            technique = str(rng.choice(["auxiliary", "auxiliary", "interaction", "non_serving", "representation"]))
            of_student: dict[str, Any] = {
                "technique": technique,
                "click.weight": float(rng.choice([0.3, 1, 3, 10, 30])),
            }
            of_student["click.centre_by"] = [None, None, "user_id"][rng.integers(3)]
            surface = StudentSpace(control.surface_of({**control.present, **of_control})).surface_of(of_student)
            scores = predict(fit(app.fitted, surface, technique=technique, seed=0)[0], inputs)["ctr"].astype(np.float64)
            loss = float(np.mean(np.logaddexp(0.0, scores) - label * scores))
            found.append((loss, {"control": of_control, "student": of_student}))
            _note(f"{size} sweep {len(found)} of {trials}: {loss:.4f} {found[-1][1]}")
        return min(found, key=lambda each: each[0])[1]


def teachers() -> None:
    """Print what is advised, chosen and gained with teachers of one kind of knowledge each."""
    world = {**APPS["3k"], "days": 20, "rows_per_day": 400, "users": 150, "popularity": 0.9, "activity": 0.9}
    print(
        "| the teacher knows | user | item | pair | advice | chosen | gain |\n|---|---|---|---|---|---|---|", flush=True
    )
    for name, knows in TEACHERS.items():
        with tempfile.TemporaryDirectory() as folder:
            app = make_app(Path(folder), {**world, "knows": knows})
            [parts] = teacher_parts(app.fitted, app.surface)
            tuned = tuned_app(app)
            technique = tuned.surface.distillation.technique
            control = scores_of(app, tuned.surface, NO_TECHNIQUE)
            student = scores_of(app, tuned.surface, technique) if technique != NO_TECHNIQUE else control
            shares = " | ".join(f"{100 * share:.0f} %" for share in (parts.user, parts.item, parts.pair))
            chosen = ", ".join(str(value) for value in (tuned.student.setting or {}).values()) if tuned.student else ""
            warned = f"; {parts.warning}" if parts.warning else ""
            gain = _shown(gain_of(app, student, control))
            print(f"| {name} | {shares} | {parts.advice}{warned} | {chosen or 'none'} | {gain} |", flush=True)


def _shown(gain: Interval) -> str:
    return f"{100 * gain.estimate:+.2f} [{100 * gain.lo:+.2f}, {100 * gain.hi:+.2f}]"


def _said(stage: str, done: int, most: int, trial: Any) -> None:
    _note(f"  {stage} {done} of {most} at most: {trial.unexplained:.4f} left, {trial.setting}")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=list(APPS), action="append")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--teachers", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.teachers:
        teachers()
        return
    for size in given.size or list(APPS):
        if given.sweep:
            kept = yaml.safe_load(SETTINGS.read_text(encoding="utf-8")) if SETTINGS.exists() else {}
            SETTINGS.write_text(yaml.safe_dump({**kept, size: sweep(size)}, sort_keys=False), encoding="utf-8")
        else:
            print(run(size), flush=True)


if __name__ == "__main__":
    main()

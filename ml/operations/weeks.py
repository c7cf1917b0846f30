"""The app's weeks: per surface and day, what was gained, decided and served, from lake and stores."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from ml.evaluation.results import Difference, Evaluation
from ml.evaluation.rows import newest_day
from ml.evaluation.served_kinds import AS_LOGGED, CALIBRATION, EXPOSED, MATCHED, UNEQUAL, served_skew_table
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.lake import ALIAS, FEATURES, ML, Lake
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.inference.snapshot import published_day
from ml.releases.release import manifest_of
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import because
from ml.stages.artifacts import artifact_name
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from ml.teacher.labels import named_labels
from ml.teacher.teachers import teacher_names

MOVES = {
    "promote": "promoted",
    "popularity": "popularity serves",
    "override": "promoted against the gate",
    "rollback": "rolled back to",
    "recover": "recovered",
}


@dataclass(frozen=True)
class Calibrated:
    """How the student's predictions of a binary task compare with what happened, inputs as logged as in the gate."""

    ece: float
    predicted_over_observed: float


@dataclass(frozen=True)
class Evaluated:
    """A day's student beside its control, and what the gate decided about the day's candidate.

    Attributes:
        day: Partition.
        metrics: Primary metric by task.
        gains: ``student - control`` by task.
        calibration: Of the student, by binary task.
        candidate: Which ranker was exported; None where none was.
        decision: Of the gate; None where it never judged.
        because: Why it decided so.
        teacher_age: Days from the last day that the teacher learnt from, of several the oldest; None where one does not
            say.
    """

    day: date
    metrics: Mapping[str, str]
    gains: Mapping[str, Difference]
    calibration: Mapping[str, Calibrated]
    candidate: str | None
    decision: str | None
    because: str
    teacher_age: int | None


@dataclass(frozen=True)
class Moved:
    """A change of what serves."""

    day: date
    what: str
    release: str
    by: str
    reason: str


@dataclass(frozen=True)
class Covered:
    """A day's examples, and the share of them that has soft labels: of several teachers, that of the one with least."""

    day: date
    rows: int
    share: float


@dataclass(frozen=True)
class ServedDay:
    """What the newest compared day of the served log says.

    Attributes:
        day: The day.
        matched: Exposures whose answer was logged.
        unequal: Inputs whose served values differ from the training rows, with the share that does; the worst first.
        ratios: Predicted over observed positives of what was shown, by task.
    """

    day: date
    matched: int
    unequal: Mapping[str, float]
    ratios: Mapping[str, float]


@dataclass(frozen=True)
class Weeks:
    """A surface's days, oldest first.

    Attributes:
        surface: Name.
        evaluated: Days with an evaluation.
        moved: Changes of what serves.
        covered: Days with examples.
        champion: Release that serves; None where nothing does.
        features: Day of the features that serving is pointed to.
        newest: Newest day with examples.
        served: The newest compared day of the served log; None without any.
    """

    surface: str
    evaluated: tuple[Evaluated, ...]
    moved: tuple[Moved, ...]
    covered: tuple[Covered, ...]
    champion: str | None
    features: date | None
    newest: date | None
    served: ServedDay | None = None


def weeks(settings: Settings, days: int) -> list[Weeks]:
    """Return the last ``days`` days of every surface; nothing is written, and what is damaged is told, not raised."""
    with Lake(settings) as lake:
        return [_of(settings, lake, surface, days) for surface in load_surfaces(settings).values()]


def _of(settings: Settings, lake: Lake, surface: Surface, days: int) -> Weeks:
    store, artifacts = ReleaseStore.of(settings), ArtifactStore(settings.artifacts_dir)
    partitions = artifacts.partitions(artifact_name(surface, "evaluation"))
    newest = newest_day(lake, surface)
    last = max([date.fromisoformat(name) for name in partitions] + ([newest] if newest else []), default=date.min)
    since = last - timedelta(days=days - 1) if last > date.min + timedelta(days=days) else date.min
    log = store.champions.read(surface.name)
    return Weeks(
        surface=surface.name,
        evaluated=tuple(
            _evaluated(store, artifacts, surface, day) for day in map(date.fromisoformat, partitions) if day >= since
        ),
        moved=tuple(
            Moved(entry.partition, MOVES[entry.action], entry.release, entry.by, entry.reason)
            for entry in log.entries
            if entry.moves and entry.partition >= since
        ),
        covered=tuple(_covered(lake, surface, since)) if newest else (),
        champion=log.champion,
        features=published_day(settings),
        newest=newest,
        served=_served(lake, surface.name),
    )


def _evaluated(store: ReleaseStore, artifacts: ArtifactStore, surface: Surface, day: date) -> Evaluated:
    stored = artifacts.latest(artifact_name(surface, "evaluation"), str(day))
    assert stored is not None, "a partition has an artifact"
    evaluation = Evaluation.from_json(stored.read("evaluation.json").decode())
    tasks = [t for t in evaluation.kinds if evaluation.has("student", t) and evaluation.has("control", t)]
    binary = [t for t in tasks if evaluation.kinds[t] == "binary" and evaluation.has("student", t, "logged")]
    candidate = artifacts.latest(artifact_name(surface, "onnx"), str(day))
    kind, decision, why, age = _decided(store, surface.name, candidate, day)
    return Evaluated(
        day=day,
        metrics={task: evaluation.primary(task) for task in tasks},
        gains={task: evaluation.difference("student", "control", task) for task in tasks},
        calibration={
            task: Calibrated(
                evaluation.metric("student", task, metric="ece", inputs="logged"),
                evaluation.metric("student", task, metric="predicted_over_observed", inputs="logged"),
            )
            for task in binary
        },
        candidate=kind,
        decision=decision,
        because=why,
        teacher_age=age,
    )


def _decided(
    store: ReleaseStore, surface: str, candidate: Artifact | None, day: date
) -> tuple[str | None, str | None, str, int | None]:
    """Return a candidate's kind, the gate's decision, why, and the teacher's age in days."""
    if candidate is None:
        return None, None, "", None
    try:
        manifest = manifest_of(candidate)
        judged = store.verdicts.of_candidate(surface, candidate.digest)
    except DamagedError as error:
        return None, "damaged", str(error), None
    through = [teacher.trained_through for teacher in manifest.teachers]
    known = [last for last in through if last is not None]
    age = (day - min(known)).days if known and len(known) == len(through) else None
    if not judged:
        return manifest.kind, None, "", age
    return manifest.kind, judged[-1].verdict.decision, because(judged[-1].verdict.guards), age


def _covered(lake: Lake, surface: Surface, since: date) -> list[Covered]:
    """Return the days with examples from ``since`` on, oldest first."""
    examples, labels = f"{FEATURES}.examples_{surface.name}", f"{ML}.soft_labels_{surface.name}"
    labelled, teachers = (
        "select null::date as day, 0 as n where false",
        [n for n in teacher_names(lake.settings, surface) if n is not None],
    )
    if lake.table_exists(labels) and not teachers:
        labelled = f"select day, count(distinct exposure_id) as n from {ALIAS}.{labels} where day >= $1 group by day"
    elif lake.table_exists(labels):
        names = ", ".join(f"'{name}'" for name in teachers)
        labelled = (
            f"select day, case when count(*) < {len(teachers)} then 0 else min(n) end as n from ("
            f"select day, teacher, count(distinct exposure_id) as n from {named_labels(lake, labels)} "
            f"where day >= $1 and teacher in ({names}) group by day, teacher) group by day"
        )
    rows = lake.sql(
        f"select e.day, e.n as rows, coalesce(l.n, 0) as labelled from (select day, count(*) as n from "
        f"{ALIAS}.{examples} where day >= $1 group by day) as e left join ({labelled}) as l on l.day = e.day "
        "order by e.day",
        [since],
    ).to_pylist()
    return [Covered(row["day"], row["rows"], min(1.0, row["labelled"] / row["rows"])) for row in rows]


def _served(lake: Lake, surface: str) -> ServedDay | None:
    """Return what the newest compared day says, if any was compared."""
    table = served_skew_table(surface)
    if not lake.table_exists(table):
        return None
    found = f"select * from {ALIAS}.{table} where day = (select max(day) from {ALIAS}.{table}) order by value desc"
    rows = lake.sql(found).to_pylist()
    if not rows:
        return None
    return ServedDay(
        day=rows[0]["day"],
        matched=sum(row["n"] for row in rows if (row["kind"], row["name"]) == (EXPOSED, MATCHED)),
        unequal={row["name"]: row["value"] for row in rows if row["kind"] == UNEQUAL and (row["value"] or 0) > 0},
        ratios={
            row["name"]: row["value"]
            for row in rows
            if row["kind"] == CALIBRATION and row["of"] == AS_LOGGED and row["value"] is not None
        },
    )

"""Which rows the students of a partition learn from and are judged on, and which partition is due."""

from datetime import date, timedelta

from ml.foundation.artifacts import ArtifactStore
from ml.foundation.file_stores import open_files
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.ownership import require_owner
from ml.releases.store import ReleaseStore
from ml.stages.artifacts import artifact_name, find
from ml.students.dataset import TrainingSet, TrainingSetError, build_training_set
from ml.surfaces.spec import Surface
from ml.teacher.contract import ContractError
from ml.teacher.teachers import labels_of
from ml.teacher.withdrawn import drop_withdrawn, drop_withdrawn_vectors, withdrawn_rows, withdrawn_table


def make_training_set(settings: Settings, surface: Surface, partition: date) -> TrainingSet:
    """Fix which rows the students of a partition learn from and are judged on; return them.

    Every file of the days that these rows were made from is read first: a landed file that was damaged before the
    examples were built from it shows in none of theirs. Labels and vectors of withdrawn links are dropped.

    Raises:
        DamagedError: A file is not as it was written.
    """
    labels = labels_of(settings, surface)
    with Lake(settings) as lake:
        require_owner(open_files(settings.artifacts_dir), lake.id())
        drop_withdrawn(lake, surface.name)
        drop_withdrawn_vectors(lake)
        made = build_training_set(lake, surface, partition, labels)
        check_files(lake, surface, made)
    ArtifactStore(settings.artifacts_dir).put(
        artifact_name(surface, "training_set"),
        partition.isoformat(),
        {"training_set.json": made.to_json().encode()},
        {"surface_digest": surface.digest},
    )
    return made


def check_files(lake: Lake, surface: Surface, made: TrainingSet) -> None:
    """Read every file of the days that rows were made from.

    Raises:
        DamagedError: One is not as it was written.
    """
    first = made.train_days[0] - timedelta(days=lake.settings.feature_window_days)
    last = made.eval_days[-1] + timedelta(days=surface.label_window_days)
    lake.files.check(lake.files.named(days=(first, last)))


def without_consent(settings: Settings, made: TrainingSet) -> tuple[int, tuple[str, ...]]:
    """Tell what withdrawn links did to a training set.

    Returns:
        Its exposures whose soft labels were dropped, and the stored releases of the surface that had learnt from some.
    """
    noted = withdrawn_table(made.surface)
    with Lake(settings) as lake:
        rows = withdrawn_rows(lake, made.surface, made.train_days + made.eval_days)
        dropped = f"select distinct day, lake_snapshot from lake.{noted}"
        days = lake.connection.execute(dropped).fetchall() if lake.table_exists(noted) else []
    store = ReleaseStore.of(settings)
    manifests = {release: store.release(made.surface, release).manifest for release in store.releases(made.surface)}
    learnt = [
        release
        for release, told in manifests.items()
        if any(day in told.train_days and told.snapshot <= snapshot for day, snapshot in days)
    ]
    return rows, tuple(learnt)


def read_training_set(settings: Settings, surface: Surface, partition: date) -> TrainingSet:
    """Return the recorded ``TrainingSet`` of a partition."""
    return TrainingSet.from_json(find(settings, surface, "training_set", partition).read("training_set.json").decode())


def newest_partition(settings: Settings, surface: Surface) -> tuple[date | None, str]:
    """Return the newest day that a student can be made of and was not, or None and why.

    A partition D needs examples and soft labels of every day of its window, the last of which became final with D.
    """
    try:
        labels = labels_of(settings, surface)
    except (ContractError, FileNotFoundError) as error:
        return None, f"no teacher yet: {error}"
    with Lake(settings) as lake:
        table = f"features.examples_{surface.name}"
        if not lake.table_exists(table):
            return None, f"{table} was not built yet"
        (last,) = lake.connection.execute(f"select max(day) from lake.{table}").fetchone() or (None,)
        if last is None:
            return None, f"{table} is empty"
        day = surface.partition_of(last)
        if settings.last_day is not None:
            day = min(day, settings.last_day)
        if ArtifactStore(settings.artifacts_dir).latest(artifact_name(surface, "onnx"), day.isoformat()) is not None:
            return None, f"the candidate of {day} was made already"
        try:
            build_training_set(lake, surface, day, labels)
        except TrainingSetError as error:
            return None, str(error)
    return day, ""

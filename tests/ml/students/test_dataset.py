from datetime import date, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from benchmarks.synthetic import LABELS, OUTPUTS, Shape, world
from ml.foundation.lake import Lake
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.students.dataset import TrainingSet, TrainingSetError, build_training_set, load
from ml.surfaces.spec import Surface

FIRST_DAY = date(2026, 1, 1)
DAYS = [FIRST_DAY + timedelta(days=d) for d in range(6)]
PARTITION = date(2026, 1, 7)
TABLES = ("features.examples_homepage", "ml.soft_labels_homepage")


def tables(surface: Surface, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    return world(surface, Shape(FIRST_DAY, len(DAYS), 20, users=5, items=5, teacher_noise=1.0, seed=seed))


def put(settings: Settings, examples: pa.Table | None, soft: pa.Table | None, days: list[date] = DAYS) -> int:
    with Lake(settings) as lake:
        for name, rows in zip(TABLES, (examples, soft), strict=True):
            if rows is not None:
                lake.replace_days(name, rows, days)
        return lake.snapshot()


def build(settings: Settings, surface: Surface, partition: date = PARTITION, **changes) -> TrainingSet:
    [of] = LABELS
    with Lake(settings) as lake:
        return build_training_set(lake, surface, partition, [of.model_copy(update=changes)])


@pytest.mark.slow
def test_a_set_names_its_days_rows_and_snapshot_and_survives_json(home: Settings, surface: Surface):
    snapshot = put(home, *tables(surface))
    made = build(home, surface)
    assert made.snapshot == snapshot
    assert made.train_days == tuple(DAYS[:4])  # clipped to first_day: the window is 8 days
    assert made.eval_days == tuple(DAYS[4:])
    assert made.rows == dict.fromkeys(DAYS, 20)
    assert made.coverage == dict.fromkeys(DAYS, 1.0)
    assert TrainingSet.from_json(made.to_json()) == made
    assert TrainingSet.from_json(made.to_json()).digest == made.digest


@pytest.mark.slow
def test_equal_rows_give_an_equal_content_hash_and_changed_ones_another(home: Settings, surface: Surface):
    examples, soft = tables(surface)
    put(home, examples, soft)
    first = build(home, surface).content_hash
    put(home, examples.take(np.random.default_rng(1).permutation(len(examples))), None)
    assert build(home, surface).content_hash == first
    put(home, None, tables(surface, seed=1)[1])
    assert build(home, surface).content_hash != first


@pytest.mark.slow
def test_the_recorded_query_gives_the_rows_of_the_set(home: Settings, surface: Surface):
    put(home, *tables(surface))
    made = build(home, surface)
    with Lake(home, snapshot=made.snapshot) as lake:
        assert lake.content_hash(f"({made.query})") == (120, made.content_hash)


def test_too_few_days_are_refused_and_the_first_partition_named(home: Settings, surface: Surface):
    put(home, *tables(surface))
    with pytest.raises(TrainingSetError, match=r"2 training days since 2026-01-01, 3 are needed.*2026-01-06"):
        build(home, surface, date(2026, 1, 5))


def test_a_day_without_rows_is_refused_by_name(home: Settings, surface: Surface):
    examples, soft = tables(surface)
    put(home, without(examples, DAYS[2]), soft)
    with pytest.raises(TrainingSetError, match="no final rows of 2026-01-03"):
        build(home, surface)


def land(settings: Settings, shown: pa.Table) -> None:
    """Write the base tables of all days, with the exposures of the homepage."""
    exposures = shown.select(["day", "exposure_id"]).append_column("surface", pa.array(["homepage"] * len(shown)))
    with Lake(settings) as lake:
        lake.replace_days("features.int_day", pa.table({"day": pa.array(DAYS, pa.date32())}), DAYS)
        lake.replace_days("features.stg_exposures", exposures, DAYS)


def without(table: pa.Table, *days: date) -> pa.Table:
    return table.filter(~pc.field("day").isin(days))


@pytest.mark.slow
def test_a_day_on_which_nothing_was_shown_is_in_the_set_as_empty(home: Settings, surface: Surface):
    examples, soft = (without(table, DAYS[2], DAYS[3], DAYS[4]) for table in tables(surface))
    put(home, examples, soft)
    land(home, examples)
    made = build(home, surface)
    assert (made.train_days, made.eval_days) == (tuple(DAYS[:4]), tuple(DAYS[4:]))
    assert made.rows == {day: 0 if day in DAYS[2:5] else 20 for day in DAYS}
    assert made.coverage == {DAYS[0]: 1.0, DAYS[1]: 1.0, DAYS[5]: 1.0}
    assert len(load(home, made, surface, made.train_days, soft_labels=True)) == 40
    assert len(load(home, made, surface, [DAYS[2]], soft_labels=True)) == 0
    fit, validation = made.validation_split(1)
    assert (fit, validation) == (tuple(DAYS[:1]), tuple(DAYS[1:4])), "a day with rows is validated on"
    with pytest.raises(TrainingSetError, match="2 training days with rows leave none before 2 validation days"):
        made.validation_split(2)


@pytest.mark.slow
def test_a_day_whose_exposures_landed_is_missing_and_not_empty(home: Settings, surface: Surface):
    examples, soft = tables(surface)
    put(home, without(examples, DAYS[2]), without(soft, DAYS[2]))
    land(home, examples)
    with pytest.raises(TrainingSetError, match="no final rows of 2026-01-03"):
        build(home, surface)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "days"), [("training", DAYS[:4]), ("evaluation", DAYS[4:])])
def test_a_window_on_which_nothing_was_shown_at_all_is_refused(home, surface, window: str, days: list[date]):
    examples, soft = (without(table, *days) for table in tables(surface))
    put(home, examples, soft)
    land(home, examples)
    with pytest.raises(TrainingSetError, match=f"nothing was shown on the {window} days {days[0]} to {days[-1]}"):
        build(home, surface)


def test_missing_tables_are_refused_by_name(home: Settings, surface: Surface):
    put(home, tables(surface)[0], None)
    with pytest.raises(TrainingSetError, match=r"no table ml\.soft_labels_homepage"):
        build(home, surface)


def test_a_day_without_soft_labels_of_the_teacher_is_refused(home: Settings, surface: Surface):
    put(home, *tables(surface))
    with pytest.raises(
        TrainingSetError, match=r"no soft labels of teacher 2 \(c0ffee\) for 2026-01-01.*\('1', 'c0ffee'\)"
    ):
        build(home, surface, version="2")


@pytest.mark.slow
def test_soft_labels_of_two_teachers_in_one_day_are_refused(home: Settings, surface: Surface):
    examples, soft = tables(surface)
    version = np.where(np.arange(len(soft)) % 2, "1", "2")
    put(home, examples, soft.set_column(2, "teacher_version", pa.array(version)))
    with pytest.raises(TrainingSetError, match="mixed"):
        build(home, surface)


@pytest.mark.slow
def test_an_older_teacher_beside_a_full_labelling_does_no_harm(home: Settings, surface: Surface):
    examples, soft = tables(surface)
    older = soft.set_column(2, "teacher_version", pa.array(["0"] * len(soft)))
    put(home, examples, pa.concat_tables([soft, older]))
    made = build(home, surface)
    assert made.rows == dict.fromkeys(DAYS, 20)


@pytest.mark.slow
def test_a_missing_soft_label_lowers_the_coverage_and_becomes_nan(home: Settings, surface: Surface):
    examples, soft = tables(surface)
    dropped = soft["exposure_id"][0].as_py()
    put(home, examples, soft.slice(1))
    made = build(home, surface)
    assert sorted(made.coverage.values())[0] == 0.95
    data = load(home, made, surface, DAYS, soft_labels=True)
    for scores in data.soft_labels.values():
        assert data.exposure_id[torch.isnan(scores)].tolist() == [dropped]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["repeated", "narrow"])
def test_repeated_soft_labels_and_ones_of_another_width_are_refused(home: Settings, surface: Surface, fault: str):
    examples, soft = tables(surface)
    if fault == "repeated":
        put(home, examples, pa.concat_tables([soft, soft.slice(0, 1)]))
    else:
        put(home, examples, soft)
    outputs = OUTPUTS if fault == "repeated" else OUTPUTS[:3]
    with pytest.raises(TrainingSetError, match="several rows" if fault == "repeated" else "4 to 4 outputs, not 3"):
        build(home, surface, outputs=outputs)


@pytest.mark.slow
def test_rows_come_in_order_of_time_with_their_own_labels_and_soft_labels(home: Settings, surface: Surface):
    examples, soft = tables(surface)
    put(home, examples, soft)
    data = load(home, build(home, surface), surface, DAYS[1:3], soft_labels=True)
    expected = duckdb.sql(
        "select e.*, s.scores from examples e join soft s using (exposure_id) "
        f"where e.day in (date '{DAYS[1]}', date '{DAYS[2]}') order by e.ts, e.exposure_id"
    ).to_arrow_table()
    assert len(data) == 40
    assert data.exposure_id.tolist() == expected["exposure_id"].to_pylist()
    assert data.user_id.tolist() == expected["user_id"].to_pylist()
    assert set(data.day.tolist()) == {(day - date(1970, 1, 1)).days for day in DAYS[1:3]}
    for task in ("ctr", "trail", "discovery"):
        want = np.array(expected[f"label_{task}"].to_pylist(), dtype=np.float32)
        np.testing.assert_array_equal(data.labels[task].numpy(), want)
    scores = np.array(expected["scores"].to_pylist(), dtype=np.float32)
    for index, output in enumerate(OUTPUTS):
        np.testing.assert_array_equal(data.soft_labels[output].numpy(), scores[:, index])
    ages = np.array(expected["item_age_days"].fill_null(365.0).to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(data.inputs["item_age_days"].numpy(), ages)


@pytest.mark.slow
def test_reading_is_pinned_to_the_snapshot(home: Settings, surface: Surface):
    put(home, *tables(surface))
    made = build(home, surface)
    before = load(home, made, surface, DAYS, soft_labels=True)
    put(home, *tables(surface, seed=9))
    after = load(home, made, surface, DAYS, soft_labels=True)
    assert torch.equal(before.exposure_id, after.exposure_id)
    for name, column in before.inputs.items():
        assert torch.equal(column, after.inputs[name])


@pytest.mark.slow
def test_a_control_reads_no_soft_labels(home: Settings, surface: Surface):
    examples, soft = tables(surface)
    without = put(home, examples, None)
    put(home, None, soft)
    made = build(home, surface).model_copy(update={"snapshot": without})
    assert load(home, made, surface, DAYS, soft_labels=False).soft_labels == {}
    with pytest.raises(duckdb.CatalogException):
        load(home, made, surface, DAYS, soft_labels=True)


@pytest.mark.slow
def test_other_days_and_another_number_of_rows_are_refused(home: Settings, surface: Surface):
    put(home, *tables(surface))
    made = build(home, surface)
    with pytest.raises(TrainingSetError, match="2026-02-01 not in the training set"):
        load(home, made, surface, [date(2026, 2, 1)], soft_labels=False)
    short = made.model_copy(update={"rows": made.rows | {DAYS[0]: 19}})
    with pytest.raises(TrainingSetError, match="has 20 rows, the set has 19"):
        load(home, short, surface, DAYS[:1], soft_labels=False)


@pytest.mark.slow
def test_after_ranking_inputs_can_be_read_at_their_serving_value(home: Settings, surface: Surface):
    put(home, *tables(surface))
    made = build(home, surface)
    assert load(home, made, surface, DAYS, soft_labels=False).inputs["row"].unique().numel() > 5
    assert load(home, made, surface, DAYS, soft_labels=False, after_ranking="serving").inputs[
        "row"
    ].unique().tolist() == [0]


@pytest.mark.slow
@pytest.mark.parametrize("table", ["features.examples_homepage", "ml.soft_labels_homepage"])
def test_rows_of_a_file_that_was_changed_are_not_read(settings, training_set: TrainingSet, surface, table: str) -> None:
    day = training_set.train_days[-1]
    with Lake(settings) as lake:
        [file] = lake.files.named(at=training_set.snapshot, tables=[table], days=(day, day))
    path = settings.lake_dir / "data" / file.path
    whole = path.read_bytes()
    path.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    try:
        with pytest.raises(DamagedError, match=path.name):
            load(settings, training_set, surface, training_set.train_days, soft_labels=True)
        load(settings, training_set, surface, training_set.train_days[:-1], soft_labels=True)
    finally:
        path.write_bytes(whole)

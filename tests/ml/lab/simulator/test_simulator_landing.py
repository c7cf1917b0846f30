"""The simulator's files: they keep the landing contract, and a landing zone holds one world."""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.foundation.lake import Lake
from ml.foundation.progress import Step
from ml.foundation.settings import Settings
from ml.lab.simulator.tables import TABLES
from ml.lab.simulator.world import World
from ml.lab.simulator.write import MARKER, PART, LandingZoneError, write_landing
from ml.landing.contract import load_contract
from ml.landing.load import init_tables, load_days
from ml.landing.readiness import missing
from tests.support.known import the

DAYS = 11
FIRST_DAY = date(2026, 1, 1)


def settings_of(home: Path, **values: Any) -> Settings:
    return Settings(home=home, simulator_preset="tiny", simulator_seed=3, threads=1, **values)


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = settings_of(tmp_path_factory.mktemp("landing"))
    assert len(write_landing(settings)) == DAYS * len(TABLES)
    return settings


def read(settings: Settings, table: str, day: int | None = None) -> pl.DataFrame:
    folder = the(Path, settings.landing_dir) / table
    days = [day] if day is not None else range(DAYS)
    return pl.concat([pl.read_parquet(folder / f"day={FIRST_DAY + timedelta(days=d)}" / PART) for d in days])


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_files_have_the_columns_and_types_of_the_contract(landed: Settings, table: str) -> None:
    types = {
        "string": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("us"),
    }
    contract = load_contract(landed).table(table)
    for path in (the(Path, landed.landing_dir) / table).glob("day=*/*.parquet"):
        schema = pq.read_schema(path)
        assert schema.names == list(contract.columns)
        for name, column in contract.columns.items():
            assert schema.field(name).nullable == column.nullable
            if column.kind == "float_vector":
                assert schema.field(name).type.value_type == pa.float32()
            else:
                assert schema.field(name).type == types[column.type]


@pytest.mark.parametrize("table", TABLES)
def test_rows_keep_the_bounds_and_keys_of_the_contract(landed: Settings, table: str) -> None:
    contract = load_contract(landed).table(table)
    for day in range(DAYS):
        rows = read(landed, table, day)
        assert rows.select(contract.key).is_duplicated().sum() == 0
        midnight = datetime.combine(FIRST_DAY + timedelta(days=day), datetime.min.time())
        for name, column in contract.columns.items():
            values = rows[name]
            assert column.nullable or values.null_count() == 0, name
            if column.kind == "float_vector":
                assert values.drop_nulls().list.len().unique().to_list() in ([], [column.length])
            if column.kind == "timestamp" and not column.any_day:
                assert values.is_between(midnight, midnight + timedelta(days=1), closed="left").all()
            if column.min is not None:
                assert (values.drop_nulls() >= column.min).all(), name
            if column.max is not None:
                assert (values.drop_nulls() <= column.max).all(), name
            if column.values:
                assert set(values.drop_nulls()) <= set(column.values)


def test_ids_of_exposures_and_listens_are_unique_over_all_days(landed: Settings) -> None:
    for table, key in (("exposures", "exposure_id"), ("listens", "listen_id"), ("source_impressions", "impression_id")):
        assert read(landed, table)[key].is_duplicated().sum() == 0


def test_every_listen_that_names_an_exposure_follows_it(landed: Settings) -> None:
    shown, played = read(landed, "exposures"), read(landed, "listens").drop_nulls("exposure_id")
    both = played.join(shown, on="exposure_id", how="left", suffix="_shown")
    assert both["surface"].null_count() == 0
    for column in ("user_id", "session_id", "item_id"):
        assert (both[column] == both[f"{column}_shown"]).all()
    assert (both["ts"] > both["ts_shown"]).all()
    assert played["exposure_id"].is_duplicated().sum() == 0


def test_events_name_items_and_users_that_have_landed(landed: Settings) -> None:
    items, users = set(), set()
    for day in range(DAYS):
        items |= set(read(landed, "items", day)["item_id"])
        users |= set(read(landed, "users", day)["user_id"])
        for table in ("exposures", "listens"):
            rows = read(landed, table, day)
            assert set(rows["item_id"]) <= items
            assert set(rows["user_id"]) <= users
    assert len(items) == 200
    assert len(users) == 200


def test_catalogues_land_whole_at_first_then_what_is_new_or_changed(landed: Settings) -> None:
    items = read(landed, "items")
    assert len(read(landed, "items", 0)) > 100 > max(len(read(landed, "items", day)) for day in range(1, DAYS))
    again = items.filter(pl.col("item_id").is_duplicated())
    assert len(again)
    assert again.group_by("item_id").agg(pl.col("genre").null_count(), pl.len())["genre"].eq(1).all()
    late = read(landed, "items", 4).filter(pl.col("released_at").dt.date() == FIRST_DAY + timedelta(days=4))
    assert len(late)


def test_homepage_rows_have_a_place_and_radio_rows_a_seed(landed: Settings) -> None:
    shown = read(landed, "exposures")
    homepage, radio = (shown.filter(pl.col("surface") == name) for name in ("homepage", "radio"))
    assert homepage.select("container_id", "row", "column").null_count().sum_horizontal().item() == 0
    assert homepage["seed_item_id"].null_count() == len(homepage)
    assert radio["seed_item_id"].null_count() == 0
    assert radio.select("container_id", "row").null_count().sum_horizontal().item() == 2 * len(radio)
    assert len(homepage) + len(radio) == len(shown)
    places = homepage.group_by("session_id", "ts", "row", "column").len()
    assert places["len"].max() == 1
    shelves = homepage.group_by("session_id", "ts", "container_id").agg(pl.col("row").n_unique())
    assert shelves["row"].max() == 1


def test_every_track_that_the_radio_plays_is_one_listen(landed: Settings) -> None:
    radio = read(landed, "exposures").filter(pl.col("surface") == "radio")
    played = read(landed, "listens")
    both = radio.join(played, on="exposure_id", how="left", suffix="_played")
    assert both["played_s"].null_count() == 0
    steps = both.sort("session_id", "column").with_columns(
        gap=(pl.col("ts") - pl.col("ts").shift(1).over("session_id")).dt.total_milliseconds() / 1000
        - pl.col("played_s").shift(1).over("session_id")
    )
    assert (steps["gap"].drop_nulls() > 0).all()


def test_listening_goes_on_after_a_click_without_an_exposure(landed: Settings) -> None:
    played = read(landed, "listens")
    homepage = read(landed, "exposures").filter(pl.col("surface") == "homepage")["session_id"].unique()
    rows = played.filter(pl.col("session_id").is_in(homepage.implode())).sort("session_id", "ts")
    assert rows["exposure_id"].null_count() > 0.3 * len(rows)
    first = rows.group_by("session_id", maintain_order=True).first()
    assert first["exposure_id"].null_count() == 0
    assert set(rows["outcome"]) == {"completed", "skipped", "stopped"}


def test_profiles_count_the_seven_days_before(landed: Settings) -> None:
    day = 9
    logs = pl.concat([read(landed, "source_impressions", d) for d in range(day - 7, day)])
    for table, key in (("source_user_profiles", "source_user_id"), ("source_item_profiles", "source_item_id")):
        counted = logs.group_by(key).agg(
            impressions=pl.len(),
            clicks=pl.col("clicked").sum(),
            watch=(pl.col("watched_s").fill_null(0) * 1000).round().cast(pl.Int64).sum(),
            likes=pl.col("liked").fill_null(False).sum(),
        )
        both = read(landed, table, day).join(counted, on=key, how="left").fill_null(0)
        for ours, theirs in (("impressions", "impressions_7d"), ("clicks", "clicks_7d"), ("watch", "watch_ms_7d")):
            assert (both[ours] == both[theirs]).all(), (table, ours)
        assert (both["likes"] == both["likes_7d"]).all()
    first = read(landed, "source_user_profiles", 0)
    assert first["impressions_7d"].sum() == 0
    assert first["history_embedding"].null_count() == len(first)


def test_history_is_the_mean_content_of_what_was_liked_before(landed: Settings) -> None:
    day = 8
    content = pl.concat([read(landed, "source_item_profiles", d) for d in (day, DAYS - 1)]).unique("source_item_id")
    liked = pl.concat([read(landed, "source_impressions", d) for d in range(day)]).filter(pl.col("liked"))
    liked = liked.join(content, on="source_item_id")
    profiles = read(landed, "source_user_profiles", day).drop_nulls("history_embedding")
    assert set(profiles["source_user_id"]) == set(liked["source_user_id"])
    for user in profiles["source_user_id"][:20]:
        mean = np.mean(liked.filter(pl.col("source_user_id") == user)["content_embedding"].to_list(), axis=0)
        stored = profiles.filter(pl.col("source_user_id") == user)["history_embedding"][0].to_numpy()
        np.testing.assert_allclose(stored, mean, atol=1e-5)


def test_an_item_has_a_source_profile_only_after_the_day_of_its_upload(landed: Settings) -> None:
    for day in (0, 5):
        assert read(landed, "source_item_profiles", day)["age_days"].to_numpy().min() >= 1


def test_what_follows_a_click_is_null_without_one(landed: Settings) -> None:
    rows = read(landed, "source_impressions")
    for column in ("watched_s", "continued", "liked"):
        assert (rows[column].is_null() == ~rows["clicked"]).all()
    context = ["page", "position", "device", "network", "autoplay", "subscribed", "session_depth", "session_watch_s"]
    assert rows.select(context).null_count().sum_horizontal().item() == 0
    assert 0 < rows["hours_since_visit"].null_count() < len(rows)


@pytest.mark.slow
def test_landing_finds_every_day_ready_and_no_bad_row(landed: Settings) -> None:
    with Lake(landed) as lake:
        init_tables(lake)
        days = landed.days(FIRST_DAY, FIRST_DAY + timedelta(days=2))
        assert all(missing(landed, day) == [] for day in days)
        reports = load_days(lake, landed, days, {"homepage", "radio"})
        assert sum(report.rows_quarantined for report in reports) == 0
        assert sum(report.rows_loaded for report in reports) > 5000


def test_a_stopped_run_goes_on_where_it_ended(landed: Settings, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    seen: list[Step] = []
    assert len(write_landing(settings, days=3)) == 3 * len(TABLES)
    (the(Path, settings.landing_dir) / "listens" / f"day={FIRST_DAY + timedelta(days=2)}" / "_SUCCESS").unlink()
    written = write_landing(settings, days=5, progress=seen.append)
    assert {path.parent.name for path in written} == {f"day=2026-01-0{day}" for day in (3, 4, 5)}
    assert seen[-1] == Step("simulate", 5, 5)
    assert write_landing(settings, days=5) == []
    for table in TABLES:
        for day in range(5):
            path = Path(table) / f"day={FIRST_DAY + timedelta(days=day)}" / PART
            assert pq.read_table(the(Path, settings.landing_dir) / path) == pq.read_table(
                the(Path, landed.landing_dir) / path
            )
    assert not list(the(Path, settings.landing_dir).rglob("*.tmp"))


@pytest.mark.parametrize("day", [1, 2])
def test_a_day_that_cannot_be_written_fails_the_run_and_those_before_it_are_whole(tmp_path: Path, day: int) -> None:
    settings = settings_of(tmp_path)
    write_landing(settings, days=1)
    zone = the(Path, settings.landing_dir)
    (zone / "users" / f"day={FIRST_DAY + timedelta(days=day)}").write_bytes(b"in its place")
    with pytest.raises(FileExistsError):
        write_landing(settings, days=3)
    whole = [zone / table / f"day={FIRST_DAY + timedelta(days=d)}" / "_SUCCESS" for table in TABLES for d in range(day)]
    assert all(path.exists() for path in whole)
    assert not (zone / "listens" / f"day={FIRST_DAY + timedelta(days=day + 1)}").exists()


def test_last_day_bounds_what_is_written(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, last_day=FIRST_DAY + timedelta(days=1))
    assert len(write_landing(settings)) == 2 * len(TABLES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"simulator_seed": 4}, "seed 3 instead of 4"),
        ({"simulator_shared_taste": 0.0}, "shared_taste 1.0 instead of 0.0"),
        ({"simulator_linked_share": 0.5}, "linked_share 0.9 instead of 0.5"),
        ({"simulator_preset": "demo"}, "preset 'tiny' instead of 'demo'"),
        ({"first_day": date(2026, 2, 1)}, "first_day '2026-01-01' instead of '2026-02-01'"),
    ],
)
def test_a_landing_zone_with_another_world_is_refused(landed: Settings, change: dict, message: str) -> None:
    other = Settings(**({"home": landed.home, "simulator_preset": "tiny", "simulator_seed": 3} | change))
    before = sorted(the(Path, landed.landing_dir).rglob("*"))
    with pytest.raises(LandingZoneError, match=message):
        write_landing(other)
    assert sorted(the(Path, landed.landing_dir).rglob("*")) == before


def test_a_landing_zone_with_files_of_others_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    (the(Path, settings.landing_dir) / "exposures" / "day=2026-01-01").mkdir(parents=True)
    with pytest.raises(LandingZoneError, match="did not write"):
        write_landing(settings)
    assert not (the(Path, settings.landing_dir) / MARKER).exists()


@pytest.mark.slow
def test_a_world_goes_on_after_its_window() -> None:
    tables = World("tiny", seed=3).day(FIRST_DAY, DAYS + 2)
    assert tables["exposures"].num_rows > 200
    assert tables["source_impressions"].num_rows > 1000

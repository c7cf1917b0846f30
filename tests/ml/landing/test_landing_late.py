"""A row of another day goes to its own day, which lands again; counts add up, and landing twice changes nothing."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import EXAMPLES, Settings
from ml.landing.changes import changed_days
from ml.landing.late import waiting
from ml.landing.load import init_tables, load_days
from ml.operations.forget import forget
from tests.ml.landing.rows import ALL_TABLES, DAY, SURFACES, VECTOR, exposures, put, to_csv, to_parquet
from tests.support.landing_cases import run

DAYS = [DAY + timedelta(days=number) for number in range(4)]
ROUTE = "tables: {exposures: {late: route}, listens: {late: route}}"


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[tuple[Settings, Lake]]:
    yield from opened(tmp_path, ROUTE)


def opened(folder: Path, sources: str) -> Iterator[tuple[Settings, Lake]]:
    (folder / "app").mkdir()
    (folder / "app" / "sources.yaml").write_text(sources)
    found = Settings(
        home=folder / "home",
        app=folder / "app",
        first_day=DAY,
        last_day=DAYS[-1],
        optional_tables=ALL_TABLES,
        max_quarantine_share=1.0,
        late_horizon_days=2,
        threads=1,
    )
    with Lake(found) as lake:
        yield found, lake


def of(prefix: str, *days: date) -> pl.DataFrame:
    """Return an exposure of each day."""
    times = [datetime(day.year, day.month, day.day, 12) for day in days]
    return exposures(prefix, len(days)).with_columns(ts=pl.Series(times, dtype=pl.Datetime("us")))


def lie(settings: Settings, day: date, rows: pl.DataFrame) -> Path:
    put(settings, "exposures", "_SUCCESS", b"", day)
    return put(settings, "exposures", "a.csv", to_csv(rows), day)


def load(lake: Lake, settings: Settings, days: list[date], progress: Progress = silent) -> None:
    load_days(lake, settings, days, SURFACES, tables=["exposures"], progress=progress)


def held(lake: Lake) -> dict[str, date]:
    rows = lake.connection.execute(f"select exposure_id, day from {ALIAS}.landing.exposures").fetchall()
    return dict(rows)


def counts(lake: Lake) -> tuple[int, int, int]:
    query = f"select sum(rows_in), sum(rows_loaded), sum(rows_quarantined) from {ALIAS}.landing.ledger"
    return lake.connection.execute(query).fetchall()[0]


def state(lake: Lake) -> list[tuple[int, str]]:
    ledger = f"(select * exclude (landed_at) from {ALIAS}.landing.ledger)"
    return [lake.content_hash(f"landing.{name}") for name in ("exposures", "quarantine", "late")] + [
        lake.content_hash(ledger)
    ]


@pytest.mark.slow
def test_a_late_row_goes_to_its_day_and_stays_whichever_day_lands_again(zone: tuple[Settings, Lake]) -> None:
    settings, lake = zone
    lie(settings, DAYS[0], of("own", DAYS[0]))
    path = lie(settings, DAYS[2], of("mixed", DAYS[2], DAYS[0]))
    told: list[Step] = []
    load(lake, settings, [DAYS[0], DAYS[2]], progress=told.append)
    wanted = {"own0": DAYS[0], "mixed0": DAYS[2], "mixed1": DAYS[0]}
    assert held(lake) == wanted and counts(lake) == (3, 3, 0)
    assert "1 sent to their own days" in str(told[1].line) and f"late rows of {DAYS[0]}" in str(told[2].line)
    before = state(lake)
    for again in ([DAYS[0]], [DAYS[2]], [DAYS[0], DAYS[2]]):
        load(lake, settings, again)
        assert held(lake) == wanted and state(lake) == before
    path.write_bytes(to_csv(of("mixed", DAYS[2])))
    load(lake, settings, [DAYS[2]])
    assert held(lake) == {"own0": DAYS[0], "mixed0": DAYS[2]}, "the folder took its late row back"


@pytest.mark.slow
def test_the_sensor_sees_the_day_of_late_rows_as_changed_until_it_is_built(zone: tuple[Settings, Lake]) -> None:
    settings, lake = zone
    lie(settings, DAYS[0], of("own", DAYS[0]))
    first = None
    for number, day in enumerate((DAYS[0], DAYS[2])):
        if number:
            lie(settings, day, of("mixed", day, DAYS[0]))
        else:
            init_tables(lake)
            first = changed_days(settings).ready[day]
        load(lake, settings, [day])
    assert held(lake)["mixed1"] == DAYS[0], "no row waits for a sensor"
    changes = changed_days(settings)
    assert list(changes.ready) == [DAYS[0]] and changes.ready[DAYS[0]] != first, "with a key of its own"
    load(lake, settings, [DAYS[0]])
    assert not changed_days(settings).ready


@pytest.mark.slow
def test_a_late_row_waits_for_a_day_that_has_not_landed(zone: tuple[Settings, Lake]) -> None:
    settings, lake = zone
    lie(settings, DAYS[2], of("mixed", DAYS[2], DAYS[1]))
    load(lake, settings, [DAYS[2]])
    assert held(lake) == {"mixed0": DAYS[2]} and waiting(lake) == {DAYS[1]: 1}
    lie(settings, DAYS[1], of("own", DAYS[1]))
    load(lake, settings, [DAYS[1]])
    assert held(lake)["mixed1"] == DAYS[1] and not waiting(lake) and counts(lake) == (3, 3, 0)


@pytest.mark.slow
def test_what_is_too_late_twice_there_or_of_no_day_of_the_app_is_refused_with_its_file(
    zone: tuple[Settings, Lake],
) -> None:
    settings, lake = zone
    lie(settings, DAYS[0], of("own", DAYS[0]))
    lie(settings, DAYS[1], of("own", DAYS[1]))
    outside = of("x", DAYS[3], DAYS[0], DAYS[0] - timedelta(days=1), DAYS[1])
    lie(settings, DAYS[3], pl.concat([outside, of("own", DAYS[1])]))
    load(lake, settings, [DAYS[0], DAYS[1], DAYS[3]])
    rows = lake.sql("select day, reason, file, row_number from landing.quarantine order by all").to_pylist()
    file = f"exposures/day={DAYS[3]}/a.csv"
    assert [(r["day"], r["reason"].split(";")[0], r["file"], r["row_number"]) for r in rows] == [
        (DAYS[1], "duplicate", file, 5),
        (DAYS[3], "timestamp of another day: ts", file, 2),
        (DAYS[3], "timestamp of another day: ts", file, 3),
    ]
    assert held(lake)["x3"] == DAYS[1] and counts(lake) == (7, 4, 3)


def test_refuse_is_the_default(tmp_path: Path) -> None:
    for settings, lake in opened(tmp_path, ""):
        lie(settings, DAYS[0], of("own", DAYS[0]))
        lie(settings, DAYS[1], of("mixed", DAYS[1], DAYS[0]))
        load(lake, settings, DAYS[:2])
        assert counts(lake) == (3, 2, 1) and "mixed1" not in held(lake)


@pytest.mark.slow
def test_every_type_of_value_survives_the_way_to_its_day(tmp_path: Path) -> None:
    kinds = {"taste": "float_vector[8]", "price": "float64", "big": "bool"}
    columns = {name: {"type": kind, "nullable": True, "description": "d"} for name, kind in kinds.items()}
    own = yaml.safe_dump({"tables": {"exposures": {"columns": columns}}})
    for settings, lake in opened(tmp_path, "tables: {exposures: {late: route, timezone: Asia/Tokyo}}"):
        (tmp_path / "app" / "contract.yaml").write_text(own)
        odd = 'a "b"\n\\N ü'
        rows = of("e", DAYS[0]).with_columns(
            ts=pl.lit(datetime(2026, 1, 2, 23, 59, 59, 123456)).dt.replace_time_zone("UTC"),
            taste=pl.Series([[*VECTOR[:7], 1e-7]], dtype=pl.List(pl.Float32)),
            price=pl.lit(0.1 + 0.2),
            big=pl.lit(True),
            session_id=pl.lit(odd),
            row=pl.lit(2**62),
        )
        put(settings, "exposures", "_SUCCESS", b"", DAYS[0])
        put(settings, "exposures", "a.parquet", to_parquet(rows), DAYS[1])
        load(lake, settings, DAYS[:2])
        [late] = lake.sql(f"select * from {ALIAS}.landing.exposures").to_pylist()
        assert late["day"] == DAYS[0] and late["ts"] == datetime(2026, 1, 2, 23, 59, 59, 123456)
        assert (late["price"], late["big"], late["session_id"], late["row"]) == (0.1 + 0.2, True, odd, 2**62)
        assert late["taste"] == rows["taste"].to_list()[0] and late["seed_item_id"] is None


@pytest.mark.slow
@hypothesis_settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    folders=st.lists(st.lists(st.sampled_from(DAYS[:3]), max_size=3), min_size=3, max_size=3),
    order=st.permutations(range(3)),
)
def test_days_may_land_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, folders: list[list[date]], order: list[int]
) -> None:
    """Every row is loaded in its own day, once, and the tables are those of landing all days at once."""
    states = []
    for together in (True, False):
        for settings, lake in opened(tmp_path_factory.mktemp("order"), ROUTE):
            for number, days in enumerate(folders):
                lie(settings, DAYS[number], of(f"f{number}-", *days))
            for part in [DAYS[:3]] if together else [[DAYS[number]] for number in order]:
                load(lake, settings, part)
            total = sum(map(len, folders))
            assert counts(lake) == (total, total, 0) and not waiting(lake)
            wanted = {f"f{n}-{i}": day for n, days in enumerate(folders) for i, day in enumerate(days)}
            assert held(lake) == wanted
            states.append([lake.content_hash("landing.exposures"), lake.content_hash("landing.late")])
    assert states[0] == states[1]


@pytest.mark.slow
def test_a_forgotten_person_does_not_come_back_with_late_rows(zone: tuple[Settings, Lake]) -> None:
    settings, lake = zone
    lie(settings, DAYS[0], of("own", DAYS[0]))
    lie(settings, DAYS[1], of("mixed", DAYS[1], DAYS[0]).with_columns(user_id=pl.Series(["u2", "gone"])))
    load(lake, settings, DAYS[:2])
    assert "mixed1" in held(lake)
    forget(settings.model_copy(update={"surfaces_dir": EXAMPLES / "simulator" / "surfaces"}), "gone")
    load(lake, settings, DAYS[:2])
    assert held(lake) == {"own0": DAYS[0], "mixed0": DAYS[1]}
    assert lake.sql(f"select * from {ALIAS}.landing.late").num_rows == 0


@pytest.mark.slow
def test_the_cases_of_this_folder_are_as_they_must_be(tmp_path: Path) -> None:
    told = run(Path(__file__).parent / "cases", tmp_path)
    assert told and not {name: lacks for name, lacks in told.items() if lacks}

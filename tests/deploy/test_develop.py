"""A sample of days lies beside production: it has what production knew by then, and changes nothing there."""

import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import SecretStr

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings, SettingsError
from ml.landing.ledger import landed_days
from ml.landing.load import LEDGER_COLUMNS, init_tables
from ml.operations.development import copy_sample, days_of_sample, settings_of_sample
from tests.support.pages import as_shown

FIRST = date(2026, 1, 1)


def day(n: int) -> date:
    return FIRST + timedelta(days=n)


@pytest.fixture
def production(tmp_path: Path) -> Settings:
    """Five landed days; every day an exposure, and items that came, changed and stayed."""
    settings = Settings(home=tmp_path / "home", first_day=FIRST)
    with Lake(settings) as lake:
        init_tables(lake)
        changes = [
            (0, "a", "old"),
            (0, "b", "old"),
            (2, "a", "new"),
            (3, "c", "new"),
            (4, "b", "newer"),
            (5, "a", "last"),
        ]
        for n in range(5):
            at = datetime.combine(day(n), datetime.min.time(), tzinfo=UTC)
            shown = {"day": [day(n)], "exposure_id": [f"e{n}"], "ts": [at], "surface": ["homepage"], "item_id": ["a"]}
            lake.replace_days("landing.exposures", pa.table(shown), [day(n)])
            items = [(item, genre) for of, item, genre in changes if of == n]
            known = {"item_id": [i for i, _ in items], "genre": [g for _, g in items], "day": [day(n)] * len(items)}
            if items:
                lake.replace_days("landing.items", pa.table(known), [day(n)])
            ledger = {"day": day(n), "table_name": "exposures", "rows_in": 1, "rows_loaded": 1}
            assert ledger.keys() <= LEDGER_COLUMNS.keys()
            lake.replace_days("landing.ledger", pa.Table.from_pylist([ledger]), [day(n)])
    return settings


def items_of(settings: Settings) -> list[tuple[int, str, str]]:
    with Lake(settings) as lake:
        rows = lake.sql("select day, item_id, genre from landing.items order by all").to_pylist()
    return [((row["day"] - FIRST).days, row["item_id"], row["genre"]) for row in rows]


def test_a_sample_has_its_days_and_what_was_known_when_they_began(production: Settings, tmp_path: Path) -> None:
    days = days_of_sample(production, 2, day(4))
    assert days == [day(3), day(4)] == days_of_sample(production, 2)
    with pytest.raises(ValueError, match=r"no day has landed in .* until 2025-12-31"):
        days_of_sample(production, 2, date(2025, 12, 31))
    sample = settings_of_sample(production, tmp_path / "sample", days)
    with Lake(production) as lake:
        before = lake.snapshot()
    copied = {found.table: found.rows for found in copy_sample(production, sample)}
    assert copied["exposures"] == copied["ledger"] == 2 and copied["quarantine"] == 0
    assert items_of(sample) == [(3, "a", "new"), (3, "b", "old"), (3, "c", "new"), (4, "b", "newer")]
    with Lake(sample) as lake:
        shown = lake.sql("select exposure_id from landing.exposures order by all")["exposure_id"].to_pylist()
        assert shown == ["e3", "e4"] and landed_days(lake, "exposures") == set(days)
    assert list(copy_sample(production, sample)) and items_of(sample)[1:] == items_of(sample)[-3:], "copying again"
    with Lake(production) as lake:
        assert lake.snapshot() == before


def test_where_nothing_landed_there_is_no_sample(tmp_path: Path) -> None:
    empty = Settings(home=tmp_path / "empty")
    with Lake(empty) as lake:
        init_tables(lake)
    with pytest.raises(ValueError, match=r"no day has landed in .*: materialize base_tables_job"):
        days_of_sample(empty, 3)


def test_a_sample_never_reaches_what_production_shares(tmp_path: Path) -> None:
    production = Settings(home=tmp_path / "home")
    address = SecretStr("postgresql://nobody@127.0.0.1:9/none")
    shared = production.model_copy(update={"catalog_url": address, "lake_url": "s3://lake"})
    sample = settings_of_sample(shared, tmp_path / "sample", [FIRST])
    assert (sample.catalog_url, sample.lake_url, sample.development) == (None, None, True)
    with pytest.raises(SettingsError, match=r"is a sample for development .*: unset CROSSFADE_CATALOG_URL"):
        Settings(home=tmp_path / "sample", development=True, catalog_url=address)


@pytest.mark.long
def test_the_command_builds_the_sample_by_the_app_as_it_is_and_says_where_to_look(
    tiny_demo: Path, tmp_path: Path, run_command: Callable[..., str]
) -> None:
    home = shutil.copytree(tiny_demo, tmp_path / "home")
    told = run_command(home, *as_shown("crossfade develop --days 3", {"3": "2"}), timeout=600)
    assert f"CROSSFADE_HOME={home}/development .venv/bin/crossfade ui" in told
    sample = Settings(home=home / "development")
    assert sample.development and sample.last_day == sample.first_day + timedelta(days=1)
    with Lake(sample) as lake, Lake(Settings(home=home)) as production:
        for table in ("features.examples_homepage", "ml.soft_labels_homepage"):
            query = f"select day, count(*) as n from {table} where day between ? and ? group by 1 order by 1"
            days = [sample.first_day, sample.last_day]
            assert lake.sql(query, days) == production.sql(query, days) and lake.sql(query, days).num_rows == 2

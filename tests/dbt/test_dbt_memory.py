"""Memory stays bounded: what does not fit is spilled, and a range of days is built in parts."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
from hypothesis import given
from hypothesis import strategies as st

from assets.features import build_features, in_one
from assets.manifest import parse_project
from ml.features.build import build_ranges, day_ranges
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.surfaces.files import load_surfaces
from tests.dbt.conftest import create_landing_tables, land_world
from tests.dbt.test_dbt_determinism import content

FIRST = date(2026, 1, 1)


def large(folder: Path, memory_limit: str) -> Settings:
    """A home with 40,000 exposures a day, which is more than the smaller limit holds."""
    settings = Settings(home=folder, first_day=FIRST, feature_window_days=3, threads=1, memory_limit=memory_limit)
    with Lake(settings) as lake:
        create_landing_tables(lake)
        lake.connection.execute("set memory_limit = '1GB'")
        land_world(lake, 2, users=4_000, items=1_000, sessions=5_000)
    return settings


def test_a_build_that_spills_passes_and_gives_the_same_tables(tmp_path: Path, build_days: Callable[..., None]) -> None:
    found = {}
    for name, limit in (("held", "1GB"), ("spilled", "90MB")):
        settings = large(tmp_path / name, limit)
        days = [FIRST, FIRST + timedelta(days=1)]
        build_days(settings, days[0], days[1])
        found[name] = content(settings, days)
    assert found["held"] == found["spilled"]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_a_range_is_split_into_the_fewest_parts_that_stay_within_the_bound(counts: list[int], bound: int) -> None:
    days = [FIRST + timedelta(days=i) for i in range(len(counts))]
    rows = {day: count for day, count in zip(days, counts, strict=True) if count}
    ranges = day_ranges(rows, days, bound)
    parts = [[day for day in days if first <= day <= last] for first, last in ranges]
    assert [day for part in parts for day in part] == days
    sizes = [sum(rows.get(day, 0) for day in part) for part in parts]
    assert all(size <= bound or len(part) == 1 for size, part in zip(sizes, parts, strict=True))
    for size, following in zip(sizes, parts[1:], strict=False):
        assert size + rows.get(following[0], 0) > bound, "the day after would have fitted in"


def test_a_home_splits_its_days_by_exposures_and_listens(home: Callable[..., Settings]) -> None:
    settings = home(4)
    days = [FIRST + timedelta(days=i) for i in range(4)]
    with Lake(settings) as lake:
        assert build_ranges(lake, days) == [(days[0], days[3])]
        table = "(select day from landing.exposures union all select day from landing.listens)"
        rows = dict(lake.connection.execute(f"select day, count(*) from {table} group by day").fetchall())
    bounded = settings.model_copy(update={"build_rows": rows[days[0]] + rows[days[1]]})
    with Lake(bounded) as lake:
        assert build_ranges(lake, days)[0] == (days[0], days[1])
    with Lake(settings.model_copy(update={"build_rows": 1})) as lake:
        assert build_ranges(lake, days) == [(day, day) for day in days]


def test_a_run_in_parts_tells_of_each_table_and_check_once_and_of_the_first_failure() -> None:
    table, key = dg.Output(None, output_name="features__stg_items"), dg.AssetKey(["features", "stg_items"])
    passed, failed = (dg.AssetCheckResult(passed=p, asset_key=key, check_name="key") for p in (True, False))
    again = dg.AssetCheckResult(passed=False, asset_key=key, check_name="key")
    assert list(in_one([[table, passed], [table, passed]])) == [table, passed]
    assert list(in_one([[table, failed], [table, passed], [table, again]])) == [failed, table]


def test_a_range_that_dagster_builds_in_parts_gives_the_tables_of_one_call(
    home: Callable[..., Settings], build_days: Callable[..., None]
) -> None:
    days = [FIRST + timedelta(days=i) for i in range(3)]
    whole = home(3)
    build_days(whole, days[0], days[2], stages=("base",))
    parts = home(3).model_copy(update={"build_rows": 1})
    parse_project(parts)
    [base, *_] = build_features(parts, load_surfaces(parts))

    def run(settings: Settings) -> dg.ExecuteInProcessResult:
        tags = {"dagster/asset_partition_range_start": str(days[0]), "dagster/asset_partition_range_end": str(days[2])}
        job = dg.define_asset_job("base", dg.AssetSelection.assets(base))
        defined = dg.Definitions([base], jobs=[job], resources={"settings": settings})
        return defined.resolve_job_def("base").execute_in_process(tags=tags, raise_on_error=False)

    result = run(parts)
    assert result.success
    assert content(parts, days) == content(whole, days)
    built = [(event.asset_key, event.partition) for event in result.get_asset_materialization_events()]
    assert len(built) == len(set(built)) == len(base.keys) * len(days)
    checks = result.get_asset_check_evaluations()
    assert len(checks) == len({check.asset_check_key for check in checks}) > 20
    assert all(check.passed or check.severity is dg.AssetCheckSeverity.WARN for check in checks)

    with Lake(parts) as lake:
        lake.connection.execute("update landing.exposures set user_id = null where day = ?", [days[1]])
    result = run(parts)
    failed = [check.check_name for check in result.get_asset_check_evaluations() if not check.passed]
    assert not result.success and len(failed) == len(set(failed))
    assert any("filled_stg_exposures" in name for name in failed)

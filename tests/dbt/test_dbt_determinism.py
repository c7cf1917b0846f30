"""The same landed events give the same tables, however the days are built."""

from collections.abc import Callable
from datetime import date
from types import SimpleNamespace

from ml.features.projects import all_projects
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings


def content(settings: Settings, days: list[date]) -> dict[tuple[str, date], tuple[int, str]]:
    """Return {(table, day): (rows, content hash)} of all feature tables."""
    with Lake(settings) as lake:
        tables = lake.connection.execute(
            "select table_name from information_schema.tables where table_schema = 'features' order by 1"
        ).fetchall()
        return {
            (table, day): lake.content_hash(f"(select * from features.{table} where day = ?)", [day])
            for (table,) in tables
            for day in days
        }


def test_a_day_has_one_content_alone_in_a_range_twice_in_any_order_and_with_two_threads(
    built: SimpleNamespace, home: Callable[..., Settings], build_days: Callable[..., None]
) -> None:
    days = built.days
    expected = content(built.settings, days)
    models = [p for folder in all_projects(built.settings).values() for p in (folder / "models").rglob("*.sql")]
    built_tables = {path.stem for path in models if path.parent.name != "steps"}
    assert expected.keys() == {(table, day) for table in built_tables for day in days}
    assert all(
        rows > 0 for (table, _), (rows, _) in expected.items() if table.startswith(("examples", "int", "stg_expo"))
    )

    one = days[3]
    build_days(built.settings, one, one)
    assert content(built.settings, days) == expected, "rebuilding one day alone changed something"

    other = home(len(days)).model_copy(update={"threads": 2})
    build_days(other, days[3], days[5], stages=("base",))
    build_days(other, days[0], days[2], stages=("base",))
    build_days(other, days[5], days[5], stages=("ranking",))
    build_days(other, days[0], days[2], stages=("ranking",))
    build_days(other, days[3], days[4], stages=("ranking",))
    assert content(other, days) == expected, "order of building, ranges or threads changed something"

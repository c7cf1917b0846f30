"""Features of a day: dbt on the lake against the same SQL in bare DuckDB on Parquet, and against polars.

    python -m benchmarks.features [--repeats 3] [--threads 1] [--quick]

The history is synthetic and written straight into the daily aggregates (``int_*``) and the catalogues; the day's
``feat_*`` are built from it in three ways that take turns, each in a process of its own. dbt reads the parsed project,
as the graph does. Bare DuckDB runs the SQL that dbt compiled over one Parquet file per table and day. Polars computes
``feat_item`` alone, and its rows must be equal. First the exposures of a day grow, with one window of history; then the
history grows, with equal days. Times are CPU seconds of the process, which a busy machine changes least; starting the
interpreter is not in them. What dbt spends in models and in tests is known by the clock alone (one thread), and stands
beside the clock of the bare SQL.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from assets.manifest import PARSED, manifest_path
from benchmarks.labelling import peak_megabytes
from benchmarks.record import HISTORY, Row, keep, rows
from deploy.home import prepare
from ml.features.build import dbt_vars, run_dbt
from ml.features.projects import DBT_PROJECT_DIR
from ml.foundation.documents import load_yaml
from ml.foundation.lake import FEATURES, Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.surfaces.files import load_surfaces

DAY = date(2026, 11, 1)
LONGEST = 300
EXPOSURES = (2_000, 20_000, 100_000, 300_000, 1_000_000)
DAYS = (14, 30, 75, 150, LONGEST)
OF_LONG_HISTORY = 3_000
"""Exposures of each day of a long history."""
ITEMS = 2_000
TABLES = ("int_day", "int_item_day", "int_user_day", "int_user_item_day", "stg_items", "stg_users")
DBT, BARE = "dbt build with tests, on the lake", "same SQL, bare DuckDB on Parquet"
MODELS, TESTS = "models of dbt, on the lake", "tests of dbt, on the lake"
BARE_ITEM, POLARS_ITEM = "feat_item alone, bare DuckDB", "feat_item alone, polars"

KNOWN_COUNTS: dict[str, str] = {
    "impressions": "1",
    "clicks": "clicked",
    "plays": "clicked",
    "skips": "skipped",
    "completions": "clicked - skipped",
    "played_ms": "clicked * 60000",
}
"""What an event of the history adds to a count of the day; to others 0."""


def counts() -> str:
    """Return the SQL of every count that the dbt project has of a day."""
    [daily_events] = load_yaml(DBT_PROJECT_DIR / "models" / "steps" / "daily_events.yml")["models"]
    names = [column["name"] for column in daily_events["columns"]]
    counted = [name for name in names if name not in ("day", "user_id", "item_id")]
    return ", ".join(f"sum({KNOWN_COUNTS.get(name, '0')})::bigint as {name}" for name in counted)


def write_history(settings: Settings, days: int, exposures: int) -> None:
    """Write so many days before ``DAY``, and their Parquet files."""
    first = DAY - timedelta(days=days)
    users = max(exposures // 20, 1)
    with duckdb.connect() as c:
        c.execute(f"""
            create table events as
            select
                date '{first}' + (i // {exposures})::integer as day,
                (1 + hash(i, 1) % {users})::bigint as user_id,
                (1 + hash(i, 2) % {ITEMS})::bigint as item_id,
                (hash(i, 3) % 5 = 0)::integer as clicked,
                (hash(i, 3) % 15 = 0)::integer as skipped
            from range({days * exposures}) as numbers(i)
        """)
        queries = {
            "int_user_item_day": f"select day, user_id, item_id, {counts()} from events group by all",
            "int_user_day": f"select day, user_id, {counts()} from events group by all",
            "int_item_day": f"select day, item_id, {counts()} from events group by all",
            "int_day": f"select day, count(distinct user_id) as users, {counts()} from events group by all",
            "stg_items": f"""
                select
                    date '{first}' as day, i as item_id, 1 + i // 5 as creator_id, 1 + i % 12 as genre,
                    i as source_item_id, 200::bigint as duration_s,
                    [(hash(i, k) % 1000 / 500 - 1)::float for k in range(8)] as content_embedding,
                    timestamp '2026-01-01' as released_at
                from range(1, {ITEMS + 1}) as numbers(i)
            """,
            "stg_users": f"""
                select
                    date '{first}' as day, i as user_id, 1 + i % 5 as country, 1 + i % 6 as age_band,
                    i as source_user_id, timestamp '2025-06-01' as signed_up_at
                from range(1, {users + 1}) as numbers(i)
            """,
        }
        wanted = [DAY - timedelta(days=n) for n in range(1, LONGEST + 1)]
        with Lake(settings) as lake:
            for name, query in queries.items():
                lake.replace_days(f"{FEATURES}.{name}", c.sql(query).to_arrow_table(), wanted)
                folder = settings.home / "parquet" / name
                folder.mkdir(parents=True, exist_ok=True)
                for old in folder.glob("*/*.parquet"):
                    old.unlink()
                options = "format parquet, partition_by (day), write_partition_columns true, overwrite_or_ignore true"
                c.execute(f"copy ({query}) to '{folder}' ({options})")


def measure(way: str, settings: Settings) -> dict[str, float]:
    """Build the features of the day; runs in a process of its own."""
    if way == "dbt":
        variables = json.dumps(dbt_vars(settings, load_surfaces(settings), DAY, DAY))
        only = ["--select", "path:models/features", "--exclude-resource-types", "unit_test", "--vars", variables]
        parsed = manifest_path(settings).with_name(PARSED)
        began = time.process_time()
        results = run_dbt(settings, ["build", *only], parsed=parsed)
        taken = time.process_time() - began
        parts = {
            name: sum(result.execution_time for result in results if result.node.resource_type == kind)
            for name, kind in ((MODELS, "model"), (TESTS, "test"))
        }
        return {DBT: taken, **parts, "peak": peak_megabytes()}
    if way == "bare":
        began, clock = time.process_time(), time.perf_counter()
        item = bare(settings)
        taken = {BARE: time.process_time() - began, "clock": time.perf_counter() - clock}
        return {**taken, BARE_ITEM: item, "peak": peak_megabytes()}
    began = time.process_time()
    made = item_features(settings)
    taken = time.process_time() - began
    expected = pl.read_parquet(settings.home / "bare" / "feat_item.parquet").sort("item_id").select(made.columns)
    for column, dtype in made.schema.items():
        left, right = made[column], expected[column].cast(dtype)
        close = ((left - right).abs() < 1e-12).all() if dtype == pl.Float64 else (left == right).all()
        if not close:
            raise SystemExit(f"polars and DuckDB differ in {column}")
    return {POLARS_ITEM: taken, "peak": peak_megabytes()}


def bare(settings: Settings) -> float:
    """Run the compiled SQL of all feature models over Parquet files; return the seconds of ``feat_item``."""
    out = settings.home / "bare"
    out.mkdir(exist_ok=True)
    seconds = {}
    with duckdb.connect(config={"threads": settings.threads, "preserve_insertion_order": False}) as c:
        c.execute("attach ':memory:' as lake; create schema lake.features")
        for name in TABLES:
            files = settings.home / "parquet" / name / "*" / "*.parquet"
            scan = f"read_parquet('{files}', hive_partitioning = true, hive_types = {{'day': date}})"
            c.execute(f"create view lake.features.{name} as select * from {scan}")
        compiled = settings.home / "dbt" / "target" / "compiled" / "crossfade" / "models" / "features"
        for path in sorted(compiled.glob("feat_*.sql")):
            began = time.process_time()
            c.execute(f"copy ({path.read_text(encoding='utf-8')}) to '{out / path.stem}.parquet' (format parquet)")
            seconds[path.stem] = time.process_time() - began
    return seconds["feat_item"]


def item_features(settings: Settings) -> pl.DataFrame:
    """Return ``feat_item`` of the day, without its vectors, from the same files."""
    window, half_life, impressions, plays = settings.feature_window_days, 3, 20.0, 5.0
    files = settings.home / "parquet"
    names = [f"day={DAY - timedelta(days=n)}" for n in range(1, window + 1)]
    active = pl.scan_parquet([files / "int_item_day" / name for name in names], hive_partitioning=False)
    overall = pl.scan_parquet([files / "int_day" / name for name in names], hive_partitioning=False)
    overall = overall.select(pl.col("impressions", "clicks", "plays", "skips", "completions").sum()).collect().row(0)
    every: dict[str, int] = dict(zip(("impressions", "clicks", "plays", "skips", "completions"), overall, strict=True))
    age = (pl.lit(DAY) - pl.col("day")).dt.total_days() - 1
    weight = (1e6 * pl.lit(0.5).pow(age / half_life)).round().cast(pl.Int64)
    summed = active.group_by("item_id").agg(
        pl.col(*every).sum(),
        *((pl.col(name) * weight).sum().alias(f"decayed_{name}") for name in ("impressions", "clicks")),
    )

    def rate(hits: str, tries: str, smoothing: float, prefix: str = "", scale: float = 1.0) -> pl.Expr:
        prior = smoothing * every[hits] / every[tries]
        return (pl.col(prefix + hits) / scale + prior) / (pl.col(prefix + tries) / scale + smoothing)

    items = pl.scan_parquet(files / "stg_items" / "*" / "*.parquet", hive_partitioning=False)
    joined = items.join(summed, on="item_id", how="left").with_columns(
        pl.col(*every, "decayed_impressions", "decayed_clicks").fill_null(0)
    )
    return (
        joined.select(
            "item_id",
            "creator_id",
            "genre",
            "impressions",
            "plays",
            rate("clicks", "impressions", impressions).alias("ctr"),
            rate("clicks", "impressions", impressions, "decayed_", 1e6).alias("decayed_ctr"),
            rate("skips", "plays", plays).alias("skip_rate"),
            rate("completions", "plays", plays).alias("completion_rate"),
        )
        .sort("item_id")
        .collect()
    )


def spawn(way: str, settings: Settings) -> dict[str, Any]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.features", "--measure", way, str(settings.home)]
    command += ["--threads", str(settings.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def compare(settings: Settings, *, size: int, of: str, repeats: int) -> list[Row]:
    """Let the ways take turns; return rows of seconds and of memory."""
    runs = [{way: spawn(way, settings) for way in ("dbt", "bare", "polars")} for _ in range(repeats)]
    seconds = {name: [t[way][name] for t in runs] for way, name in (("dbt", DBT), ("bare", BARE))}
    clock = {name: [t["dbt"][name] for t in runs] for name in (MODELS, TESTS)}
    clock[BARE] = [t["bare"]["clock"] for t in runs]
    item = {name: [t[way][name] for t in runs] for way, name in (("bare", BARE_ITEM), ("polars", POLARS_ITEM))}
    peaks = {name: [t[way]["peak"] for t in runs] for way, name in (("dbt", DBT), ("bare", BARE))}
    found = [(seconds, "CPU s", BARE), (clock, "s", BARE), (item, "CPU s", BARE_ITEM), (peaks, "MB", BARE)]
    return [
        row
        for values, unit, reference in found
        for row in rows(values, size=size, of=of, unit=unit, reference=reference)
    ]


def main() -> None:
    """Record seconds and peak memory over exposures a day, and over days of history."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="smallest sizes once, nothing recorded")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "HOME"), help=argparse.SUPPRESS)
    given = parser.parse_args()

    def settings_of(home: Path) -> Settings:
        return Settings(home=home, first_day=DAY - timedelta(days=LONGEST), threads=given.threads)

    if given.measure:
        way, home = given.measure
        print(json.dumps(measure(way, settings_of(Path(home)))))
        return
    repeats = 1 if given.quick else given.repeats
    exposures, days = (EXPOSURES[:1], ()) if given.quick else (EXPOSURES, DAYS)
    with tempfile.TemporaryDirectory(prefix="crossfade-features-") as folder:
        settings = settings_of(Path(folder))
        prepare(settings)
        found = []
        write_history(settings, settings.feature_window_days, exposures[0])
        spawn("dbt", settings)  # creates the tables
        for size in exposures:
            write_history(settings, settings.feature_window_days, size)
            print(f"{size:,} exposures a day", flush=True)
            found += compare(settings, size=size, of="exposures a day", repeats=repeats)
        for size in days:
            write_history(settings, size, OF_LONG_HISTORY)
            print(f"{size} days of history", flush=True)
            found += compare(settings, size=size, of="days of history", repeats=repeats)
    keep("features", found, None if given.quick else HISTORY)


if __name__ == "__main__":
    main()

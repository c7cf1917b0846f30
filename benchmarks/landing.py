"""Landing of a day, which checks every row, against bare DuckDB and polars that copy the same files unchecked.

    python -m benchmarks.landing [--repeats 3] [--threads 1] [--quick]

A day of exposures and listens lies in the landing zone as one Parquet file per table. Landing reads, validates by the
contract, quarantines, hashes, and commits to the lake; the two references read the files and write them again, sorted
by nothing and checked for nothing, which is the least that bringing rows into a table costs. Each measurement is a
process of its own; times are its CPU seconds from opening the files to the commit, without the interpreter's start.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import duckdb
import polars as pl

from benchmarks.labelling import peak_megabytes
from benchmarks.record import HISTORY, Row, keep, rows
from deploy.home import prepare
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.landing.load import load_days
from ml.landing.readiness import table_folder
from ml.surfaces.files import load_surfaces

DAY = date(2026, 1, 1)
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
BAD_EVERY = 1_000
"""One exposure in so many is bad, and quarantined."""
LANDING, BARE, POLARS = "landing, every row checked", "bare DuckDB, file to file", "polars, file to file"
WAYS = {"landing": LANDING, "bare": BARE, "polars": POLARS}
TABLES = ("exposures", "listens")


def write_day(settings: Settings, exposures: int) -> None:
    """Write the files of the day: so many exposures, a listen for one in ten."""
    start = f"timestamp '{DAY} 00:00:00'"
    queries = {
        "exposures": f"""
            select 'e' || i as exposure_id, {start} + interval 1 millisecond * (i * {80_000_000 // exposures}) as ts,
                case when i % {BAD_EVERY} = 7 then 'nowhere' else 'homepage' end as surface,
                'u' || (hash(i, 1) % {max(exposures // 20, 1)}) as user_id, 's' || (i // 10) as session_id,
                't' || (hash(i, 2) % 5000) as item_id, 'shelf' || (i % 4) as container_id,
                (i // 4 % 3)::bigint as "row", (i % 4)::bigint as "column"
            from range({exposures}) as numbers(i)""",
        "listens": f"""
            select 'l' || i as listen_id, {start} + interval 1 millisecond * (i * {80_000_000 // exposures}) as ts,
                'u' || (hash(i, 1) % {max(exposures // 20, 1)}) as user_id, 's' || (i // 10) as session_id,
                't' || (hash(i, 2) % 5000) as item_id, 'e' || i as exposure_id, 30.0 + i % 200 as played_s,
                ['completed', 'skipped', 'stopped'][1 + i % 3] as outcome
            from range(0, {exposures}, 10) as numbers(i)""",
    }
    with duckdb.connect() as connection:
        for name, query in queries.items():
            folder = table_folder(settings, name, DAY)
            folder.mkdir(parents=True, exist_ok=True)
            connection.execute(f"copy ({query}) to '{folder / 'part-0.parquet'}' (format parquet, compression zstd)")


def measure(way: str, settings: Settings) -> dict[str, float]:
    """Bring the day in; runs in a process of its own."""
    out = settings.home / f"out-{way}"
    out.mkdir(exist_ok=True)
    files = {name: table_folder(settings, name, DAY) / "part-0.parquet" for name in TABLES}
    began = time.process_time()
    match way:
        case "landing":
            with Lake(settings) as lake:
                reports = load_days(lake, settings, [DAY], surfaces=set(load_surfaces(settings)), tables=list(TABLES))
            if not any(report.rows_quarantined for report in reports):
                raise SystemExit("no bad row was found")
        case "bare":
            with duckdb.connect(config={"threads": settings.threads}) as connection:
                for name, file in files.items():
                    query = f"select *, date '{DAY}' as day from read_parquet('{file}')"
                    connection.execute(f"copy ({query}) to '{out / name}.parquet' (format parquet)")
        case _:
            for name, file in files.items():
                pl.read_parquet(file).with_columns(day=pl.lit(DAY)).write_parquet(out / f"{name}.parquet")
    return {"seconds": time.process_time() - began, "peak": peak_megabytes()}


def spawn(way: str, settings: Settings) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.landing", "--measure", way, str(settings.home)]
    command += ["--threads", str(settings.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def compare(settings: Settings, exposures: int, repeats: int) -> list[Row]:
    """Let the ways take turns; return rows of CPU seconds per million exposures, and of memory."""
    runs = [{way: spawn(way, settings) for way in WAYS} for _ in range(repeats)]
    seconds = {name: [1e6 * run[way]["seconds"] / exposures for run in runs] for way, name in WAYS.items()}
    peaks = {name: [run[way]["peak"] for run in runs] for way, name in WAYS.items()}
    return [
        row
        for values, unit in ((seconds, "CPU s / M exposures"), (peaks, "MB"))
        for row in rows(values, size=exposures, of="exposures", unit=unit, reference=BARE)
    ]


def main() -> None:
    """Record CPU seconds and peak memory over the exposures of a day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="the smallest day once, nothing recorded")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "HOME"), help=argparse.SUPPRESS)
    given = parser.parse_args()

    def settings_of(home: Path) -> Settings:
        return Settings(home=home, source="files", first_day=DAY, landing_dir=home / "landing", threads=given.threads)

    if given.measure:
        way, home = given.measure
        print(json.dumps(measure(way, settings_of(Path(home)))))
        return
    repeats, sizes = (1, SIZES[:1]) if given.quick else (given.repeats, SIZES)
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="crossfade-landing-") as folder:
        settings = settings_of(Path(folder))
        prepare(settings)
        for size in sizes:
            write_day(settings, size)
            print(f"{size:,} exposures", flush=True)
            found += compare(settings, size, repeats)
    keep("landing", found, None if given.quick else HISTORY)


if __name__ == "__main__":
    main()

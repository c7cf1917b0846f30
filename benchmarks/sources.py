"""The same plays in every kind of source: databases, tables of files, and what ``sources.yaml`` says of them."""

import json
import threading
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml.foundation.lake import connect, install_extension

FIRST = date(2026, 1, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(30)]
QUERY = "select * from {} where started{} >= {{day}} and started{} < {{next_day}}"
COLUMNS = {"ts": "started", "user_id": "uid"}
Change = Callable[[pa.Table], object]
"""Replaces the rows of a table of files."""


def plays(per_day: int) -> str:
    """Return the query of so many plays a day, for thirty days; one of the second day has an outcome that is none."""
    return f"""
    select 'l' || i as listen_id, timestamp '{FIRST}' + interval 1 second * (i * {86_400 // per_day}) as started,
        ('u' || i % 7)::varchar as uid, 's' || i // 10 as session_id, 't' || i % 5 as item_id,
        30.5::double as played_s, case when i = {per_day} + 10 then 'dreamt' else 'completed' end as outcome
    from range({per_day} * 30) as numbers(i)"""


def of_files(kind: str, path: str) -> str:
    """Return a sources.yaml that reads a table of files as listens."""
    keys = {"query": QUERY.format("plays", "", ""), "columns": COLUMNS, "look": 0}
    return json.dumps({"attach": {"plays": {"type": kind, "path": path}}, "tables": {"listens": keys}})


class Shop:
    """An app's database with the table of plays; ``SHOP_URL`` of the environment holds its address."""

    def __init__(self, kind: str, address: str, per_day: int) -> None:
        self.kind, self.address = kind, address
        self.run(f"create table shop.plays as {plays(per_day)}")

    def run(self, statement: str) -> None:
        """Execute a statement, in which the database is ``shop``."""
        extensions = {"postgres": ["postgres_scanner"], "sqlite": ["sqlite_scanner"], "ducklake": ["ducklake"]}
        for extension in extensions.get(self.kind, []):
            install_extension(extension)
        with connect(extensions.get(self.kind, [])) as connection:
            prefix = "ducklake:" if self.kind == "ducklake" else ""
            kind = f"(type {self.kind})" if self.kind in ("postgres", "sqlite") else ""
            connection.execute(f"attach '{prefix}{self.address}' as shop {kind}")
            connection.execute(statement)

    @property
    def query(self) -> str:
        """Return the query of a day's plays."""
        cast = "::timestamp" if self.kind == "sqlite" else ""  # which has no type of times
        return QUERY.format("shop.plays", cast, cast)

    def sources(self, query: str | None = None, **more: Any) -> str:
        """Return a sources.yaml that reads the plays as listens."""
        keys = {"query": query or self.query, "columns": COLUMNS, "look": 0, **more}
        attach = {"shop": {"type": self.kind, "env": "SHOP_URL"}}
        return json.dumps({"attach": attach, "tables": {"listens": keys}})


def iceberg(folder: Path, rows: pa.Table) -> tuple[str, Change]:
    """Write an Iceberg table; return its address, and what replaces its rows."""
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("local", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace("app")
    table = catalog.create_table("app.plays", schema=rows.schema)
    table.append(rows)
    return table.location().removeprefix("file://"), table.overwrite


def delta(folder: Path, rows: pa.Table) -> tuple[str, Change]:
    """Write a Delta table; as ``iceberg``."""
    from deltalake import write_deltalake

    write_deltalake(folder / "plays", rows)
    return str(folder / "plays"), lambda changed: write_deltalake(folder / "plays", changed, mode="overwrite")


def parquet(folder: Path, rows: pa.Table) -> tuple[str, Change]:
    """Write a Parquet file; as ``iceberg``."""
    pq.write_table(rows, folder / "plays.parquet")
    return str(folder / "*.parquet"), lambda changed: pq.write_table(changed, folder / "plays.parquet")


def http(folder: Path, rows: pa.Table) -> tuple[str, Change]:
    """Serve a Parquet file by HTTP; as ``iceberg``."""
    path, change = parquet(folder, rows)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(Path(path).parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/plays.parquet", change


class _Quiet(SimpleHTTPRequestHandler):
    """Answers ranges, as servers of data do: where one does not, DuckDB asks three times more, with growing pauses."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

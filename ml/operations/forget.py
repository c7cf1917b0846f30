"""Forgetting a person: out of the landing zone, out of the lake and its past, out of what the server looks up.

Rows that name the person go; what was summed over many people (an item's plays of a day) stays as it was, until a day
is built again from files that no longer name the person. Each step may be killed and run again. What still has an id of
the person, or its hash, is looked for in every file and named (``ml.operations.residue``); ``reports/forgotten.jsonl``
says when, and which releases had learnt from the rows.
"""

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
from pydantic import BaseModel, ConfigDict, Field

from ml.foundation.ids import id63
from ml.foundation.lake import ALIAS, FEATURES, LANDING, Lake
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.foundation.writers import writing
from ml.inference.snapshot import SERVING, FeatureSnapshot, current_snapshot, publish
from ml.landing.contract import load_contract
from ml.landing.erase import erase_rows, matching_rows, word_pattern
from ml.landing.late import LATE
from ml.landing.ledger import LEDGER
from ml.landing.load import QUARANTINE
from ml.landing.readers import Reading, read_file
from ml.landing.readiness import files_of_all_days, input_hash, is_elsewhere
from ml.landing.sources import load_sources
from ml.operations.compaction import rewrite
from ml.operations.housekeeping import clean
from ml.operations.ranked_rows import RankedRows, erase, ranked_rows
from ml.operations.residue import Remaining, mend_bounds, remaining, removable, remove, rewrite_catalog
from ml.operations.traces import Traces
from ml.releases.release import Release
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surfaces

USER, ACCOUNT, EXPOSURE = "user_id", "source_user_id", "exposure_id"
"""Columns by which a row names a person: the app's id, the linked account, and what the person was shown."""

_COMMIT = "forget: rows of a person"
_NamedFile = tuple[str, date, Path, set[int]]
"""Table, day, file, and the numbers of its rows that name the person."""


class Forgotten(BaseModel):
    """What was removed, or would be; it does not name the person."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    known: bool = Field(description="Whether any file or table named the person")
    files: int = Field(description="Landing files that were rewritten")
    file_rows: int
    rows: dict[str, int] = Field(description="Rows per table of the lake")
    releases: dict[str, tuple[str, ...]] = Field(description="Releases per surface that were trained on the rows")
    elsewhere: tuple[str, ...] = Field(
        default=(), description="Tables that lie in a database or an object store, in which nothing was removed"
    )
    snapshots_expired: int = Field(description="Past states of the lake that are gone; releases of them train no more")
    ranked: dict[str, int] = Field(default={}, description="Rows per place of rankings outside of the lake")
    removed: tuple[str, ...] = Field(default=(), description="Copies that went as a whole")
    remains: tuple[Remaining, ...] = Field(default=(), description="What still has something of the person, and why")


class _Person(BaseModel):
    """Ids by column."""

    ids: dict[str, set[str]]

    def traces(self, settings: Settings) -> Traces:
        """Return what tells that a file names the person."""
        few = {"the id": self.ids[USER], "a linked account": self.ids[ACCOUNT]}
        return Traces(few, {"an exposure": self.ids[EXPOSURE]}, settings.max_unpacked_mb << 20)

    @property
    def pattern(self) -> re.Pattern[str] | None:
        return word_pattern(set().union(*self.ids.values()))


def forget(settings: Settings, user: str, *, dry_run: bool = False, progress: Progress = silent) -> Forgotten:
    """Remove a person while no other process writes to the lake or reads its past.

    Args:
        settings: The home.
        user: ``user_id`` as the landing files have it.
        dry_run: Change nothing.
        progress: Told after each part.

    Raises:
        ValueError: The id is empty.
        UnreadableFile: A landing file is damaged, so that it is not known whom it names; nothing was changed.
    """
    if not user.strip():
        raise ValueError("the user id is empty")
    with writing(settings, alone=True), Lake(settings) as lake:
        person = _identify(lake, settings, user)
        progress(
            Step("forget", line=f"{len(person.ids[ACCOUNT])} linked accounts, {len(person.ids[EXPOSURE]):,} exposures")
        )
        files = _named_by_files(settings, person, progress)
        ranked = ranked_rows(settings, lake, person.ids[USER])
        traces = person.traces(settings)
        copies = removable(settings, traces)
        told = _told(lake, settings, person, files, ranked, copies)
        if not dry_run:
            _remove(lake, settings, person, files, told, progress)
    if dry_run:
        skip = {path.resolve() for path in (*(path for _, _, path, _ in files), *ranked.files, *copies)}
        skip |= {settings.lake_dir.resolve(), (settings.home / SERVING).resolve()}
        return told.model_copy(update={"remains": remaining(settings, traces, ranked, skip)})
    erase(settings, ranked, person.ids[USER])
    remove(copies)
    rewrite_catalog(settings)
    progress(Step("forget", line="looking through every file for what is left"))
    return told.model_copy(update={"remains": remaining(settings, traces, ranked)})


def _told(
    lake: Lake, settings: Settings, person: _Person, files: list[_NamedFile], ranked: RankedRows, copies: list[Path]
) -> Forgotten:
    """Return what will be removed."""
    rows = _named_by_tables(lake, person)
    [user] = person.ids[USER]
    return Forgotten(
        at=datetime.now(UTC),
        known=bool(files or rows or ranked.counts),
        files=len(files),
        file_rows=sum(len(numbers) for *_, numbers in files),
        rows=rows,
        releases=_trained_on(lake, settings, user),
        elsewhere=tuple(table for table in load_contract(settings).tables if is_elsewhere(settings, table)),
        snapshots_expired=len(_past(lake)),
        ranked=ranked.counts,
        removed=tuple(map(str, copies)),
    )


def _remove(
    lake: Lake, settings: Settings, person: _Person, files: list[_NamedFile], told: Forgotten, progress: Progress
) -> None:
    """Remove the rows of landing files, of the lake and its past, and what is served of them."""
    unchanged = _in_step(lake, settings, {(table, day) for table, day, *_ in files})
    _note(settings, told)  # before the rows go: afterwards nobody could say which releases had seen them
    for _, _, path, numbers in files:
        erase_rows(path, numbers)
    progress(Step("forget", line=f"{told.file_rows:,} rows of {told.files} files removed"))
    _delete(lake, settings, person, unchanged)
    progress(Step("forget", line=f"{sum(told.rows.values()):,} rows of {len(told.rows)} tables removed"))
    _purge_past(lake)
    progress(Step("forget", line=f"{told.snapshots_expired} past states of the lake removed"))
    mend_bounds(lake, person.ids.keys(), set().union(*person.ids.values()))
    _publish_again(lake, settings)


def _identify(lake: Lake, settings: Settings, user: str) -> _Person:
    """Gather the person's ids from the lake and from files, landed or not."""
    accounts = set(_values(lake, f"{LANDING}.users", ACCOUNT, USER, [user]))
    exposures = set(_values(lake, f"{LANDING}.exposures", EXPOSURE, USER, [user]))
    tables = load_contract(settings).tables
    for table, column, found in (("users", ACCOUNT, accounts), ("exposures", EXPOSURE, exposures)):
        for _, path in files_of_all_days(settings, table):
            wanted = {name: tables[table].columns[name] for name in (USER, column)}
            rows = read_file(path, wanted, settings.max_unpacked_mb << 20, _reading(settings, table)).rows
            if {USER, column} <= set(rows.columns):
                found |= set(rows.filter(rows[USER] == user)[column].drop_nulls().to_list())
    return _Person(ids={USER: {user}, ACCOUNT: accounts, EXPOSURE: exposures})


def _values(lake: Lake, table: str, column: str, key: str, values: list[str]) -> list[str]:
    if not lake.table_exists(table):
        return []
    query = f"select distinct {column} from {ALIAS}.{table} where list_contains(?::varchar[], {key})"
    return [found for (found,) in lake.connection.execute(query, [values]).fetchall() if found is not None]


def _reading(settings: Settings, table: str) -> Reading:
    """Return the names that the columns of a table have in its files."""
    return Reading(renames=load_sources(settings, load_contract(settings)).table(table).renames)


def _named_by_files(settings: Settings, person: _Person, progress: Progress) -> list[_NamedFile]:
    """Return every landing file that names the person, also of days that never land."""
    found = []
    tables = load_contract(settings).tables
    for done, (name, table) in enumerate(tables.items(), 1):
        ids = {column: values for column, values in person.ids.items() if column in table.columns}
        for day, path in files_of_all_days(settings, name) if ids else ():
            limit = settings.max_unpacked_mb << 20
            if numbers := matching_rows(path, table.columns, ids, limit, _reading(settings, name)):
                found.append((name, day, path, numbers))
        progress(Step("forget: files", done, len(tables)))
    return found


def _columns(lake: Lake) -> dict[str, list[tuple[str, str]]]:
    """Return {table: [(column, type)]} of the tables that name people."""
    named = (USER, ACCOUNT, EXPOSURE)
    found = {}
    for schema, name in lake.tables():
        table = f"{schema}.{name}"
        if columns := [(column, kind) for column, kind in lake.columns(table).items() if column in named]:
            found[table] = columns
    return found


def _condition(columns: list[tuple[str, str]], person: _Person) -> tuple[str, list[list[int | str]]]:
    """Return the SQL condition of the rows that name the person, in ids of the app or in their hashes."""
    parts: list[str] = []
    parameters: list[list[int | str]] = []
    for column, kind in columns:
        hashed = kind == "BIGINT"
        parts.append(f"coalesce(list_contains(?::{'bigint' if hashed else 'varchar'}[], {column}), false)")
        parameters.append([id63(value) if hashed else value for value in sorted(person.ids[column])])
    return " or ".join(parts), parameters


def _named_by_tables(lake: Lake, person: _Person) -> dict[str, int]:
    counts = {}
    for table, columns in _columns(lake).items():
        condition, parameters = _condition(columns, person)
        query = f"select count(*) from {ALIAS}.{table} where {condition}"
        [(counts[table],)] = lake.connection.execute(query, parameters).fetchall()
    counts |= {table: len(_named_by_content(lake, person, table)) for table in _with_content(lake)}
    return {table: n for table, n in counts.items() if n}


def _with_content(lake: Lake) -> list[str]:
    """Return the tables that hold rows as text."""
    return [table for table in (QUARANTINE, LATE) if lake.table_exists(table)]


def _named_by_content(lake: Lake, person: _Person, table: str) -> list[tuple[date, str, str, int]]:
    """Return (day, table, file, row number) of the rows of quarantine, or late ones, whose text names the person."""
    rows = lake.connection.execute(f"select day, table_name, file, row_number, content from {ALIAS}.{table}")
    pattern = person.pattern
    found: list[tuple[date, str, str, int]] = []
    while part := rows.fetchmany(10_000):
        found += [row[:4] for row in part if row[4] is not None and pattern and pattern.search(row[4])]
    return found


def _in_step(lake: Lake, settings: Settings, days: set[tuple[str, date]]) -> set[tuple[str, date]]:
    """Return those of some (table, day) whose files are what was landed; others are landed again as changed ones."""
    if not lake.table_exists(LEDGER):
        return set()
    rows = lake.connection.execute(f"select table_name, day, input_hash from {ALIAS}.{LEDGER}").fetchall()
    landed = {(table, day): known for table, day, known in rows}
    return {(table, day) for table, day in days if landed.get((table, day)) == input_hash(settings, day, [table])}


def _delete(lake: Lake, settings: Settings, person: _Person, unchanged: set[tuple[str, date]]) -> None:
    """Delete the person's rows from every table in one commit, and make the ledger agree with files and tables.

    Args:
        lake: The lake.
        settings: Names the landing zone.
        person: Whose rows.
        unchanged: (table, day) of files that differ from what was landed in the person's rows alone.
    """
    columns = _columns(lake)
    bad = {table: _named_by_content(lake, person, table) for table in _with_content(lake)}
    landed = {name for name in load_contract(settings).tables if f"{LANDING}.{name}" in columns}
    hashes = {(name, day): input_hash(settings, day, [name]) for name, day in sorted(unchanged)}

    def step() -> None:
        with lake.transaction(_COMMIT) as c:
            for table, named in columns.items():
                condition, parameters = _condition(named, person)
                c.execute(f"delete from {ALIAS}.{table} where {condition}", parameters)
            for table, rows in bad.items():
                for row in rows:
                    keys = "day = ? and table_name = ? and file = ? and row_number = ?"
                    c.execute(f"delete from {ALIAS}.{table} where {keys}", list(row))
            for name in sorted(landed):
                _recount(c, name)
            for (name, day), found in hashes.items():
                changed = f"update {ALIAS}.{LEDGER} set input_hash = ? where table_name = ? and day = ?"
                c.execute(changed, [found, name, day])

    if lake.table_exists(LEDGER):
        lake.retry(step)


def _recount(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Set the ledger's counts of one landing table to what the tables hold, where they differ."""
    connection.execute(
        f"""
        update {ALIAS}.{LEDGER} as l
        set rows_in = c.loaded + c.bad, rows_loaded = c.loaded, rows_quarantined = c.bad
        from (
            select g.day, coalesce(t.n, 0) as loaded, coalesce(q.n, 0) as bad
            from (select day from {ALIAS}.{LEDGER} where table_name = $name) as g
            left join (select day, count(*) as n from {ALIAS}.{LANDING}.{name} group by day) as t on t.day = g.day
            left join (
                select day, count(*) as n from {ALIAS}.{QUARANTINE} where table_name = $name group by day
            ) as q on q.day = g.day
        ) as c
        where l.table_name = $name and l.day = c.day and (l.rows_loaded <> c.loaded or l.rows_quarantined <> c.bad)
        """,
        {"name": name},
    )


def _past(lake: Lake) -> list[int]:
    query = f"select snapshot_id from {ALIAS}.snapshots() order by snapshot_id desc offset 1"
    return [snapshot for (snapshot,) in lake.connection.execute(query).fetchall()]


def _purge_past(lake: Lake) -> None:
    """Write files without the deleted rows, and remove every earlier state of the lake with its files."""
    rewrite(lake)
    if past := _past(lake):
        lake.connection.execute(f"call ducklake_expire_snapshots('{ALIAS}', versions => ?::ubigint[])", [past])
    clean(lake, timedelta(0))


def _trained_on(lake: Lake, settings: Settings, user: str) -> dict[str, tuple[str, ...]]:
    """Return the stored releases whose training days had rows of the person, at the snapshot that they name."""
    store = ReleaseStore.of(settings)
    found = {
        surface: tuple(
            r for r in store.releases(surface) if _learnt_from(lake, settings, store.release(surface, r), user)
        )
        for surface in store.surfaces()
    }
    return {surface: releases for surface, releases in found.items() if releases}


def _learnt_from(lake: Lake, settings: Settings, release: Release, user: str) -> bool:
    manifest = release.manifest
    table = f"{ALIAS}.{FEATURES}.examples_{manifest.surface}"
    query = f"select count(*) > 0 from {table} where user_id = ? and day in (select unnest(?::date[]))"
    parameters = [id63(user), list(manifest.train_days)]
    try:
        with Lake(settings, snapshot=manifest.snapshot) as pinned:
            return bool(pinned.connection.execute(query, parameters).fetchall()[0][0])
    except duckdb.Error:  # that state is gone: the present rows of those days are the best that is known
        return bool(lake.connection.execute(query, parameters).fetchall()[0][0])


def _note(settings: Settings, told: Forgotten) -> None:
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    kept = told.model_dump(mode="json", exclude={"remains", "ranked", "removed"})  # names of files may name the person
    with (settings.reports_dir / "forgotten.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(kept) + "\n")


def _publish_again(lake: Lake, settings: Settings) -> None:
    """Publish the present day's features again, without the person, and remove every other snapshot of features."""
    if path := current_snapshot(settings):
        publish(lake, settings, load_surfaces(settings), FeatureSnapshot.load(path).day, keep=0)

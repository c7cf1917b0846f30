"""Links that users withdrew: what the teacher was told of the account, and said of it, is used no more.

A row of ``users`` without ``source_user_id`` ends the consent to the link before it, for the days before it too. A link
that is made again later counts from its own day. ``teacher_inputs`` leaves the account out of whatever is built from
then on; here goes what was built before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from ml.features.tables import VECTORS_TABLE, FeatureTable, vector_tables
from ml.features.unshown import unshown_inputs_table, unshown_table
from ml.foundation.lake import ALIAS, FEATURES, ML, Lake, quoted

ACCOUNT = ("source_user_id", "landed_source_user_id")
"""Columns of teacher inputs that say whether a row was built with an account."""
_READ = (f"{FEATURES}.stg_users", f"{FEATURES}.stg_exposures")
WITHDRAWN_SCHEMA = pa.schema([("day", pa.date32()), ("exposure_id", pa.int64()), ("lake_snapshot", pa.int64())])
"""Rows of ``withdrawn_table``; the snapshot is the last that had the labels."""
_NOBODY = pa.schema([("day", pa.date32()), ("exposure_id", pa.int64()), ("user_id", pa.int64())]).empty_table()
_WITHDRAWN_LINKS = f"""
    join (
        select user_id, day, source_user_id, lead(day, 1, date '9999-12-31') over (
            partition by user_id order by day
        ) as next_day
        from {ALIAS}.{FEATURES}.stg_users
    ) as link on shown.user_id = link.user_id and shown.day >= link.day and shown.day < link.next_day
    join (
        select user_id, max(day) as day from {ALIAS}.{FEATURES}.stg_users where source_user_id is null group by user_id
    ) as withdrawn on shown.user_id = withdrawn.user_id and shown.day < withdrawn.day
    where link.source_user_id is not null"""
"""What joins rows ``shown``, of users and days, with links that were withdrawn later."""
WITHDRAWN_EXPOSURES = f"""
    select shown.day, shown.exposure_id, shown.user_id
    from {ALIAS}.{FEATURES}.stg_exposures as shown{_WITHDRAWN_LINKS}"""
"""Exposures of days on which a user had a link that was withdrawn later."""


@dataclass(frozen=True)
class Withdrawn:
    """What one call dropped.

    Attributes:
        users: Users whose links were withdrawn and had labels.
        inputs: Rows of teacher inputs dropped.
        labels: Soft labels dropped, of every teacher version.
        pairs: Labels of pairs that nobody was shown, dropped with the pairs.
        predictions: Scores of the teacher dropped from earlier evaluations.
    """

    users: int = 0
    inputs: int = 0
    labels: int = 0
    pairs: int = 0
    predictions: int = 0


@dataclass(frozen=True)
class WithdrawnVectors:
    """What one call dropped.

    Attributes:
        users: Users whose links were withdrawn and had vectors.
        vectors: Vectors dropped, of every teacher and version.
        features: Rows of feature tables that held one, dropped.
        examples: Rows of examples, and of pairs that nobody was shown, that held one and have the default now.
    """

    users: int = 0
    vectors: int = 0
    features: int = 0
    examples: int = 0


def withdrawn_table(surface: str) -> str:
    """Return the table of the exposures whose teacher inputs and soft labels were dropped: ``schema.table``."""
    return f"{ML}.withdrawn_{surface}"


def can_be_asked(lake: Lake) -> bool:
    """Tell whether the lake has what says who withdrew a link."""
    return all(lake.table_exists(table) for table in _READ)


def drop_withdrawn(lake: Lake, surface: str) -> Withdrawn:
    """Drop teacher inputs that were built with an account whose link was withdrawn, and soft labels made of them.

    A day that is built again has these rows without the account, and may be labelled so. Nothing is dropped twice.

    Args:
        lake: The lake; nothing happens where users, exposures or teacher inputs were not built yet.
        surface: Name of the surface.
    """
    inputs, labels, scores = f"{FEATURES}.teacher_inputs_{surface}", f"{ML}.soft_labels_{surface}", predictions(surface)
    found = _built_with_account(lake, inputs)
    pairs = _built_with_account(lake, unshown_inputs_table(surface))
    if not found.num_rows and not pairs.num_rows:
        return Withdrawn()
    noted = pa.table([*found.columns[:2], pa.repeat(lake.snapshot(), len(found))], schema=WITHDRAWN_SCHEMA)
    counts: dict[str, int] = {}

    def step() -> None:
        with lake.transaction(f"{surface}: links that were withdrawn") as c:
            counts[inputs] = _delete(lake, inputs, found)
            counts[labels] = _delete(lake, labels, found)
            counts[scores] = _delete(lake, scores, found, "model = 'teacher'")
            for table in (unshown_inputs_table(surface), unshown_table(surface)):
                _delete(lake, table, pairs)
            counts["pairs"] = _delete(lake, f"{ML}.unshown_labels_{surface}", pairs)
            c.register("_noted", noted)
            try:
                table = f"{ALIAS}.{withdrawn_table(surface)}"
                c.execute(f"create table if not exists {table} as select * from _noted limit 0")
                c.execute(f"insert into {table} by name select * from _noted")
            finally:
                c.unregister("_noted")

    lake.retry(step)
    users = len(pa.concat_tables([found, pairs])["user_id"].unique())
    return Withdrawn(users, counts[inputs], counts[labels], counts["pairs"], counts[scores])


def drop_withdrawn_vectors(lake: Lake) -> WithdrawnVectors:
    """Drop vectors that were computed of an account whose link was withdrawn, wherever a copy of one lies in the lake.

    Examples that held one have the table's default in its place, as if the teacher had never known the user. Nothing
    is dropped twice; a day that is built again has the user without the account, and may have a vector.

    Args:
        lake: The lake; nothing happens where users were not built, or no vector was computed.
    """
    if not can_be_asked(lake) or not lake.table_exists(VECTORS_TABLE):
        return WithdrawnVectors()
    mine = f"(select day, user_id from {ALIAS}.{VECTORS_TABLE} where user_id is not null and with_account)"
    gone = lake.sql(f"select distinct shown.day, shown.user_id from {mine} as shown {_WITHDRAWN_LINKS}")
    if not gone.num_rows:
        return WithdrawnVectors()
    tables = [
        table
        for name, table in vector_tables(lake.settings).items()
        if table.entity == ("user_id",) and lake.table_exists(f"{FEATURES}.{name}")
    ]
    counts: dict[str, int] = {}

    def step() -> None:
        counts.update(features=0, examples=0)
        with lake.transaction("vectors of links that were withdrawn") as c:
            c.register("_gone", gone)
            try:
                counts["features"], counts["examples"] = _clear(lake, tables)
                those = "with_account and (day, user_id) in (select (day, user_id) from _gone)"
                [(counts["vectors"],)] = c.execute(f"delete from {ALIAS}.{VECTORS_TABLE} where {those}").fetchall()
            finally:
                c.unregister("_gone")

    lake.retry(step)
    return WithdrawnVectors(len(gone["user_id"].unique()), counts["vectors"], counts["features"], counts["examples"])


def _clear(lake: Lake, tables: Sequence[FeatureTable]) -> tuple[int, int]:
    """Take the vectors of ``_gone`` out of feature tables and of what was joined with them; return the rows of both."""
    run, features, examples = lake.connection.execute, 0, 0
    for table in tables:
        own = f"{ALIAS}.{FEATURES}.{table.name}"
        held = f"select day, user_id from {own} where (vector_day, user_id) in (select (day, user_id) from _gone)"
        run(f"create or replace temp table _held as {held}")
        those = "(day, user_id) in (select (day, user_id) from _held)"
        [(gone,)] = run(f"delete from {own} where {those}").fetchall()
        features += gone
        aliases = {column.alias: "null" if column.default is None else str(column.default) for column in table.columns}
        for schema, name in lake.tables():
            columns = lake.columns(f"{schema}.{name}") if schema == FEATURES and name != table.name else {}
            if "user_id" in columns and (own_columns := aliases.keys() & columns):
                changes = ", ".join(f"{quoted(alias)} = {aliases[alias]}" for alias in sorted(own_columns))
                [(changed,)] = run(f"update {ALIAS}.{schema}.{name} set {changes} where {those}").fetchall()
                examples += changed
    return features, examples


def predictions(surface: str) -> str:
    """Return the table of what models, the teacher among them, said of evaluated rows: ``schema.table``."""
    return f"{ML}.predictions_{surface}"


def _built_with_account(lake: Lake, inputs: str) -> pa.Table:
    """Return (day, exposure_id, user_id) of the rows of a table of teacher inputs that have a withdrawn account."""
    if not can_be_asked(lake) or not lake.table_exists(inputs):
        return _NOBODY
    columns = lake.columns(inputs)
    told = " or ".join(f"i.{name} is not null" for name in ACCOUNT if name in columns) or "true"
    return lake.sql(f"""
        select distinct w.day, w.exposure_id, w.user_id from ({WITHDRAWN_EXPOSURES}) as w
        join {ALIAS}.{inputs} as i on w.day = i.day and w.exposure_id = i.exposure_id where {told}""")


def _delete(lake: Lake, table: str, rows: pa.Table, where: str = "true") -> int:
    """Delete the rows of some days and exposures; return how many."""
    if not rows.num_rows or not lake.table_exists(table):
        return 0
    lake.connection.register("_withdrawn", rows)
    try:
        those = "(day, exposure_id) in (select (day, exposure_id) from _withdrawn)"
        [(gone,)] = lake.connection.execute(f"delete from {ALIAS}.{table} where {where} and {those}").fetchall()
    finally:
        lake.connection.unregister("_withdrawn")
    return int(gone)


def withdrawn_rows(lake: Lake, surface: str, days: Sequence[date]) -> int:
    """Return the exposures of some days whose soft labels were dropped because a link was withdrawn."""
    if not lake.table_exists(withdrawn_table(surface)):
        return 0
    table = f"{ALIAS}.{withdrawn_table(surface)}"
    query = f"select count(distinct exposure_id) from {table} where list_contains(?::date[], day)"
    [(rows,)] = lake.connection.execute(query, [list(days)]).fetchall()
    return int(rows)

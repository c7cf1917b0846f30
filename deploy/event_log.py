"""Dagster's event log of one machine, whose batches are one transaction each.

A run over a month tells of each table and day. Dagster hands such events over in batches, and its SQLite storage writes
them one by one: it makes an engine, compiles the SQL, opens, commits and closes a database for each, several times.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, EventLogEntry
from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.sql import create_engine
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

_BATCH = "500"
"""Most events of a batch: beyond a year of days of one table."""
_ENGINES = 32
"""Databases, of a run each, whose compiled SQL is kept; none is kept open."""


class BatchedEventLog(SqliteEventLogStorage):
    """Dagster's own files and tables, which its own class reads and writes as well.

    They lie where Dagster's default has them, below the folder of the instance, wherever that was moved to: so they are
    found when the instance is known.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._given = inst_data
        self._engine_of = lru_cache(_ENGINES)(self._make_engine)

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What the instance's file says of the class."""
        return self._given

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing is to be said of it."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: object) -> "BatchedEventLog":
        """Make it as the instance's file says."""
        return cls(inst_data)

    def register_instance(self, instance: DagsterInstance) -> None:
        """Find the files, and let this process's events come in batches."""
        super().__init__(str(Path(instance.root_directory) / "history" / "runs"), self._given)
        super().register_instance(instance)
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", _BATCH)

    def _make_engine(self, shard: str) -> Engine:
        arguments = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
        return create_engine(self.conn_string_for_shard(shard), poolclass=NullPool, connect_args=arguments)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        """Open one database, as Dagster does, with an engine that knows the SQL which it compiled before."""
        with self._db_lock:
            engine = self._engine_of(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events; those of assets that one run told in one transaction of each database."""
        assets = [event for event in events if event.dagster_event_type in ASSET_EVENTS]
        for event in events:
            if event.dagster_event_type not in ASSET_EVENTS:
                self.store_event(event)
        if not assets:
            return
        rows = [self._event_to_row(event) for event in assets]
        insert = SqlEventLogStorageTable.insert()
        [run_id] = {event.run_id for event in assets}
        with self.run_connection(run_id) as connection:
            connection.execute(insert, rows)
        with self.index_connection() as connection:
            numbered = insert.returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
            ids = list(connection.execute(numbered, rows).scalars())
            self._store_asset_event_tags(connection, assets, ids)
            # An asset's own row is of its newest event.
            newest = {
                event.get_dagster_event().asset_key: (event, number) for event, number in zip(assets, ids, strict=True)
            }
            for event, number in newest.values():
                self._store_asset_event(connection, event, number)

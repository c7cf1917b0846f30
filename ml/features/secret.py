"""A plugin of dbt-duckdb: the connection that dbt opens gets the catalog's password, and nothing else does."""

from collections.abc import Sequence

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin

statements: Sequence[str] = ()
"""What ``ml.features.build.run_dbt`` has each connection of its run execute before the lake is attached."""


class Plugin(BasePlugin):
    """Runs ``statements``; dbt logs none of them."""

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Give a new connection its secret."""
        for statement in statements:
            conn.execute(statement)

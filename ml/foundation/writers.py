"""Several writers of one lake: who may write beside others, and who must be alone.

Conflicts between commits are found by the catalog and retried. What it does not find are two that create one table at
once, and what removes or merges files while somebody writes: these ask to be alone. The lock lives in the catalog's
Postgres and in the connection that took it, so it ends with its holder, however that ends. With one writer
(``lake_writers``), the pool ``lake_writer`` does the same, and nothing is asked.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from ml.foundation.settings import Settings

_KEY = 0x63726F7373666164
"""Advisory lock of the catalog's database: "crossfad" in ASCII."""


@contextmanager
def writing(settings: Settings, *, alone: bool = False) -> Iterator[None]:
    """Write beside other writers, or alone; waits for those that are in the way."""
    if settings.catalog_url is None or settings.lake_writers == 1:
        yield
        return
    import psycopg2

    with closing(psycopg2.connect(settings.catalog_url.get_secret_value())) as connection:
        connection.autocommit = True  # an open transaction would keep rows of the catalog from being cleaned
        with connection.cursor() as cursor:
            cursor.execute(f"select pg_advisory_lock{'' if alone else '_shared'}(%s)", [_KEY])
        yield

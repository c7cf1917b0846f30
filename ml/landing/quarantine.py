"""Reads of the quarantine, for people: why rows did not land, and which."""

from datetime import date

from ml.foundation.lake import ALIAS, Lake
from ml.landing.load import QUARANTINE


def reasons(lake: Lake, most: int) -> list[dict[str, object]]:
    """Return day, table, reason, how many rows and one file of them: the newest days first, their commonest first."""
    return _rows(
        lake,
        'select day, table_name as "table", count(*) as rows, reason, min(file) as "for example" from {} '
        "group by day, table_name, reason order by day desc, rows desc, reason limit ?",
        [most],
    )


def quarantined(lake: Lake, day: date, most: int) -> list[dict[str, object]]:
    """Return file, row number, reason and content of rows of one day, in the files' order."""
    return _rows(
        lake,
        'select file, row_number as "row", reason, content from {} where day = ? order by file, row_number limit ?',
        [day, most],
    )


def _rows(lake: Lake, query: str, parameters: list[object]) -> list[dict[str, object]]:
    if not lake.table_exists(QUARANTINE):
        return []
    return lake.sql(query.format(f"{ALIAS}.{QUARANTINE}"), parameters).to_pylist()

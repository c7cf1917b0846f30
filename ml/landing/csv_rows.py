"""Rows of delimited text, by Arrow's parser: the only one here that hands ragged rows back and reads on."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from ml.landing.contract import LandingError

_BLOCK = 8 << 20
_MOST_RAGGED = 1_000_000
"""Ragged rows of one text that are kept with their reasons; a text with more is another format."""

Ragged = tuple[int, str, str]
"""Number of a row, what is wrong with it, and its text."""


class OpenQuote(LandingError):
    """A quote that nothing closes: how many rows it swallowed cannot be known."""


def split_rows(
    text: bytes, delimiter: str, names: Sequence[str], chosen: Sequence[str], nulls: Sequence[str]
) -> tuple[pl.DataFrame, list[Ragged]]:
    """Split a text whose first line names its columns.

    Args:
        text: Bytes of any encoding; they are not decoded.
        delimiter: The character between two values.
        names: All columns, as the first line has them.
        chosen: The columns to return.
        nulls: Words that stand for nothing; an empty text always does.

    Returns:
        The rows of as many values as columns, as texts, and the other ones.

    Raises:
        OpenQuote: A quote is not closed.
        pyarrow.ArrowInvalid: More than a million rows are ragged.
    """
    ragged: list[Ragged] = []
    header = (text.find(b"\n") + 1 or len(text)) - 1

    def keep(row: pa_csv.InvalidRow) -> str:
        if len(ragged) == _MOST_RAGGED:
            return "error"
        if row.text.count('"') % 2:
            # An open quote swallows the lines after it: how many rows were lost cannot be known.
            ragged.append((row.number - 1, "", row.text))
        else:
            found = "1 column" if row.actual_columns == 1 else f"{row.actual_columns} columns"
            ragged.append((row.number - 1, f"ragged row: {found} instead of {row.expected_columns}", row.text))
        return "skip"

    try:
        table = pa_csv.read_csv(
            pa.BufferReader(text),
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=max(_BLOCK, 2 * header)),
            parse_options=pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep),
            convert_options=pa_csv.ConvertOptions(
                check_utf8=False,
                column_types={name: pa.large_string() for name in names},
                include_columns=list(chosen),
                null_values=["", *nulls],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        if "straddl" not in str(error):
            raise
        raise OpenQuote(f"a row of it is longer than {_BLOCK >> 20} MB; look for an open quote") from error
    for number, reason, _ in ragged:
        if not reason:
            raise OpenQuote(f"row {number} opens a quote that nothing closes")
    return pl.DataFrame(table), ragged

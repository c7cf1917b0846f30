"""Conditions over the columns of the examples, as of a slice: parsed, held against a list of what is allowed, rendered.

What a query gets is rendered from the parsed tree, never the text; so a condition cannot end a query, open a file, or
read another table.
"""

from dataclasses import dataclass
from functools import lru_cache

_MAX_LENGTH = 500
_ALLOWED = frozenset({
    "Column", "Identifier", "Literal", "Boolean", "Null", "Paren",
    "And", "Or", "Not", "EQ", "NEQ", "GT", "GTE", "LT", "LTE", "NullSafeEQ", "NullSafeNEQ", "Is", "In", "Between",
    "Add", "Sub", "Mul", "Div", "IntDiv", "Mod", "Neg", "Case", "If",
    "Abs", "Ceil", "Coalesce", "Floor", "Greatest", "IsNan", "Least", "Length", "Round",
})  # fmt: skip
"""Kinds of nodes that may occur, as sqlglot names them."""

_HINT = (
    "a condition has columns of the examples, numbers and texts, comparisons, and, or, not, in, between, is null, "
    "arithmetic, case, and abs, ceil, coalesce, floor, greatest, isnan, least, length and round"
)


class ConditionError(ValueError):
    """A condition that cannot be used; the message quotes it."""


@dataclass(frozen=True)
class Condition:
    """A checked condition.

    Attributes:
        sql: The condition in DuckDB's SQL; columns are quoted.
        columns: Those that it uses.
    """

    sql: str
    columns: frozenset[str]


@lru_cache(maxsize=256)
def condition(text: str) -> Condition:
    """Check a condition such as ``item_age_days <= 7 and not new_user``.

    Raises:
        ConditionError: It is no expression, or holds anything but columns, values and what ``_ALLOWED`` lists.
    """
    if len(text) > _MAX_LENGTH:
        raise ConditionError(f"condition {text[:60]!r}...: longer than {_MAX_LENGTH} characters")
    # Loading costs a third of a second, and most processes that read a surface ask for no condition.
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        trees = sqlglot.parse(text, read="duckdb")
    except (SqlglotError, RecursionError) as error:
        raise ConditionError(f"condition {text!r} cannot be parsed: {str(error).splitlines()[0]}") from error
    if len(trees) != 1 or trees[0] is None:
        raise ConditionError(f"condition {text!r}: one expression is wanted; {_HINT}")
    columns: set[str] = set()
    for node in trees[0].walk():
        kind = type(node).__name__
        if kind not in _ALLOWED or (isinstance(node, exp.In) and not node.expressions):
            raise ConditionError(f"condition {text!r}: {node.sql(dialect='duckdb')!r} is not allowed; {_HINT}")
        if isinstance(node, exp.Column):
            if len(node.parts) != 1:
                raise ConditionError(f"condition {text!r}: {node.sql(dialect='duckdb')!r} is no column of the examples")
            columns.add(node.name)
    if not columns:
        raise ConditionError(f"condition {text!r} names no column")
    return Condition(trees[0].sql(dialect="duckdb", identify=True, comments=False), frozenset(columns))

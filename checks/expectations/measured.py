"""Expectations over tables of measurements, where Great Expectations' own pass on what must not pass.

The built-in range expectations skip nulls and accept an empty table; a measurement that is missing, NaN or infinite must
fail. And none of them knows an interval.
"""

import math
from typing import Any, ClassVar

import pandas as pd
from great_expectations.expectations.expectation import BatchExpectation

from ml.gate.rules import judge_interval
from ml.store.verdicts import Outcome


class ExpectMeasureBetween(BatchExpectation):
    """Expect every value of a column to be a finite number within bounds, in at least one row.

    ``where`` keeps the rows whose columns have these values; ``label`` names the column that names a row.
    """

    column: str
    min_value: float | None = None
    max_value: float | None = None
    strict: bool = False
    where: dict[str, str] = {}
    label: str | None = None
    count: str | None = None

    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id",)
    success_keys: ClassVar[tuple[str, ...]] = ("column", "min_value", "max_value", "strict", "where", "label", "count")

    def _validate(self, metrics: Any, runtime_configuration: Any = None, execution_engine: Any = None) -> dict[str, Any]:
        rows = _rows(execution_engine, self.where)
        if rows.empty:
            return _result(False, None, "nothing was measured")
        values = pd.to_numeric(rows[self.column], errors="coerce").astype(float)
        beyond = values.map(self._beyond)
        worst = beyond.idxmax()
        name = f"{self.label} {rows[self.label][worst]}" if self.label else ""
        n = int(rows[self.count].sum()) if self.count else None
        return _result(not bool((beyond > 0).any()), float(values[worst]), name, n=n, interval=_interval(rows, worst))

    def _beyond(self, value: float) -> float:
        """Return how far a value lies outside of the bounds; 0 or less is inside."""
        if not math.isfinite(value):
            return math.inf
        low = self.min_value - value if self.min_value is not None else -math.inf
        high = value - self.max_value if self.max_value is not None else -math.inf
        beyond = max(low, high)
        return math.ulp(0.0) if self.strict and beyond == 0 else beyond


class ExpectIntervalAbove(BatchExpectation):
    """Expect a paired difference to be non-inferior: see ``judge_interval``. ``doubt`` is what inconclusive counts as."""

    margin: float
    where: dict[str, str] = {}
    doubt: str = Outcome.INCONCLUSIVE.value

    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id",)
    success_keys: ClassVar[tuple[str, ...]] = ("margin", "where", "doubt")

    def _validate(self, metrics: Any, runtime_configuration: Any = None, execution_engine: Any = None) -> dict[str, Any]:
        row = _one(execution_engine, self.where)
        outcome, reason = judge_interval(_number(row["value"]), _number(row["lo"]), _number(row["hi"]), self.margin)
        return _judged(row, Outcome(self.doubt) if outcome is Outcome.INCONCLUSIVE else outcome, reason)


class ExpectImprovement(BatchExpectation):
    """Expect a paired difference above 0: a lower or equal estimate fails, an interval that reaches 0 warns."""

    where: dict[str, str] = {}

    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id",)
    success_keys: ClassVar[tuple[str, ...]] = ("where",)

    def _validate(self, metrics: Any, runtime_configuration: Any = None, execution_engine: Any = None) -> dict[str, Any]:
        row = _one(execution_engine, self.where)
        value, lo = _number(row["value"]), _number(row["lo"])
        if not value > 0:
            return _judged(row, Outcome.FAIL, "not better")
        return _judged(row, Outcome.PASS if lo > 0 else Outcome.WARN, "" if lo > 0 else "better, the interval reaches 0")


class ExpectNotClearlyBelow(BatchExpectation):
    """Expect a value of at least ``min_value``: an interval wholly below it fails, an estimate below it warns."""

    min_value: float
    where: dict[str, str] = {}

    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id",)
    success_keys: ClassVar[tuple[str, ...]] = ("min_value", "where")

    def _validate(self, metrics: Any, runtime_configuration: Any = None, execution_engine: Any = None) -> dict[str, Any]:
        row = _one(execution_engine, self.where)
        value, hi = _number(row["value"]), _number(row["hi"])
        if value >= self.min_value:
            return _judged(row, Outcome.PASS, "")
        if hi >= self.min_value:
            return _judged(row, Outcome.WARN, "below, but the interval reaches it")
        return _judged(row, Outcome.FAIL, "the interval lies below" if math.isfinite(hi) else "undefined")


def _rows(engine: Any, where: dict[str, str]) -> pd.DataFrame:
    frame: pd.DataFrame = engine.get_domain_records({})
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def _one(engine: Any, where: dict[str, str]) -> dict[str, Any]:
    rows = _rows(engine, where).to_dict("records")
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows where {where}, one was expected")
    return {str(name): value for name, value in rows[0].items()}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _interval(rows: pd.DataFrame, index: Any) -> list[float] | None:
    if not {"lo", "hi"} <= set(rows.columns):
        return None
    return _finite_pair(rows["lo"][index], rows["hi"][index])


def _finite_pair(lo: Any, hi: Any) -> list[float] | None:
    pair = [_number(lo), _number(hi)]
    return pair if all(map(math.isfinite, pair)) else None


def _judged(row: dict[str, Any], outcome: Outcome, reason: str) -> dict[str, Any]:
    n = int(row["n"]) if row.get("n") is not None else None
    success = outcome is Outcome.PASS
    return _result(success, _number(row["value"]), reason, n, _finite_pair(row["lo"], row["hi"]), outcome.value)


def _result(
    success: bool,
    value: float | None,
    detail: str,
    n: int | None = None,
    interval: list[float] | None = None,
    outcome: str | None = None,
) -> dict[str, Any]:
    details = {"detail": detail, "n": n, "interval": interval, "outcome": outcome}
    return {"success": success, "result": {"observed_value": value, "details": details}}

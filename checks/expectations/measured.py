"""Expectations over tables of measurements, where Great Expectations' own pass on what must not pass.

The built-in range expectations skip nulls and accept an empty table; a measurement that is missing, NaN or infinite
must fail. And none of them knows an interval.
"""

import math
from abc import abstractmethod
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
from great_expectations.compatibility.pydantic import fields
from great_expectations.execution_engine.execution_engine import ExecutionEngine
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation

from ml.evaluation.outcome import Outcome
from ml.evaluation.rules import judge_floor, judge_gain, judge_improvement, judge_interval, judge_rates
from ml.surfaces.window import Looks


class MeasuredExpectation(BatchExpectation):
    """Base: looks at the rows whose columns have the values of ``where``."""

    where: dict[str, str] = fields.Field(default_factory=dict)

    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id",)

    @abstractmethod
    def judged(self, rows: pd.DataFrame) -> dict[str, object]:
        """Return the expectation's result on ``rows``."""

    def _validate(
        self,
        metrics: dict[str, object],
        runtime_configuration: dict[str, object] | None = None,
        execution_engine: ExecutionEngine | None = None,
    ) -> dict[str, object]:
        assert isinstance(execution_engine, PandasExecutionEngine)
        rows: pd.DataFrame = execution_engine.get_domain_records({})
        for column, value in self.where.items():
            rows = rows.loc[rows[column] == value]
        return self.judged(rows)


class ExpectMeasureBetween(MeasuredExpectation):
    """Expect every value of a column to be a finite number within bounds, in at least one row.

    ``label`` is the column that names a row, ``count`` the one that holds its n, ``shown`` the one whose value is
    reported instead of the bounded one. A column ``value`` has its interval in ``lo`` and ``hi``. ``beyond`` is what a
    value outside of the bounds counts as; default is the expectation's severity.
    """

    column: str
    min_value: float | None = None
    max_value: float | None = None
    label: str | None = None
    count: str | None = None
    shown: str | None = None
    beyond: str | None = None

    success_keys: ClassVar[tuple[str, ...]] = (
        *("column", "min_value", "max_value", "where"),
        *("label", "count", "shown", "beyond"),
    )

    def judged(self, rows: pd.DataFrame) -> dict[str, object]:
        """Return the value that lies furthest beyond the bounds, and whether it is inside."""
        if rows.empty:
            return _result(False, None, "nothing was measured")
        values = _series(pd.to_numeric(rows[self.column], errors="coerce")).astype(float)
        beyond = values.map(self._beyond)
        worst = int(beyond.argmax())
        name = str(_series(rows[self.label]).iloc[worst]) if self.label else ""
        n = int(_series(rows[self.count]).fillna(0).sum()) if self.count else None
        value = _number(_series(rows[self.shown]).iloc[worst]) if self.shown else float(values.iloc[worst])
        row = {str(column): found for column, found in rows.iloc[worst].to_dict().items()}
        interval = _finite_pair(row["lo"], row["hi"]) if "value" in (self.column, self.shown) else None
        outcome = self.beyond if (beyond > 0).any() else None
        return _result(not bool((beyond > 0).any()), value, name, n, interval, outcome, users=_users(row))

    def _beyond(self, value: float) -> float:
        """Return how far a value lies outside of the bounds; 0 or less is inside."""
        if not math.isfinite(value):
            return math.inf
        low = self.min_value - value if self.min_value is not None else -math.inf
        high = value - self.max_value if self.max_value is not None else -math.inf
        return max(low, high)


class ExpectRateBetween(MeasuredExpectation):
    """Expect a share of positives within bounds, in every row and over all of them: see ``judge_rates``.

    ``count`` is the column of n, ``label`` the one that names a row. With ``around``, the column of another share, the
    bounds are factors of that, and rows where it is null are left out.
    """

    column: str
    count: str
    label: str
    min_value: float
    max_value: float
    around: str | None = None

    success_keys: ClassVar[tuple[str, ...]] = ("column", "count", "label", "min_value", "max_value", "where", "around")

    def judged(self, rows: pd.DataFrame) -> dict[str, object]:
        """Return the share that is hardest to explain by chance, and what it counts as."""
        if rows.empty:
            return _result(False, None, "nothing was measured")
        low, high = np.full(len(rows), self.min_value), np.full(len(rows), self.max_value)
        if self.around:
            usual = _numbers(rows, self.around)
            rows, usual = rows.loc[np.isfinite(usual)], usual[np.isfinite(usual)]
            if rows.empty:
                return _result(True, "not compared", "no day has enough days before it")
            low, high = self.min_value * usual, np.minimum(self.max_value * usual, 1.0)
        rates, n = (_numbers(rows, name) for name in (self.column, self.count))
        names = [str(name) for name in _series(rows[self.label])]
        if not (np.isfinite(rates) & (n > 0)).all():
            worst = int(np.argmin(np.isfinite(rates) & (n > 0)))
            return _result(False, float(rates[worst]), names[worst], 0)
        rates, low, high = (np.append(values, np.average(values, weights=n)) for values in (rates, low, high))
        n, names = np.append(n, n.sum()), [*names, "all days"]
        outcome, worst, chance = judge_rates(rates, n, low, high)
        detail = names[worst]
        if self.around:
            detail += f": {low[worst]:.4g} to {high[worst]:.4g} by the days before"
        if outcome is Outcome.WARN:
            detail += f": too few labels to tell it from chance (p {chance:.2g})"
        shown = float(rates[worst]), detail, int(n[worst])
        return _result(outcome is Outcome.PASS, *shown, outcome=outcome.value)


class ExpectIntervalAbove(MeasuredExpectation):
    """Expect a paired difference, one of ``comparisons``, to be non-inferior: see ``judge_interval``.

    It is looked at after ``first_days`` evaluation days and each further one, up to ``most_days``.
    """

    margin: float
    comparisons: int = 1
    first_days: int = 1
    most_days: int = 1
    short: str = Outcome.INCONCLUSIVE.value

    success_keys: ClassVar[tuple[str, ...]] = ("margin", "where", "comparisons", "first_days", "most_days", "short")

    def judged(self, rows: pd.DataFrame) -> dict[str, object]:
        """Judge ``value``, ``lo`` and ``hi`` of the one row."""
        row = _one(rows)
        value, lo, hi = (_number(row[name]) for name in ("value", "lo", "hi"))
        looks, short = Looks(self.first_days, self.most_days), Outcome(self.short)
        judged = judge_interval(value, lo, hi, self.margin, looks=looks, comparisons=self.comparisons, short=short)
        return _outcome(row, *judged)


class ExpectImprovement(MeasuredExpectation):
    """Expect a paired difference above 0: see ``judge_improvement``."""

    success_keys: ClassVar[tuple[str, ...]] = ("where",)

    def judged(self, rows: pd.DataFrame) -> dict[str, object]:
        """Judge ``value`` and ``lo`` of the one row."""
        row = _one(rows)
        return _outcome(row, *judge_improvement(_number(row["value"]), _number(row["lo"])))


class ExpectGainShown(MeasuredExpectation):
    """Expect the gain of a student over its control above 0 by its interval: see ``judge_gain``."""

    success_keys: ClassVar[tuple[str, ...]] = ("where",)

    def judged(self, rows: pd.DataFrame) -> dict[str, object]:
        """Judge ``value``, ``lo`` and ``hi`` of the one row."""
        row = _one(rows)
        return _outcome(row, *judge_gain(*(_number(row[name]) for name in ("value", "lo", "hi"))))


class ExpectNotClearlyBelow(MeasuredExpectation):
    """Expect a value of at least ``min_value``: see ``judge_floor``. ``beyond`` is what one clearly below counts as."""

    min_value: float
    beyond: str = Outcome.FAIL.value

    success_keys: ClassVar[tuple[str, ...]] = ("min_value", "where", "beyond")

    def judged(self, rows: pd.DataFrame) -> dict[str, object]:
        """Judge ``value`` and ``hi`` of the one row."""
        row = _one(rows)
        outcome, reason = judge_floor(_number(row["value"]), _number(row["hi"]), self.min_value)
        return _outcome(row, Outcome(self.beyond) if outcome is Outcome.FAIL else outcome, reason)


class ExpectNotClearlyAbove(MeasuredExpectation):
    """Expect a value of at most ``max_value``: see ``judge_floor``, of which this is the mirror."""

    max_value: float

    success_keys: ClassVar[tuple[str, ...]] = ("max_value", "where")

    def judged(self, rows: pd.DataFrame) -> dict[str, object]:
        """Judge ``value`` and ``lo`` of the one row."""
        row = _one(rows)
        outcome, _ = judge_floor(-_number(row["value"]), -_number(row["lo"]), -self.max_value)
        reason = {Outcome.WARN: "above, but the interval reaches it", Outcome.FAIL: "the interval lies above"}
        return _outcome(row, outcome, reason.get(outcome, ""))


class ExpectStated(MeasuredExpectation):
    """Expect that what was ``found`` equals what was ``stated``."""

    success_keys: ClassVar[tuple[str, ...]] = ("where",)

    def judged(self, rows: pd.DataFrame) -> dict[str, object]:
        """Compare the two texts of the one row."""
        row = _one(rows)
        return _result(row["stated"] == row["found"], row["found"], "")


def _one(rows: pd.DataFrame) -> dict[str, Any]:
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows, one was expected")
    return {str(name): value for name, value in rows.iloc[0].to_dict().items()}


def _series(values: object) -> pd.Series:
    # pandas annotates these calls with everything that they give for any argument.
    return cast("pd.Series", values)


def _numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    return _series(pd.to_numeric(rows[column], errors="coerce")).to_numpy(float, na_value=np.nan)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _finite_pair(lo: object, hi: object) -> list[float] | None:
    pair = [_number(lo), _number(hi)]
    return pair if all(map(math.isfinite, pair)) else None


def _users(row: dict[str, object]) -> float | None:
    users = _number(row.get("effective_users"))
    return users if math.isfinite(users) else None


def _outcome(row: dict[str, Any], outcome: Outcome, reason: str) -> dict[str, object]:
    interval = _finite_pair(row["lo"], row["hi"])
    shown = _number(row["value"]), reason, int(row["n"]), interval, outcome.value
    return _result(outcome is Outcome.PASS, *shown, users=_users(row))


def _result(
    success: bool,
    value: float | str | None,
    detail: str,
    n: int | None = None,
    interval: list[float] | None = None,
    outcome: str | None = None,
    users: float | None = None,
) -> dict[str, object]:
    details = {"detail": detail, "n": n, "interval": interval, "outcome": outcome, "effective_users": users}
    return {"success": success, "result": {"observed_value": value, "details": details}}

"""Great Expectations over small tables of measurements: a suite in, typed checks out.

Every expectation names its check in ``meta``: ``{"check": ..., "threshold": ...}``. What cannot be evaluated fails.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypedDict

from ml.evaluation.outcome import Outcome, worst_outcome
from ml.releases.verdicts import Check

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.expectations.expectation import Expectation


class Named(TypedDict):
    """The keyword argument of an expectation that says which check it is."""

    meta: dict[str, str]


def suite(name: str, expectations: "Iterable[Expectation]") -> "ExpectationSuite":
    """Return a suite of ``expectations``."""
    return _gx().ExpectationSuite(name=name, expectations=list(expectations))


def bounded(
    name: str, column: str, cases: Mapping[str, Mapping[str, str]], *, high: float, **more: Any
) -> "ExpectationSuite":
    """Return a suite that expects ``column`` from 0 to ``high``, once per case.

    Args:
        name: Name of the suite.
        column: The measure.
        cases: {name of the check: values of columns that say which rows it is about}.
        high: Largest value.
        more: Further arguments of ``ExpectMeasureBetween``.
    """
    from checks.expectations.measured import ExpectMeasureBetween

    bounds = {"column": column, "min_value": 0, "max_value": high, **more}
    wanted = [ExpectMeasureBetween(where=dict(w), **bounds, **named(c, between(high=high))) for c, w in cases.items()]
    return suite(name, wanted)


def named(check: str, threshold: str) -> Named:
    """Return the keyword argument that names an expectation's check and states its threshold for people."""
    return {"meta": {"check": check, "threshold": threshold}}


def expectations() -> ModuleType:
    """Return ``great_expectations.expectations``, the built-in classes."""
    _gx()
    import great_expectations.expectations as gxe

    return gxe


def validate(rows: Iterable[Mapping[str, object]], expected: "ExpectationSuite") -> list[Check]:
    """Validate a table of measurements.

    Args:
        rows: The table, a mapping per row.
        expected: The suite.

    Returns:
        One check per expectation, in the suite's order. An expectation that raises, or gives no result, fails.
    """
    import pandas as pd

    batch = _batch_definition().get_batch(batch_parameters={"dataframe": pd.DataFrame(list(rows))})
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        outcome = batch.validate(expected)
    finally:
        logger.setLevel(level)
    told = [(r, r.expectation_config.meta) for r in outcome.results if r.expectation_config]
    found = {meta["check"]: r for r, meta in told if meta}
    return [_check(_meta(e), found.get(_meta(e)["check"]), _severity(e)) for e in expected.expectations]


def worst(checks: Iterable[Check]) -> Outcome:
    """Return the worst outcome of some checks; without any, nothing was evaluated."""
    return worst_outcome(check.outcome for check in checks)


def _check(meta: Mapping[str, str], result: "ExpectationValidationResult | None", severity: str) -> Check:
    name, threshold = meta["check"], meta["threshold"]
    if result is None:
        return Check(name=name, threshold=threshold, outcome=Outcome.FAIL, detail="the expectation gave no result")
    if error := _exception(result.exception_info):
        return Check(name=name, threshold=threshold, outcome=Outcome.FAIL, detail=f"could not be evaluated: {error}")
    details = result.result.get("details") or {}
    on_failure = Outcome.WARN if severity == "warning" else Outcome.FAIL
    outcome = Outcome.PASS if result.success else on_failure
    return Check(
        name=name,
        threshold=threshold,
        outcome=Outcome(details.get("outcome") or outcome),
        value=_value(result.result),
        interval=details.get("interval"),
        n=details.get("n"),
        effective_users=details.get("effective_users"),
        detail=_detail(result.result, details),
    )


def _meta(expectation: "Expectation") -> dict[str, Any]:
    """Return what ``named`` gave the expectation."""
    if expectation.meta is None:
        raise ValueError(f"{expectation} names no check")
    return expectation.meta


def _severity(expectation: "Expectation") -> str:
    return getattr(expectation.severity, "value", expectation.severity)


def _exception(info: Any) -> str | None:
    """Return the message of an exception inside an expectation; metrics report theirs one level deeper."""
    if not info:
        return None
    layers = [info] if "raised_exception" in info else list(info.values())
    return next((str(i["exception_message"]) for i in layers if i.get("raised_exception")), None)


def _value(result: Mapping[str, object]) -> float | str | None:
    value = result.get("observed_value", result.get("unexpected_count"))
    if isinstance(value, bool | int | float):
        return float(value)
    return None if value is None else str(value)


def _detail(result: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    if details.get("detail"):
        return str(details["detail"])
    unexpected = result.get("partial_unexpected_list") or []
    return "; ".join(f"stated {u[0]}, found {u[1]}" if isinstance(u, tuple) else str(u) for u in unexpected[:5])


def between(low: float | None = None, high: float | None = None) -> str:
    """Say a range for people."""
    if low is not None and high is not None:
        return f"{low:g}" if math.isclose(low, high) else f"{low:g} to {high:g}"
    return f">= {low:g}" if low is not None else f"<= {high:g}"


@lru_cache(maxsize=1)
def _batch_definition() -> "BatchDefinition[Any]":
    context = _gx().get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("measurements").add_dataframe_asset("measurements")
    return asset.add_batch_definition_whole_dataframe("measurements")


@lru_cache(maxsize=1)
def _gx() -> ModuleType:
    import great_expectations

    return great_expectations

"""Guard 7: the exported file is sound, whole, small enough, and computes what the checkpoint computes."""

from collections.abc import Sequence
from typing import Any

from checks import gx
from ml.surfaces.spec import OnnxGate


def graph_suite(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the suite over ``measure_onnx``."""
    from checks.expectations.measured import ExpectMeasureBetween

    return gx.suite(
        "onnx",
        [
            ExpectMeasureBetween(
                column="problems",
                min_value=0,
                max_value=0,
                where={"property": row["property"]},
                label="detail" if row["detail"] else None,
                **gx.named(row["property"], "0 problems"),
            )
            for row in rows
        ],
    )


def parity_suite(gate: OnnxGate, rows: Sequence[dict[str, Any]]) -> Any:
    """Return the suite over ``measure_parity``."""
    from checks.expectations.measured import ExpectMeasureBetween

    return gx.suite(
        "parity",
        [
            ExpectMeasureBetween(
                column="difference",
                min_value=0,
                max_value=gate.tolerance,
                where={"case": row["case"]},
                count="n",
                **gx.named(f"difference_{row['case'].replace(' ', '_')}", gx.between(high=gate.tolerance)),
            )
            for row in rows
        ],
    )


def size_suite(gate: OnnxGate) -> Any:
    """Return the suite over one row: ``megabytes``."""
    from checks.expectations.measured import ExpectMeasureBetween

    bounds = {"min_value": 0, "max_value": gate.max_megabytes}
    named = gx.named("megabytes", gx.between(high=gate.max_megabytes))
    return gx.suite("size", [ExpectMeasureBetween(column="megabytes", **bounds, **named)])

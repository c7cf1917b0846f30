"""What the figures of a served log are called, and where they lie: known without loading what computes them."""

from ml.foundation.lake import ML

LOGGED, EXPOSED, UNEQUAL, OLDER, REPRODUCED, CALIBRATION, SHIFT = (
    *("logged", "exposed", "unequal", "older_features", "not_reproduced"),
    *("predicted_over_observed", "psi"),
)
"""What a row is: a count of logged candidates or of exposures by what became of them, or a figure."""
MATCHED = "matched"
AS_LOGGED, AS_SERVED = "logged", "serving"
"""Where ``after_ranking`` inputs stood for a prediction: where the item was shown, or where they stand when serving."""


def served_skew_table(surface: str) -> str:
    """Return the ``schema.table`` that holds the figures of a surface's served log."""
    return f"{ML}.served_skew_{surface}"

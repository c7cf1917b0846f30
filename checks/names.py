"""Names of guards and checks, in one place."""

GUARDS = {
    1: "data",
    2: "soft_labels",
    3: "quality",
    4: "slices",
    5: "calibration",
    6: "score_shift",
    7: "onnx",
    8: "serving",
    9: "rollback",
    10: "provenance",
}
"""Guards of the gate by number."""

EXAMPLES_CHECK = "examples_are_sound"
SOFT_LABELS_CHECK = "soft_labels_are_sound"
VERDICT_CHECK = "verdict"


def guard_check(number: int) -> str:
    """Return the name of a guard's check, such as ``guard_01_data``."""
    return f"guard_{number:02d}_{GUARDS[number]}"

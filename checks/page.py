"""The page about the guards, from their files: ``python -m checks.page > docs/reference/guards.md``."""

from checks.guard import Guard
from checks.guards import GUARDS

_INTRODUCTION = """# The guards of the gate

A candidate is judged by {number} guards, in this order. Each is a file, and this page is written from those files by
`python -m checks.page > docs/reference/guards.md`. What a guard found stands in its asset check, in the verdict
(`crossfade release verdict`) and in the model card. A guard that could not look has failed.
"""


_HOW_TO_ADD = """## Add a guard

Write `checks/guards/<name>.py`, and its test `tests/checks/guards/test_<name>.py`; nothing else names a guard. The
file measures a candidate (`measure`), says what is expected of the measurement (`suite`), joins the two (`judge`),
and ends with `GUARD`: its number, its name, what it means and what to do. `checks/guards/calibration.py` is a short
example. Imports of numpy, torch, onnx, onnxruntime and Great Expectations stand inside functions, so that definitions
load without them.

Bounds that a surface may set are a class `Thresholds` in the same file, each with a default, given to `GUARD` as
`thresholds=`. A surface sets them in its YAML below `gate: guards: <name>:`.
"""


def guards_page() -> str:
    """Return the page."""
    return "\n".join([_INTRODUCTION.format(number=len(GUARDS)), *map(_section, GUARDS), _HOW_TO_ADD])


def _section(guard: Guard) -> str:
    lines = [f"## {guard.number}. {guard.name.replace('_', ' ').capitalize()}", "", guard.means, ""]
    lines += [f"- **Check**: `{guard.check}` of `<surface>/onnx`", f"- **If it warns or blocks**: {guard.to_do}"]
    if guard.daily:
        means = guard.daily.means
        lines += [f"- **Check of each day**: `{guard.daily.name}` of `<surface>/{guard.daily.asset}`: {means}"]
        lines += [f"- **If the day fails**: {guard.daily.to_do}"]
    for name, field in guard.thresholds.model_fields.items() if guard.thresholds else ():
        lines += [f"- **Threshold** `gate: guards: {guard.name}: {name}`, {field.default}: {field.description}"]
    return "\n".join([*lines, f"- **File**: `checks/guards/{guard.name}.py`", ""])


if __name__ == "__main__":
    print(guards_page(), end="")

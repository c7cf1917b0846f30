"""Every stage reports in one shape; a log shows it as lines, few enough to read."""

import pytest

from ml.foundation import progress
from ml.foundation.progress import Step, as_lines


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Step("simulate", 3, 12), "simulate: 3 of 12 (25 %)"),
        (Step("radio student", 1500, 2000, note="loss 0.5"), "radio student, loss 0.5: 1,500 of 2,000 (75 %)"),
        (Step("landing", 1, 2, line="2026-01-01, 3 rows landed"), "landing: 2026-01-01, 3 rows landed (1 of 2)"),
        (Step("teacher", line="ids known: user 3"), "teacher: ids known: user 3"),
    ],
)
def test_a_step_is_one_line(step: Step, text: str) -> None:
    assert str(step) == text


def test_lines_that_stay_and_ends_are_always_said_and_the_rest_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    said: list[str] = []
    report = as_lines(said.append, every_s=5)
    report(Step("teacher", line="ids known: user 3"))
    report(Step("radio control", 1, 3))
    now = 6.0
    report(Step("radio control", 2, 3))
    report(Step("radio control", 3, 3))
    assert said == ["teacher: ids known: user 3", "radio control: 2 of 3 (67 %)", "radio control: 3 of 3 (100 %)"]

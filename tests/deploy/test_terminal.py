"""What a person sees of a long step: a bar that goes, and lines that stay."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from deploy.cli import terminal
from ml.foundation.progress import Step


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What the console gets; it is a terminal or not, as the parameter says."""
    file = io.StringIO()
    monkeypatch.setattr(
        terminal, "console", Console(file=file, force_terminal=request.param, width=100, highlight=False)
    )
    yield file
    terminal._bars.clear()


@pytest.mark.parametrize("written", [True], indirect=True)
def test_a_work_has_one_bar_with_its_present_note(written: io.StringIO) -> None:
    report = terminal.reporter()
    report(Step("radio student", 1, 3, note="loss 0.9"))
    report(Step("radio student", 2, 3, note="loss 0.7"))
    display = terminal._bars._display
    assert display is not None
    assert [task.description for task in display.tasks] == ["radio student, loss 0.7"]
    report(Step("radio student", 3, 3, note="loss 0.6"))
    assert terminal._bars._display is None
    assert written.getvalue().count("\x1b[?25h") == written.getvalue().count("\x1b[?25l") == 1


@pytest.mark.parametrize("written", [True, False], indirect=True)
def test_lines_stay(written: io.StringIO) -> None:
    report = terminal.reporter()
    report(Step("teacher", line="ids known: [user] 3"))
    report(Step("teacher", 1, 2, line="2026-01-01 learnt, loss 0.5"))
    terminal._bars.clear()
    assert "  teacher: ids known: [user] 3\n" in written.getvalue()
    assert "  teacher: 2026-01-01 learnt, loss 0.5" in written.getvalue()


@pytest.mark.parametrize("written", [True], indirect=True)
def test_bars_that_were_cleared_can_come_again(written: io.StringIO) -> None:
    report = terminal.reporter()
    report(Step("landing", 1, 3))
    terminal._bars.clear()
    report(Step("landing", 1, 3))
    display = terminal._bars._display
    assert display is not None
    assert [task.completed for task in display.tasks] == [1]

"""What a command prints: its result on stdout, whole; progress, notes and errors on stderr."""

import atexit
import logging
import sys
import time
from collections.abc import Collection, Mapping, Sequence

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display
from rich.table import Table
from rich.text import Text

from assets.progress import ProgressResource
from ml.progress import Progress, Step, as_lines

console = Console(stderr=True, highlight=False)
"""For progress, notes and errors; ``say`` and ``show_table`` print results."""

_UNBOUNDED = 1 << 20
"""Columns of an output that is no terminal: a file and a pipe take lines of any length."""


def say(text: str | Text, *, style: str = "") -> None:
    """Print a line of a command's result on stdout, as it is and unbroken."""
    result_console().print(text, style=style, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line beside the result, on stderr, as it is and unbroken."""
    console.print(text, markup=False, soft_wrap=True)


def show_table(
    title: str, rows: Sequence[Mapping[str, object]], *, right: Collection[str] = (), result: bool = True
) -> None:
    """Print rows as a table: drawn to the width of a terminal, else one unbroken line per row, columns aligned.

    Args:
        title: Stands above.
        rows: Cells by column; the first row names the columns. None is blank, a float has four digits.
        right: Columns to align on the right.
        result: On stdout; a table that only accompanies a result goes to stderr.
    """
    console = result_console() if result else _console(stderr=True)
    if not rows:
        console.print(f"{title}: none", markup=False, soft_wrap=True)
        return
    if console.width == _UNBOUNDED:
        console.print(title, markup=False, soft_wrap=True)
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    else:
        table = Table(title=Text(title), title_justify="left")
    for name in rows[0]:
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    with console.capture() as drawn:
        console.print(table)
    console.file.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))


def show_facts(facts: Mapping[str, str]) -> None:
    """Print a line of the result per fact, their values below each other."""
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:{width}}  {' '.join(value.splitlines())}")


def result_console() -> Console:
    """Return a console on stdout that never breaks a line where stdout is no terminal."""
    return _console(stderr=False)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else _UNBOUNDED)


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return Text(" ".join(text.splitlines()))


class TerminalProgress(ProgressResource):
    """Draws long steps as a bar; where the output is no terminal, prints a line every few seconds."""

    every_s: float = 5.0

    def of(self, context: dg.AssetExecutionContext) -> Progress:
        """Return a progress that draws on the terminal."""
        return reporter(self.every_s)


def reporter(every_s: float = 5.0) -> Progress:
    """Return a progress that draws a bar on a terminal, else prints every few seconds; lines that stay always."""
    return _bars.draw if console.is_terminal else as_lines(_print, every_s)


def _print(text: str) -> None:
    console.print(f"  {text}", markup=False, soft_wrap=True)


class _Bars:
    """A bar for each work under way, in one display: a console has room for no second."""

    def __init__(self) -> None:
        self._display: Display | None = None
        self._tasks: dict[str, TaskID] = {}

    def draw(self, step: Step) -> None:
        """Show a report."""
        if step.line:
            _print(f"{step.what}: {step.line}")
        if not step.total:
            return
        if self._display is None:
            self._display = Display(
                TextColumn("  {task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), console=console, transient=True,
            )  # fmt: skip
            self._display.start()
        if step.what not in self._tasks:
            self._tasks[step.what] = self._display.add_task(step.title, total=step.total)
        self._display.update(self._tasks[step.what], description=step.title, completed=step.done, total=step.total)
        if step.done >= step.total:
            self._display.remove_task(self._tasks.pop(step.what))
            if not self._tasks:
                self.clear()

    def clear(self) -> None:
        """Remove every bar and give the cursor back."""
        if self._display is not None:
            self._display.stop()
        self._display = None
        self._tasks.clear()


_bars = _Bars()
atexit.register(_bars.clear)


class _StepLines(logging.Handler):
    """Turns Dagster's step events into one line each, and shows warnings and errors."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.start = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "dagster_meta", {}).get("dagster_event")
        at = f"[dim]{time.monotonic() - self.start:6.1f} s[/dim]"
        if event is None:
            message = str(getattr(record, "dagster_meta", {}).get("orig_message", record.msg))
            if record.levelno >= logging.WARNING and not message.startswith("Dependencies for step"):
                _say(f"{at} [yellow]{escape(message)}[/yellow]")
            return
        step = (event.step_key or "").replace("__", "/")
        match event.event_type_value:
            case "STEP_START":
                _say(f"{at} {step} ...")
            case "STEP_SUCCESS":
                seconds = event.event_specific_data.duration_ms / 1000
                _say(f"{at} {step} [green]done[/green] in {seconds:.1f} s")
            case "STEP_FAILURE":
                _bars.clear()  # what failed never reports its end
                error = event.event_specific_data.error
                cause = error
                while cause is not None and cause.cause is not None:
                    cause = cause.cause
                _say(f"{at} {step} [red]failed[/red]: {escape(cause.message.strip()) if cause else 'unknown error'}")
            case "ASSET_CHECK_EVALUATION":
                check = event.event_specific_data
                if not check.passed:
                    colour, told = ("red", "failed") if check.severity.value == "ERROR" else ("yellow", "warns")
                    asset = "/".join(check.asset_key.path)
                    _say(f"{at} [{colour}]check {check.check_name} of {asset} {told}[/{colour}]")


def _say(line: str) -> None:
    console.print(line, soft_wrap=True)


@dg.logger(config_schema=None, description="One line per step on the terminal")
def terminal_logger(init_context: dg.InitLoggerContext) -> logging.Logger:
    """Return a logger that prints steps for a person."""
    logger = logging.Logger("crossfade.terminal", logging.DEBUG)
    logger.addHandler(_StepLines())
    return logger


def fail(message: str) -> None:
    """Print an error for a person and end the command with status 1."""
    console.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
    sys.exit(1)


def minutes(seconds: float) -> str:
    """Return a duration for people: seconds, or whole minutes from one and a half on."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"

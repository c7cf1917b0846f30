"""What a person sees while a command runs the graph: a line per step, and a bar for long ones."""

import logging
import sys
import time
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from assets.progress import Progress as ProgressResource
from assets.progress import ProgressFunction

console = Console(stderr=True, highlight=False)


class TerminalProgress(ProgressResource):
    """Draws long steps as a bar; where the output is no terminal, prints a line every few seconds."""

    every_s: float = 5.0

    def of(self, context: dg.AssetExecutionContext) -> ProgressFunction:
        """Return a function that draws on the terminal."""
        return reporter(self.every_s)


def reporter(every_s: float = 5.0) -> ProgressFunction:
    """Return ``progress(what, done, total)`` that draws a bar on a terminal, else prints every few seconds."""
    if not console.is_terminal:
        return _lines(every_s)
    bar = Progress(
        TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
        transient=True,
    )  # fmt: skip
    tasks: dict[str, Any] = {}

    def draw(what: str, done: int = 0, total: int = 0) -> None:
        if not total:
            console.print(f"  {what}")
            return
        if not tasks:
            bar.start()
        task = tasks.get(what)
        if task is None:
            task = tasks[what] = bar.add_task(what, total=total)
        bar.update(task, completed=done, total=total)
        if total and done >= total:
            bar.remove_task(tasks.pop(what))
            if not tasks:
                bar.stop()

    return draw


def _lines(every_s: float) -> ProgressFunction:
    last = time.monotonic()

    def line(what: str, done: int = 0, total: int = 0) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_s:
            share = f": {done:,} of {total:,} ({100 * done / total:.0f} %)" if total else ""
            console.print(f"  {what}{share}")
            last = now

    return line


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
                error = event.event_specific_data.error
                cause = error
                while cause is not None and cause.cause is not None:
                    cause = cause.cause
                _say(f"{at} {step} [red]failed[/red]: {escape(cause.message.strip()) if cause else 'unknown error'}")
            case "ASSET_CHECK_EVALUATION":
                check = event.event_specific_data
                if not check.passed:
                    colour = "red" if check.severity.value == "ERROR" else "yellow"
                    asset = "/".join(check.asset_key.path)
                    _say(f"{at} [{colour}]check {check.check_name} of {asset} did not pass[/{colour}]")


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
    console.print(f"[red]error:[/red] {message}")
    sys.exit(1)

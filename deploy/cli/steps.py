"""What a person sees while a command runs the graph: a line per step, and a bar for long ones."""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import dagster as dg
from rich.markup import escape

from assets.progress import ProgressResource
from deploy.cli.terminal import clear_bars, console, reporter
from ml.foundation.progress import Progress
from ml.foundation.settings import Settings


class TerminalProgress(ProgressResource):
    """Draws long steps as a bar; where the output is no terminal, or not this process's alone, prints lines."""

    every_s: float = 5.0
    bars: bool = True

    def of(self, context: dg.AssetExecutionContext) -> Progress:
        """Return a progress that draws on the terminal."""
        return reporter(self.every_s, bars=self.bars)


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
                clear_bars()
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


@contextmanager
def quiet(settings: Settings) -> Iterator[None]:
    """Send what dbt and other libraries print to ``logs/demo.log`` of the home, so that a person sees the steps."""
    path = settings.home / "logs" / "demo.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    with path.open("a", encoding="utf-8") as log, redirect_stdout(log), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handler = logging.StreamHandler(log)
        before = root.handlers[:]
        root.handlers[:] = [handler]
        try:
            yield
        finally:
            root.handlers[:] = before

"""What a person sees while a command works: lines, and a bar for what takes long. Every command imports it."""

import atexit
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from ml.progress import Progress, Step, as_lines

console = Console(stderr=True, highlight=False)


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


def clear_bars() -> None:
    """Remove every bar: what failed never reports its end."""
    _bars.clear()


def fail(message: str) -> None:
    """Print an error for a person and end the command with status 1."""
    console.print(f"[red]error:[/red] {message}")
    sys.exit(1)


def minutes(seconds: float) -> str:
    """Return a duration for people: seconds, or whole minutes from one and a half on."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"

"""What a command prints: its result on stdout, whole; progress, notes and errors on stderr."""

import atexit
import json
import sys
from collections.abc import Collection, Mapping, Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display
from rich.table import Table
from rich.text import Text

from ml.foundation.progress import Progress, Step, as_lines

console = Console(stderr=True, highlight=False)
"""For progress, notes and errors; ``say`` and ``show_table`` print results."""

_collected: dict[str, list[dict[str, object]]] | None = None
"""Tables of a command whose result is JSON, by their titles; None where tables are drawn."""
_MANY = 4
_UNBOUNDED = 1 << 20
"""Columns of an output that is no terminal: a file and a pipe take lines of any length."""


def collect_tables(context: typer.Context, chosen: bool) -> bool:
    """Let the command of ``context`` print its tables at its end, as JSON by title; the callback of ``--json``."""
    global _collected
    if chosen and not context.resilient_parsing:
        _collected = {}
        context.call_on_close(_print_collected)
    return chosen


def _print_collected() -> None:
    global _collected
    if _collected is not None:
        content, _collected = _collected, None
        show_json(content)


def say(text: str | Text, *, style: str = "") -> None:
    """Print a line of a command's result on stdout, as it is and unbroken; beside tables as JSON, on stderr."""
    _console(stderr=_collected is not None).print(text, style=style, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line beside the result, on stderr, as it is and unbroken."""
    console.print(text, markup=False, soft_wrap=True)


def show_table(
    title: str, rows: Sequence[Mapping[str, object]], *, right: Collection[str] = (), result: bool = True
) -> None:
    """Print rows as a table: drawn to the width of a terminal, else one unbroken line per row, columns aligned.

    Many columns on a terminal that is too narrow for their words become a line per cell, rows apart.

    Args:
        title: Stands above; a key of what ``--json`` prints.
        rows: Cells by column; the first row names the columns. None is blank, a float has four digits.
        right: Columns to align on the right.
        result: On stdout; a table that only accompanies a result goes to stderr.
    """
    if _collected is not None and result:
        _collected[title] = [{name: _plain(value) for name, value in row.items()} for row in rows]
        return
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
    if len(rows[0]) >= _MANY and _least_width(rows) > console.width:
        for row in rows:
            console.print()
            for name, value in row.items():
                if shown := _cell(value).plain:
                    console.print(f"{name}: {shown}", markup=False, soft_wrap=True)
        return
    with console.capture() as drawn:
        console.print(table)
    console.file.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))


def _least_width(rows: Sequence[Mapping[str, object]]) -> int:
    """Return the width of a table in which no word is broken."""
    cells = ([name, *(_cell(row[name]).plain for row in rows)] for name in rows[0])
    return 1 + sum(3 + max(len(word) for cell in column for word in cell.split() or [""]) for column in cells)


def show_json(content: object) -> None:
    """Print the result as JSON."""
    typer.echo(json.dumps(content, indent=2, default=str))


def show_facts(facts: Mapping[str, str]) -> None:
    """Print a line of the result per fact, their values below each other."""
    if _collected is not None:
        _collected.setdefault("facts", []).extend({"what": name, "value": value} for name, value in facts.items())
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:{width}}  {' '.join(value.splitlines())}")


def result_console() -> Console:
    """Return a console on stdout that never breaks a line where stdout is no terminal."""
    return _console(stderr=False)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else _UNBOUNDED)


def _plain(value: object) -> object:
    return value.plain if isinstance(value, Text) else value


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return Text(" ".join(text.splitlines()))


def reporter(every_s: float = 5.0, *, bars: bool = True) -> Progress:
    """Return a progress that draws a bar on a terminal, else prints every few seconds; lines that stay always."""
    return _bars.draw if bars and console.is_terminal else as_lines(_print, every_s)


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
    console.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
    sys.exit(1)


def minutes(seconds: float) -> str:
    """Return a duration for people: seconds, or whole minutes from one and a half on."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"

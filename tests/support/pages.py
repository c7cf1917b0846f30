"""Commands that pages show, for the tests that run them as they stand there."""

import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ml.foundation.settings import PROJECT_ROOT

SITE = (PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").rglob("*.md")))
UNTRIED = re.compile(r"\bno test runs it: (?:needs|takes) \w")
"""What the comment of a command says that no test runs: why not."""
_FENCE = re.compile(r"^ *```sh(?P<action>[^\n`]*)\n(?P<text>.*?)^ *```$", re.M | re.S)


class Shown(NamedTuple):
    """A command of a page: where it stands, its words as they stand there, the comment behind it."""

    page: str
    line: str
    comment: str
    action: str

    @property
    def marked(self) -> bool:
        """Whether the page says that no test runs it."""
        return bool(UNTRIED.search(self.comment))


def lines(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a block of shell, each with its comment; one that goes on in the next line is one."""
    for written in re.sub(r"\\\n\s*", "", textwrap.dedent(text)).splitlines():
        line, _, comment = written.partition("#")
        if line.strip():
            yield " ".join(line.replace(".venv/bin/", "").split()), comment.strip()


@cache
def shown() -> tuple[Shown, ...]:
    """All commands in blocks of the README and the site."""
    return tuple(
        Shown(str(path.relative_to(PROJECT_ROOT)), line, comment, block["action"].strip())
        for path in SITE
        for block in _FENCE.finditer(path.read_text(encoding="utf-8"))
        for line, comment in lines(block["text"])
    )


def as_shown(line: str, replaced: Mapping[str, str] | None = None) -> list[str]:
    """The words behind a command that a page shows, for a test to run.

    ``test_commands_of_pages.py`` finds these calls: each command of a page stands in one, or in a page that a test
    follows, or its comment says why no test runs it.

    Args:
        line: The command as the page has it, without `.venv/bin/` and its comment; a literal.
        replaced: What the page's own names, days and paths are here, by whole words.
    """
    assert line in {command.line for command in shown()}, f"no page shows: {line}"
    words = shlex.split(line)[1:]
    assert set(replaced or {}) <= set(words), f"{line!r} lacks {set(replaced or {}) - set(words)}"
    return [(replaced or {}).get(word, word) for word in words]


def steps_of(page: Path, title: str) -> list[str]:
    """The commands below a heading of a page."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.M | re.S)
    return [line for block in _FENCE.finditer(section) for line, _ in lines(block["text"])]


SIGN = PROJECT_ROOT / "docs" / "how-to" / "sign.md"
KEYS = ("Begin to sign", "A key was lost, or you change it", "A key leaked")
"""Headings of that page whose steps a test does in this order (``tests/test_stored_instances.py``)."""

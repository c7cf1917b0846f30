"""Where the files of a table lie, day by day: patterns such as ``events/{table}/dt={day}/*.parquet``.

``{table}`` is the table's name and ``{day}`` the day as 2026-03-01; ``{day:%Y/%m/%d}`` writes it otherwise. ``*`` and
``?`` stand for anything within a name, ``**`` for any folders.
"""

import re
from collections.abc import Iterator
from datetime import date
from functools import lru_cache

from ml.foundation.names import nearest

DEFAULT = "{table}/day={day}/*"
"""The landing zone's own layout."""
SUCCESS = "_SUCCESS"
"""The file that says that a day is complete, unless another is named."""
STORES = ("s3://", "gs://", "az://")
"""What the address of an object store begins with."""

_PLACEHOLDER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_DIRECTIVE = re.compile(r"%(.?)")
_DIGITS = {"Y": 4, "m": 2, "d": 2}
_WILD = re.compile(r"\*\*/?|\*|\?")


def faults_of_pattern(text: str, *, day: bool = True) -> Iterator[str]:
    """Say what is wrong with a pattern.

    Args:
        text: The pattern.
        day: Whether it has to name the day.
    """
    directives: set[str] = set()
    for name, form in _PLACEHOLDER.findall(text):
        if name not in ("table", "day"):
            yield f"unknown {{{name}}}{nearest(name, ['table', 'day'])}"
        elif form and name == "table":
            yield f"{{table:{form}}}: only a day has a form"
        elif name == "day":
            found = set(_DIRECTIVE.findall(form)) if form else set(_DIGITS)
            if odd := sorted(found - _DIGITS.keys()):
                yield f"{{day:{form}}}: unknown %{odd[0]}; a day has %Y, %m and %d"
            directives |= found
    rest = _PLACEHOLDER.sub("", text)
    if odd := sorted(set(rest) & set("{}[]\\")):
        yield f"{odd[0]!r} cannot stand in a pattern; *, ? and ** stand for what differs"
    if day and directives < _DIGITS.keys():
        yield f"it must name the day: {{day}}, or {{day:%Y/%m/%d}} in another form, not {text!r}"
    if text.startswith(STORES) and not re.match(r"\w+://[^/{}*?]+/[^/]", text):
        yield f"it must name a bucket and what lies in it, such as s3://bucket/{{table}}/{{day}}/*, not {text!r}"
    if "://" in text and not text.startswith(STORES):
        yield f"{text.split('://')[0]}:// cannot be listed; there are local folders, {', '.join(STORES)}"


class Pattern:
    """The pattern of one table's files, which ``faults_of_pattern`` has nothing to say about."""

    def __init__(self, text: str, table: str) -> None:
        text = text.replace("{table}", table).removeprefix("./")
        # A day that spans folders is a part in each.
        self._text = _PLACEHOLDER.sub(lambda found: re.sub("/+", "}/{day:", found[0]), text)

    def __str__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self._text == str(other)

    def of(self, day: date) -> str:
        """Return the pattern of one day's files: its folders and their names, which may have wildcards."""
        return _filled(self._text, day)

    def folder(self, day: date) -> str:
        """Return the folder of a day's files; where folders have wildcards too, the one above the first of those."""
        *folders, _ = self.of(day).split("/")
        wild = next((n for n, name in enumerate(folders) if _WILD.search(name)), len(folders))
        return "/".join(folders[:wild])

    @property
    def prefix(self) -> str:
        """What all paths begin with, up to the first name that differs from day to day or has a wildcard."""
        names = self._text.split("/")
        fixed = next(n for n, name in enumerate(names) if _PLACEHOLDER.search(name) or _WILD.search(name))
        return "/".join(names[:fixed])

    @property
    def day_in_folder(self) -> bool:
        """Whether each day has a folder of its own."""
        return self._depth < len(self._text.split("/"))

    @property
    def day_glob(self) -> str:
        """What finds the folders of all days, or their files where the day is part of their names."""
        names = self._text.split("/")[: self._depth]
        return _PLACEHOLDER.sub(lambda found: _glob(found[2]), "/".join(names))

    def day_of(self, path: str) -> date | None:
        """Return the day of a path that ``day_glob`` finds, or of a file below it."""
        found = _regex("/".join(self._text.split("/")[: self._depth])).match(path)
        if found is None or path[found.end() :][:1] not in ("", "/"):
            return None
        try:
            return date(*(int(found[part]) for part in _DIGITS))
        except ValueError:
            return None

    @property
    def _depth(self) -> int:
        """How many names, from the first, say the day."""
        names = self._text.split("/")
        return 1 + max(n for n, name in enumerate(names) if _PLACEHOLDER.search(name))


def matches(path: str, pattern: str) -> bool:
    """Tell whether a path is one of those that a pattern of one day stands for."""
    return _regex(pattern).fullmatch(path) is not None


def fill(text: str, table: str, day: date) -> str:
    """Return a name with a table and a day in their places."""
    return _filled(text.replace("{table}", table), day)


def marker_name(pattern: Pattern, named: str | None, table: str, day: date) -> str | None:
    """Return the name of the file that says that a day is complete; None where one would say so of every day."""
    if named in (None, SUCCESS) and not pattern.day_in_folder:
        return None
    return fill(named or SUCCESS, table, day)


def has_wildcard(text: str) -> bool:
    """Tell whether any part of a path may differ."""
    return _WILD.search(text) is not None


def _filled(text: str, day: date) -> str:
    return _PLACEHOLDER.sub(lambda found: day.strftime(found[2] or "%Y-%m-%d"), text)


def _glob(form: str | None) -> str:
    return _DIRECTIVE.sub(lambda found: "[0-9]" * _DIGITS[found[1]], form or "%Y-%m-%d")


@lru_cache(maxsize=1_024)
def _regex(pattern: str) -> re.Pattern[str]:
    """Return what matches a pattern's paths, a placeholder's parts as groups; a repeated part says the same."""
    seen: set[str] = set()

    def part(found: re.Match[str]) -> str:
        name = found[1]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return rf"(?P<{name}>\d{{{_DIGITS[name]}}})"

    parts, at = list[str](), 0
    for found in re.finditer(rf"{_PLACEHOLDER.pattern}|{_WILD.pattern}", pattern):
        parts.append(re.escape(pattern[at : found.start()]))
        if found[0].startswith("{"):
            parts.append(_DIRECTIVE.sub(part, _escaped(found[2] or "%Y-%m-%d")))
        else:
            parts.append({"*": "[^/]*", "?": "[^/]", "**": ".*", "**/": "(?:.*/)?"}[found[0]])
        at = found.end()
    return re.compile("".join(parts) + re.escape(pattern[at:]), re.DOTALL)


def _escaped(form: str) -> str:
    """Return a day's form with everything but its directives taken literally."""
    return "".join(part if part.startswith("%") else re.escape(part) for part in re.split(r"(%.)", form))

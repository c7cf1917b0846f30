"""Who is told what, and that it is told once: the book of alerts.

A cause that lasts is told when it has lasted for its patience, and is over when a look no longer finds it. One that
happened is told, and over when it is mended. What is told stands in the home's ``reports/alerts.jsonl`` too.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel

from ml.foundation.settings import Settings
from ml.operations.causes import CAUSES, Cause
from ml.operations.sending import Answer, Destination, Message, destinations

log = logging.getLogger(__name__)

RECORD = "alerts.jsonl"
_MOST = 600
_KEPT = timedelta(days=30)
_PAUSE_FIRST, _PAUSE_MOST = timedelta(minutes=1), timedelta(hours=1)


@dataclass(frozen=True)
class Alert:
    """Something that somebody should hear of.

    Attributes:
        cause: What kind of thing.
        about: What it is about; with the cause, what is told once.
        told: What is known of it, for people.
        path: Where the UI shows it.
        patience: How long it may last before it is told.
    """

    cause: Cause
    about: str
    told: str
    path: str = ""
    patience: timedelta = timedelta(0)

    @property
    def key(self) -> str:
        """What tells it from others."""
        return key_of(self.cause, self.about)


def key_of(cause: Cause, about: str) -> str:
    """Return the key of alerts of a cause about a thing."""
    return f"{cause.name}: {about}"


class Entry(BaseModel):
    """An alert in the book.

    Attributes:
        owed: Destinations that it still has to reach; None before it is due.
        reached: Those that it has reached.
        over: What is owed is that it is over.
        tries: How often in a row a destination could not be reached.
        again: When that is tried again.
    """

    cause: str
    about: str
    told: str
    path: str
    since: datetime
    due: datetime
    owed: list[str] | None = None
    reached: list[str] = []
    over: bool = False
    tries: int = 0
    again: datetime | None = None


class Book(BaseModel):
    """Alerts that are open or still have to be told, by key."""

    entries: dict[str, Entry] = {}

    def add(self, alerts: Iterable[Alert], now: datetime) -> None:
        """Open alerts that are not open yet."""
        for alert in alerts:
            known = self.entries.get(alert.key)
            if known is not None and not known.over:
                continue
            self.entries[alert.key] = Entry(
                cause=alert.cause.name,
                about=alert.about,
                told=alert.told[:_MOST],
                path=alert.path,
                since=now,
                due=now + alert.patience,
                # Who was not reached with its end takes it for open still, and is not told again.
                reached=known.owed or [] if known else [],
            )

    def close(self, keys: Iterable[str]) -> None:
        """Close alerts: those that were told are told to be over, to whom it was told."""
        for key in keys:
            entry = self.entries.get(key)
            if entry is None or entry.over:
                continue
            if not entry.reached:
                del self.entries[key]
                continue
            entry.over, entry.owed, entry.tries, entry.again = True, entry.reached, 0, None

    def look(self, found: Iterable[Alert], looked: Iterable[Cause], now: datetime) -> None:
        """Note what a look found of lasting causes: what is new opens, what is no longer there closes.

        Args:
            found: The alerts.
            looked: Causes that could be looked for: what is not known is not over.
            now: Time of the look.
        """
        found = list(found)
        there, names = {alert.key for alert in found}, {cause.name for cause in looked}
        self.close([key for key, entry in self.entries.items() if entry.cause in names and key not in there])
        self.add(found, now)
        for key, entry in list(self.entries.items()):
            if not CAUSES[entry.cause].lasts and now - entry.since > _KEPT:
                del self.entries[key]


@dataclass(frozen=True)
class Desk:
    """Where alerts are written and sent.

    Attributes:
        name: Of the app, for people who hear of several.
        record: File that keeps them.
        ui_url: Address of the UI, for links; may be empty.
        to: Who hears.
    """

    name: str
    record: Path
    ui_url: str
    to: tuple[Destination, ...]

    @classmethod
    def of(cls, settings: Settings) -> "Desk":
        """Return the desk of a home."""
        assert settings.app is not None
        addresses = settings.alerts.get_secret_value() if settings.alerts else ""
        record = settings.reports_dir / RECORD
        return cls(settings.app.name, record, settings.ui_url or "", tuple(destinations(addresses)))

    @classmethod
    def of_environment(cls, home: Path, environment: Mapping[str, str]) -> "Desk":
        """Return the desk of a home whose settings cannot be read."""
        to = destinations(environment.get("CROSSFADE_ALERTS", ""))
        return cls(home.name, home / "reports" / RECORD, environment.get("CROSSFADE_UI_URL", ""), tuple(to))

    def message(self, entry: Entry) -> Message:
        """Return what people get."""
        cause = CAUSES[entry.cause]
        link = f"{self.ui_url.rstrip('/')}{entry.path}" if self.ui_url and entry.path else ""
        key = sha256(f"{self.record} {entry.cause} {entry.about}".encode()).hexdigest()[:32]
        return Message(
            title=f"{self.name}: {'over: ' if entry.over else ''}{cause.title}: {entry.about}",
            told="It is over." if entry.over else entry.told,
            kind="success" if entry.over else "failure" if cause.urgent else "warning",
            key=f"crossfade-{key}",
            to_do="" if entry.over else cause.to_do,
            link=link,
        )


def deliver(
    desk: Desk,
    book: Book,
    now: datetime,
    send: Callable[[Destination, Message], Answer] = Destination.send,
    *,
    budget_s: float = 60,
) -> int:
    """Send what the book owes, and record it; who cannot be reached is tried again later, with growing pauses.

    Args:
        desk: Where to.
        book: What is owed; changed.
        now: Time of the look.
        send: Sends one message.
        budget_s: Seconds after which no more is begun: the rest stays owed.

    Returns:
        Messages that arrived.
    """
    to, broken, arrived = {one.id: one for one in desk.to}, set[str](), 0
    end = time.monotonic() + budget_s
    for key, entry in list(book.entries.items()):
        if entry.owed is None:
            if now < entry.due:
                continue
            entry.owed = [one for one in to if one not in entry.reached]
            _record(desk, entry, now)
        owed = [one for one in entry.owed if one in to]
        if owed and (entry.again is None or now >= entry.again) and time.monotonic() < end:
            message, left = desk.message(entry), list[str]()
            for one in owed:
                answer = None if one in broken else send(to[one], message)
                if answer is None or not answer.sent:
                    left.append(one)
                    broken.add(one)
                    if answer is not None:
                        log.error("%s could not be sent to %s: %s", key, to[one].label, answer.told)
                    continue
                arrived += 1
                if not entry.over:
                    entry.reached.append(one)
            owed = left
            entry.tries = entry.tries + 1 if left else 0
            entry.again = now + min(_PAUSE_FIRST * 2 ** min(entry.tries - 1, 10), _PAUSE_MOST) if left else None
        entry.owed = owed
        if entry.over and not owed:
            del book.entries[key]
    return arrived


def _record(desk: Desk, entry: Entry, now: datetime) -> None:
    """Append an alert to the home's record; a disk that takes nothing keeps nobody from hearing."""
    message = desk.message(entry)
    line = {"at": now.isoformat(timespec="seconds"), "cause": entry.cause, "about": entry.about, "told": entry.told}
    line |= {"to_do": CAUSES[entry.cause].to_do, "link": message.link}
    try:
        desk.record.parent.mkdir(parents=True, exist_ok=True)
        with desk.record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        log.error("%s could not be recorded in %s: %s", entry.cause, desk.record, error)


def recorded(path: Path, newest: int) -> Iterator[dict[str, str]]:
    """Yield the last alerts of a record, oldest first; lines that a full disk cut short are left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in lines[-newest:]:
        try:
            yield json.loads(line)
        except ValueError:
            continue

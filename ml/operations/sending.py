"""Messages to chat, pagers, mailboxes and webhooks, by the addresses of ``CROSSFADE_ALERTS``.

An address holds a secret: none is ever printed whole, nor what a library says with one in it.
"""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from ml.foundation.names import near_name

_SAYS_WHERE = frozenset({"json", "jsons", "xml", "xmls", "form", "forms", "http", "https", "mailto", "mailtos"})
"""Schemes in which what stands for the host is one: elsewhere it is a part of the secret."""
_TOLD_ANSWER = ("Response Details", "Socket Exception", "SMTP")
_MOST = 300
_SHORT = 4
"""A part of an address that is no longer than this is no secret, and stands in many a word."""
_CALL = re.compile(r"(?<!\w)@(?=(?:everyone|here|channel|all)\b)", re.IGNORECASE)
"""What calls a whole room in a chat; ids and errors of others may hold it."""
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Message:
    """What a person gets.

    Attributes:
        title: What happened, to what.
        told: What is known of it.
        kind: How bad it is; ``success`` says that what had this key is over.
        key: The same for every message about the same thing.
        to_do: What to do; may be empty.
        link: Where to look; may be empty.
    """

    title: str
    told: str
    kind: Literal["failure", "warning", "success"]
    key: str
    to_do: str = ""
    link: str = ""

    @property
    def text(self) -> str:
        """What is known, what to do and where to look, as plain text."""
        return "\n\n".join(
            [self.told, *([f"What to do: {self.to_do}"] if self.to_do else []), *filter(None, [self.link])]
        )

    @property
    def markdown(self) -> str:
        """The same as Markdown, in which nothing that was told becomes a link, a mention or a tag."""
        link = f"[{self.link}]({self.link})" if self.link else ""
        plain = replace(self, link="").text
        return "\n\n".join(filter(None, [re.sub(r"([\\`*_\[\]<>#])", r"\\\1", plain), link]))


@dataclass(frozen=True)
class Answer:
    """What came back."""

    sent: bool
    told: str


@dataclass(frozen=True)
class Destination:
    """An address that messages go to."""

    url: str

    def __repr__(self) -> str:
        return f"Destination({self.label})"

    @property
    def id(self) -> str:
        """What tells it from others, and tells nobody the address."""
        return sha256(self.url.encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        """How it is shown: its service, and its host where that is no secret."""
        scheme, _, rest = self.url.partition("://")
        if scheme not in _SAYS_WHERE:
            return f"{scheme}://…" if rest else "…"
        host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
        return f"{scheme}://{host}/…"

    def without_secrets(self, text: str) -> str:
        """Return a text without any part of the address but its service and host."""
        shown = set(re.split(r"\W+", self.label))
        parts = {part for whole in (self.url, unquote(self.url)) for part in re.split(r"[/:@?&=#,]+", whole)}
        for part in sorted(parts, key=len, reverse=True):
            if len(part) > _SHORT and not set(re.split(r"\W+", part)) <= shown:
                text = text.replace(part, "…")
        return text

    def fault(self) -> str | None:
        """Say why no message can be sent by the address, as far as that shows without sending one; None if nothing."""
        try:
            import apprise
            from apprise.manager_plugins import NotificationManager

            url, known = _with_key(self.url, Message("", "", "warning", "key")), NotificationManager()
            with _heard():
                if isinstance(apprise.Apprise.instantiate(url), apprise.NotifyBase):
                    return None
                services = set(known.schemas(include_disabled=True))
        except Exception as error:  # whatever a library says of it may hold the address
            return self.without_secrets(f"{type(error).__name__}: {error}")[:_MOST]
        if "://" not in self.url:
            return "it does not begin with a service, such as mailtos:// or jsons://"
        scheme = self.url.partition("://")[0].lower()
        if scheme in services and not known[scheme].enabled:
            if needed := known[scheme].requirements.get("packages_required"):
                names = ", ".join([needed] if isinstance(needed, str) else needed)
                return f"{scheme}:// needs a package that is not installed: {names}"
            return f"{scheme}:// does not work on this machine"
        if scheme in ("http", "https"):
            return f"it is none that a service shows for its webhooks; one of your own is {scheme.replace('http', 'json')}://"
        if scheme not in services:
            near = near_name(scheme, services)
            return f"no service is {scheme}://" + (f"; did you mean {near}://?" if near else "")
        return f"a {scheme}:// address has other parts than this one"

    def send(self, message: Message) -> Answer:
        """Send a message; whatever goes wrong is in the answer, and nothing is raised."""
        if fault := self.fault():
            return Answer(False, f"{fault}; docs/how-to/alerts.md has an address of each service")
        try:
            import apprise

            asset = apprise.AppriseAsset(
                app_id="Crossfade", app_desc="Crossfade", image_url_mask=None, image_url_logo=None, async_mode=False
            )
            with _heard() as lines:
                service = apprise.Apprise.instantiate(_with_key(self.url, message), asset=asset)
                assert isinstance(service, apprise.NotifyBase), "an address without a fault is one of a service"
                # A card is Markdown, and what the library makes of text for it shows its escapes in links.
                markdown = service.notify_format == apprise.NotifyFormat.MARKDOWN
                one = apprise.Apprise(asset=asset)
                one.add(service)
                sent = one.notify(
                    _quiet(message.markdown if markdown else message.text),
                    title=_quiet(message.title),
                    notify_type=apprise.NotifyType(message.kind),
                    body_format=apprise.NotifyFormat.MARKDOWN if markdown else apprise.NotifyFormat.TEXT,
                )
        except Exception as error:  # an alert never breaks what it reports of
            return Answer(False, self.without_secrets(f"{type(error).__name__}: {error}")[:_MOST])
        told = " ".join(lines) or ("sent" if sent else "not sent")
        return Answer(bool(sent), self.without_secrets(" ".join(told.split()))[:_MOST])


def _quiet(text: str) -> str:
    return _CALL.sub("@\u200b", text)  # of no width, as chats advise


def destinations(addresses: str) -> list[Destination]:
    """Return the addresses of a setting: apart by blanks, each once."""
    return [Destination(url) for url in dict.fromkeys(addresses.split())]


def _with_key(url: str, message: Message) -> str:
    """Give a service that keeps incidents the key of this one, so that it opens one and closes it again."""
    parts = urlsplit(url)
    if parts.scheme != "pagerduty":
        return url
    own = dict(parse_qsl(parts.query))
    query = {"dedup": message.key, "action": "map", "component": "crossfade", "image": "no"}
    query |= {"click": message.link} if message.link else {}
    query |= {} if parts.path.strip("/") else {"source": "crossfade"}
    return urlunsplit(parts._replace(query=urlencode(query | own)))


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING or text.startswith(_TOLD_ANSWER):
            self.lines.append(text)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect what the library logs of faults and answers; nobody else gets its lines, which hold addresses."""
    logger, lines = logging.getLogger("apprise"), list[str]()
    with _one_at_a_time:
        before = logger.level, logger.propagate, logger.handlers
        logger.setLevel(logging.DEBUG)
        logger.propagate, logger.handlers = False, [_Lines(lines)]
        try:
            yield lines
        finally:
            logger.setLevel(before[0])
            logger.propagate, logger.handlers = before[1], before[2]

"""Slack, Teams, PagerDuty, a mail server and a webhook on loopback, each of which insists on its service's shape.

Chat and pager have fixed names: the names are resolved to loopback, and a certificate of our own answers for them, so
that the library, its TLS and its requests are those of a night.
"""

import json
import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_string, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SLACK, PAGERDUTY, TEAMS = "hooks.slack.com", "events.pagerduty.com", "prod-01.westeurope.logic.azure.com"
ROUTING, TOKEN = "0123456789abcdef0123456789abcdef", "u+pagerdutysecret"
SLACK_PATH = "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
TEAMS_PATH, SIGNATURE = "/workflows/643e69f83c8944438d68119179a10a64/triggers/manual/paths/invoke", "teamssignature"
URLS = {
    "slack": f"https://{SLACK}{SLACK_PATH}",
    "pagerduty": f"pagerduty://{ROUTING}@{TOKEN}",
    "teams": f"https://{TEAMS}:443{TEAMS_PATH}?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig={SIGNATURE}",
}
SECRETS = (ROUTING, TOKEN, *SLACK_PATH.split("/")[2:], TEAMS_PATH.split("/")[2], SIGNATURE, "webhooksecret")


@dataclass
class Heard:
    """What arrived at each service, in order, as the service would show it; ``down`` ones answer 503."""

    urls: dict[str, str]
    messages: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    down: set[str] = field(default_factory=set)

    def of(self, service: str) -> list[dict[str, Any]]:
        return self.messages.get(service, [])


class Wrong(Exception):
    """A service would not take it: status and its answer."""


def slack(path: str, content: Any) -> tuple[int, str, dict[str, Any]]:
    """https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"""
    if path != SLACK_PATH:
        raise Wrong(404, "no_service")
    attachments = content.get("attachments", [])
    texts = [content["text"]] if "text" in content else [one["text"] for one in attachments]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise Wrong(400, "no_text")
    if set(content) - {"text", "attachments", "blocks", "mrkdwn", "username", "icon_url", "channel"}:
        raise Wrong(400, "invalid_payload")
    [one] = attachments
    return 200, "ok", {"title": one["title"], "text": one["text"], "color": one["color"]}


def pagerduty(path: str, content: Any) -> tuple[int, str, dict[str, Any]]:
    """https://developer.pagerduty.com/docs/send-alert-event"""
    if path != "/v2/enqueue":
        raise Wrong(404, "Not Found")
    key, action = content.get("dedup_key"), content.get("event_action")
    faults = [
        *(["routing_key"] if content.get("routing_key") != ROUTING else []),
        *(["event_action"] if action not in ("trigger", "resolve") else []),
        *(["dedup_key"] if not isinstance(key, str) or not 0 < len(key) <= 255 else []),
    ]
    payload = content.get("payload", {})
    if action == "trigger":
        faults += [] if isinstance(payload.get("source"), str) and payload["source"] else ["source"]
        faults += [] if payload.get("severity") in ("critical", "error", "warning", "info") else ["severity"]
        faults += [] if 0 < len(payload.get("summary", "")) <= 1024 else ["summary"]
    if faults:
        raise Wrong(
            400, json.dumps({"status": "invalid event", "message": "Event object is invalid", "errors": faults})
        )
    told = {"action": action, "key": key, "links": [one["href"] for one in content.get("links", [])]}
    told |= {"severity": payload.get("severity"), "summary": payload.get("summary"), "source": payload.get("source")}
    return 202, json.dumps({"status": "success", "message": "Event processed", "dedup_key": key}), told


def teams(path: str, content: Any) -> tuple[int, str, dict[str, Any]]:
    """https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using"""
    parts = urlsplit(path)
    if parts.path != TEAMS_PATH or parse_qs(parts.query).get("sig") != [SIGNATURE]:
        raise Wrong(401, "DirectApiAuthorizationRequired")
    [attachment] = content["attachments"]
    card = attachment["content"]
    if content["type"] != "message" or attachment["contentType"] != "application/vnd.microsoft.card.adaptive":
        raise Wrong(400, "InvalidRequestContent")
    if card["type"] != "AdaptiveCard" or not re.fullmatch(r"1\.\d", card["version"]):
        raise Wrong(400, "InvalidRequestContent")
    texts = {block["id"]: block["text"] for block in card["body"] if block["type"] == "TextBlock"}
    return 202, "", {"title": texts["title"], "text": texts["body"], "mentions": card["msteams"].get("entities", [])}


def webhook(path: str, content: Any) -> tuple[int, str, dict[str, Any]]:
    if path != "/webhooksecret":
        raise Wrong(404, "nothing here")
    return 200, "thanks", {name: content[name] for name in ("title", "message", "type")}


SERVICES = {SLACK: ("slack", slack), PAGERDUTY: ("pagerduty", pagerduty), TEAMS: ("teams", teams)}


def _http(heard: Heard) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            host = (self.headers["Host"] or "").partition(":")[0]
            name, takes = SERVICES.get(host, ("webhook", webhook))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                if name in heard.down:
                    raise Wrong(503, "down")
                if self.headers["Content-Type"].partition(";")[0] != "application/json":
                    raise Wrong(415, "no JSON")
                status, answer, told = takes(self.path, json.loads(body))
                heard.messages.setdefault(name, []).append(told)
            except Wrong as wrong:
                status, answer = wrong.args
                heard.refused.append(f"{name}: {status} {answer}")
            except (ValueError, KeyError, TypeError) as error:
                status, answer = 400, repr(error)
                heard.refused.append(f"{name}: {answer} in {body[:2000]!r}")
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _mail(heard: Heard) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        """RFC 5321, as far as one message needs it: an envelope first, then a message with its headers."""

        def handle(self) -> None:
            self._say("421 down" if "mail" in heard.down else "220 loopback ESMTP")
            envelope: dict[str, str] = {}
            while line := self.rfile.readline().decode().strip():
                word = line.upper()
                if word.startswith(("EHLO", "HELO")):
                    self._say("250 loopback")
                elif word.startswith(("MAIL FROM:<", "RCPT TO:<")):
                    envelope[word[:4]] = line.partition("<")[2].partition(">")[0]
                    self._say("250 ok")
                elif word == "DATA" and envelope.keys() == {"MAIL", "RCPT"}:
                    self._say("354 go on")
                    self._take(envelope)
                elif word == "QUIT":
                    self._say("221 bye")
                    return
                else:
                    heard.refused.append(f"mail: {line}")
                    self._say("503 bad sequence of commands")

        def _take(self, envelope: Mapping[str, str]) -> None:
            lines = []
            while (line := self.rfile.readline().decode()).rstrip("\r\n") != ".":
                lines.append(line.removeprefix("."))
            mail = message_from_string("".join(lines), policy=policy.default)
            assert isinstance(mail, EmailMessage)
            body = mail.get_body(("plain",))
            if envelope["RCPT"] not in str(mail["To"]) or not mail["Subject"] or not mail["Date"] or body is None:
                heard.refused.append(f"mail: {mail.items()}")
                self._say("554 no message of RFC 5322")
                return
            told = {name: str(mail[header]) for name, header in (("from", "From"), ("to", "To"), ("title", "Subject"))}
            heard.messages.setdefault("mail", []).append({**told, "text": body.get_content()})
            self._say("250 queued")

        def _say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    return Handler


class _Mail(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads = True, True


@contextmanager
def listening(folder: Path) -> Iterator[Heard]:
    """Run every service, and let the fixed names lead to them."""
    heard = Heard(dict(URLS))
    own = socket.getaddrinfo
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), _http(heard)) as secure,
        ThreadingHTTPServer(("127.0.0.1", 0), _http(heard)) as plain,
        _Mail(("127.0.0.1", 0), _mail(heard)) as mail,
        pytest.MonkeyPatch.context() as patch,
    ):
        certificate, key = _certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        for server in (secure, plain, mail):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        heard.urls["webhook"] = f"json://127.0.0.1:{plain.server_port}/webhooksecret"
        heard.urls["mail"] = f"mailto://127.0.0.1:{mail.server_address[1]}?from=night@example.com&to=ann@example.com"

        def resolve(host: str, port: Any, *args: Any, **more: Any) -> Any:
            if host in SERVICES:
                host, port = "127.0.0.1", secure.server_port
            return own(host, port, *args, **more)

        patch.setattr(socket, "getaddrinfo", resolve)
        patch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        try:
            yield heard
        finally:
            for server in (secure, plain, mail):
                server.shutdown()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of its own for the fixed names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in SERVICES]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths[1].write_bytes(key.private_bytes(*private))
    return paths

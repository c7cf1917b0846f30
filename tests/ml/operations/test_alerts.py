"""Somebody hears: once per cause, at every service, whatever a service does; and no address is ever shown."""

import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from ml.foundation.settings import Settings
from ml.operations.alerts import Alert, Book, Desk, deliver, recorded
from ml.operations.causes import CAUSES, DAY_LATE, RUN_FAILED, UNSERVED, Cause
from ml.operations.sending import Answer, Destination, Message, destinations
from tests.support.listeners import SECRETS, Heard, listening

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
ODD = "rows <!channel> <at>all</at> <b>x</b> & *y* [click](https://evil.example) line\nand another"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heard]:
    with listening(tmp_path_factory.mktemp("services")) as heard:
        yield heard


@pytest.fixture
def heard(services: Heard) -> Heard:
    services.messages.clear()
    services.refused.clear()
    services.down.clear()
    return services


def desk_of(tmp_path: Path, urls: list[str]) -> Desk:
    alerts = SecretStr(" ".join(urls))
    return Desk.of(Settings(home=tmp_path / "home", alerts=alerts, ui_url="https://ui.example/"))


@pytest.mark.slow
def test_every_cause_reaches_every_service_in_its_shape_once_and_its_end_too(heard: Heard, tmp_path: Path) -> None:
    desk, book = desk_of(tmp_path, [*heard.urls.values()]), Book()
    alerts = [Alert(cause, "homepage 2026-03-01", ODD, "/runs/17") for cause in CAUSES.values()]
    for minute in range(3):
        book.add(alerts, NOW + timedelta(minutes=minute))
        deliver(desk, book, NOW + timedelta(minutes=minute))
    assert not heard.refused
    assert {name: len(messages) for name, messages in heard.messages.items()} == dict.fromkeys(heard.urls, len(CAUSES))
    for number, cause in enumerate(CAUSES.values()):
        shown = {name: json.dumps(heard.of(name)[number], ensure_ascii=False) for name in heard.urls}
        for text in shown.values():
            assert cause.title.replace("'", "&#39;") in text or cause.title in text
            assert "https://ui.example/runs/17" in text
        assert cause.to_do.split(":")[0] in shown["webhook"]
    urgent = [one["severity"] for one in heard.of("pagerduty")]
    assert urgent == ["critical" if cause.urgent else "warning" for cause in CAUSES.values()]
    assert len({one["key"] for one in heard.of("pagerduty")}) == len(CAUSES)
    assert not any(one["mentions"] for one in heard.of("teams"))
    assert not any("<!channel>" in one["text"] for one in heard.of("slack"))
    _page(heard)
    book.close([alert.key for alert in alerts])
    deliver(desk, book, NOW + timedelta(hours=1))
    opened, closed = heard.of("pagerduty")[: len(CAUSES)], heard.of("pagerduty")[len(CAUSES) :]
    assert [one["key"] for one in closed] == [one["key"] for one in opened]
    assert {one["action"] for one in closed} == {"resolve"} and not book.entries


def _page(heard: Heard) -> None:
    """Write what each service shows to a page, where CROSSFADE_PICTURES names a folder to look at afterwards."""
    if given := os.environ.get("CROSSFADE_PICTURES"):
        rows = [
            f"<h2>{cause}</h2>"
            + "".join(
                f"<h3>{name}</h3><pre>{escape(json.dumps(heard.of(name)[number], indent=1, ensure_ascii=False))}</pre>"
                for name in heard.urls
            )
            for number, cause in enumerate(CAUSES)
        ]
        path = Path(given) / "alerts.html"
        path.write_text(f"<!doctype html><meta charset=utf-8><title>Alerts</title>{''.join(rows)}", encoding="utf-8")


def test_a_service_that_is_down_hears_when_it_is_back_and_the_others_at_once(heard: Heard, tmp_path: Path) -> None:
    desk, book = desk_of(tmp_path, [heard.urls[name] for name in ("slack", "webhook", "mail")]), Book()
    heard.down |= {"slack", "mail"}
    book.add([Alert(RUN_FAILED, "base_tables_job", "it failed")], NOW)
    assert deliver(desk, book, NOW) == 1
    assert deliver(desk, book, NOW + timedelta(seconds=30)) == 0, "it is tried again later, not with every look"
    heard.down.clear()
    assert deliver(desk, book, NOW + timedelta(minutes=2), budget_s=0) == 0, "a look that took too long sends nothing"
    assert deliver(desk, book, NOW + timedelta(minutes=2)) == 2
    assert {name: len(messages) for name, messages in heard.messages.items()} == {"slack": 1, "webhook": 1, "mail": 1}


def test_no_address_is_shown_in_an_answer_a_log_or_a_record(
    heard: Heard, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = ("json://127.0.0.1:1/webhooksecret?token=webhooksecret", "nothing://webhooksecret")
    desk, book = desk_of(tmp_path, [*heard.urls.values(), *wrong]), Book()
    heard.down |= set(heard.urls)
    book.add([Alert(RUN_FAILED, "base_tables_job", "it failed")], NOW)
    deliver(desk, book, NOW)
    answers = [one.send(desk.message(book.entries["run_failed: base_tables_job"])) for one in desk.to]
    assert not any(answer.sent for answer in answers)
    logged = [record.getMessage() for record in caplog.records if record.name.split(".")[0] in ("apprise", "ml")]
    shown = "\n".join([repr(desk), *(answer.told for answer in answers), *logged])
    shown += book.model_dump_json() + desk.record.read_text()
    assert not [(secret, line) for line in shown.splitlines() for secret in SECRETS if secret in line]
    assert "503" in shown


def test_no_text_of_an_alert_calls_a_whole_room(heard: Heard, tmp_path: Path) -> None:
    desk, book = desk_of(tmp_path, [heard.urls["webhook"]]), Book()
    book.add([Alert(RUN_FAILED, "@everyone", "rows of @Here, @all and ada@here.example")], NOW)
    assert deliver(desk, book, NOW) == 1
    [told] = heard.of("webhook")
    assert "@\u200beveryone" in told["title"] and "rows of @\u200bHere, @\u200ball and ada@here." in told["message"]


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from("abc")), st.sets(st.sampled_from(["json://x", "json://y"]))), max_size=12
    ).map(lambda looks: [*looks, (set(), set()), (set(), set())])
)
def test_each_time_that_something_is_so_is_told_once_and_ends_once(looks: list[tuple[set[str], set[str]]]) -> None:
    """Looks find some of three things, while some of two services are down: (found, down) each."""
    book, log = Book(), list[tuple[str, str, str]]()
    desk = Desk("app", Path("/dev/null"), "", tuple(destinations("json://x json://y")))
    since: dict[str, int] = {}
    wanted = list[tuple[str, str]]()
    for number, (found, down) in enumerate(looks):

        def send(to: Destination, message: Message, down: set[str] = down) -> Answer:
            if to.url in down:
                return Answer(False, "down")
            log.append((to.url, message.kind, message.title[-1]))
            return Answer(True, "")

        book.look([Alert(DAY_LATE, about, "late") for about in found], [DAY_LATE], NOW + timedelta(hours=2 * number))
        deliver(desk, book, NOW + timedelta(hours=2 * number), send)
        for about in found - since.keys():
            since[about] = number
            wanted.append((about, "opened"))
        for about in since.keys() - found:
            del since[about]
    for url in ("json://x", "json://y"):
        for about in "abc":
            kinds = [kind for to, kind, what in log if (to, what) == (url, about)]
            assert kinds == [("failure", "success")[i % 2] for i in range(len(kinds))], "opens and ends take turns"
            assert kinds.count("failure") <= wanted.count((about, "opened"))
            if not any(url in down for _, down in looks):
                assert kinds.count("failure") == kinds.count("success") == wanted.count((about, "opened"))
    assert not book.entries


def test_what_lasts_is_told_after_its_patience_and_what_ended_before_never(tmp_path: Path) -> None:
    desk, book = desk_of(tmp_path, []), Book()
    waits = Alert(UNSERVED, "homepage", "it serves another", patience=timedelta(minutes=10))
    for minute in (0, 5):
        book.look([waits], [UNSERVED], NOW + timedelta(minutes=minute))
        deliver(desk, book, NOW + timedelta(minutes=minute))
    book.look([], [], NOW + timedelta(minutes=6))
    assert waits.key in book.entries, "what could not be looked at is not over"
    assert not [*recorded(desk.record, 10)]
    book.look([waits], [UNSERVED], NOW + timedelta(minutes=11))
    deliver(desk, book, NOW + timedelta(minutes=11))
    assert [one["about"] for one in recorded(desk.record, 10)] == ["homepage"]
    assert Book.model_validate_json(book.model_dump_json()) == book


def test_a_record_that_cannot_be_written_keeps_nobody_from_hearing(heard: Heard, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the home should be")
    desk, book = desk_of(tmp_path, [heard.urls["webhook"]]), Book()
    book.add([Alert(RUN_FAILED, "base_tables_job", "it failed")], NOW)
    assert deliver(desk, book, NOW) == 1


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
def test_a_cause_says_what_to_do_in_a_sentence(cause: Cause) -> None:
    assert cause.means.endswith(".") and cause.to_do.endswith(".") and not cause.title.endswith(".")

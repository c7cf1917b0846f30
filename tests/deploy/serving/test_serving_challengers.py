"""A release beside the champion: a canary answers its users, always the same; a shadow only scores."""

import time
from collections.abc import Callable, Iterator, Sequence

import httpx
import pytest

from deploy.serving.run import serving
from tests.support.tiny_home import Home, graph_of, rank_body

USERS = [f"u{number}" for number in range(200)]


@pytest.fixture
def client(home: Home) -> Iterator[httpx.Client]:
    home.publish()
    home.promote("homepage", 1)
    with serving(home.settings, poll_s=0.02) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield http


def numbers(client: httpx.Client, users: Sequence[str | None]) -> dict[str | None, int]:
    """Who is answered by which release: a model writes its number into its scores."""
    found = {}
    for user in users:
        answer = client.post("/rank", json=rank_body(user=user, items=12)).json()
        [number] = {int(item["score"] // 1000) for item in answer["items"]}
        assert answer["release"].startswith(f"2026-01-{20 + number}"), "the answer names the release that made it"
        found[user] = number
    return found


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.02)


def metric(client: httpx.Client, name: str) -> float:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"crossfade_{name}")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.slow
def test_a_canary_answers_its_share_of_users_and_always_the_same_ones(home: Home, client: httpx.Client) -> None:
    home.challenge("homepage", 2, mode="canary", share=0.3)
    until(lambda: metric(client, "challenger_share") == 0.3)
    first, again = numbers(client, USERS), numbers(client, USERS)
    assert first == again, "a user keeps to one release"
    assert 0.15 < list(first.values()).count(2) / len(USERS) < 0.45
    assert numbers(client, [None]) == {None: 1}, "visitors without an id get the champion"

    home.challenge("homepage", 2, mode="canary", share=0.6)
    until(lambda: metric(client, "challenger_share") == 0.6)
    more = numbers(client, USERS)
    assert all(more[user] == 2 for user, number in first.items() if number == 2), "a larger share keeps its users"

    home.promote("homepage", 2)
    until(lambda: set(numbers(client, USERS[:20]).values()) == {2})
    assert metric(client, "challenger_share") == 0
    assert metric(client, 'loads_total{outcome="loaded",what="release"}') == 2, "it was loaded already"


@pytest.mark.slow
def test_a_canary_that_cannot_be_loaded_answers_nobody(home: Home, client: httpx.Client) -> None:
    home.challenge("homepage", 2, mode="canary", share=1.0, model=b"no model")
    until(lambda: metric(client, 'loads_total{outcome="failed",what="challenger"}') == 1)
    assert set(numbers(client, USERS[:20]).values()) == {1}
    assert client.get("/v2/health/ready").status_code == 200


def test_an_ended_challenge_gives_its_users_back(home: Home, client: httpx.Client) -> None:
    home.challenge("homepage", 2, mode="canary", share=1.0)
    until(lambda: set(numbers(client, USERS[:5]).values()) == {2})
    home.store.end_challenge("homepage", by="test", reason="done")
    until(lambda: set(numbers(client, USERS[:5]).values()) == {1})


def test_a_shadow_answers_nobody_and_its_drift_is_recorded(home: Home, client: httpx.Client) -> None:
    home.challenge("homepage", 2, mode="shadow", share=1.0)
    until(lambda: metric(client, "challenger_share") == 1)
    before = metric(client, 'shadow_total{outcome="scored"')
    assert set(numbers(client, USERS[:30]).values()) == {1}
    until(lambda: metric(client, 'shadow_total{outcome="scored"') >= before + 30)
    count = metric(client, "shadow_score_difference_count")
    assert metric(client, "shadow_score_difference_sum") == pytest.approx(1000 * count, rel=1e-3), "2 is 1000 above 1"
    assert metric(client, "shadow_top_overlap_sum") == metric(client, "shadow_top_overlap_count") == count
    assert metric(client, 'shadow_total{outcome="failed"') == 0


@pytest.mark.slow
def test_a_shadow_scores_only_its_share(home: Home, client: httpx.Client) -> None:
    home.challenge("homepage", 2, mode="shadow", share=0.2)
    until(lambda: metric(client, "challenger_share") == 0.2)
    numbers(client, USERS)
    time.sleep(0.2)
    assert 10 < metric(client, 'shadow_total{outcome="scored"') < 80


def test_a_shadow_with_other_inputs_fails_alone(home: Home, client: httpx.Client) -> None:
    renamed = graph_of(home.surfaces["homepage"], 2, nan=True)
    home.challenge("homepage", 2, mode="shadow", share=1.0, model=renamed)
    until(lambda: metric(client, 'loads_total{outcome="failed",what="challenger"}') == 1)
    assert set(numbers(client, USERS[:5]).values()) == {1}


@pytest.mark.slow
def test_champion_and_challenger_pick_in_turn_for_users_of_its_share_and_say_so(
    home: Home, client: httpx.Client
) -> None:
    home.challenge("homepage", 2, mode="interleave", share=0.5)
    until(lambda: metric(client, "challenger_share") == 0.5)
    asked = {user: [client.post("/rank", json=rank_body(user=user, items=12)).json() for _ in "ab"] for user in USERS}
    together = {user: answer for user, (answer, again) in asked.items() if answer == again and "interleaved" in answer}
    assert 0.3 < len(together) / len(USERS) < 0.7
    firsts = 0
    for answer in together.values():
        assert answer["release"].startswith("2026-01-21") and answer["interleaved"]["release"].startswith("2026-01-22")
        teams = [item["arm"] for item in answer["items"]]
        assert set(teams) == {"interleaved/control", "interleaved/challenger"}
        assert all(set(teams[k : k + 2]) == set(teams) for k in range(0, 12, 2)), "each picks once in every round"
        assert {(item["arm"].endswith("challenger"), int(item["score"] // 1000)) for item in answer["items"]} == {
            (False, 1),
            (True, 2),
        }
        assert sorted(item["index"] for item in answer["items"]) == list(range(12))
        firsts += teams[0].endswith("challenger")
    assert 0.3 < firsts / len(together) < 0.7
    alone = [answers for user, answers in asked.items() if user not in together]
    assert all("interleaved" not in answer and "arm" not in answer["items"][0] for both in alone for answer in both)
    visitor = client.post("/rank", json=rank_body(user=None, items=12)).json()
    assert "interleaved" not in visitor, "without an id nobody could be credited"

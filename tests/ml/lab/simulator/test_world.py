"""The simulated world: what it promises about days, people, rates and secrets."""

from datetime import date
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from ml.lab.simulator.music import COLUMNS, HOMEPAGE, RADIO, SHUFFLE_CHANCES, SKIPPED
from ml.lab.simulator.oracle import auc, ceiling, trail_seconds
from ml.lab.simulator.population import Population
from ml.lab.simulator.presets import load_preset
from ml.lab.simulator.state import KNOWN_DAYS
from ml.lab.simulator.tables import indices_of
from ml.lab.simulator.truth import HYPE_DAYS, TRAIL_NOISE, Slot
from ml.lab.simulator.world import DayEvents, World, simulate, tables_of

FIRST_DAY = date(2026, 1, 1)
DAYS = 11


@pytest.fixture(scope="module")
def world() -> World:
    return World("tiny", seed=3)


@pytest.fixture(scope="module")
def events(world: World) -> list[DayEvents]:
    return list(world.events(DAYS))


@pytest.fixture(scope="module")
def tables(world: World, events: list[DayEvents]) -> list[dict[str, pa.Table]]:
    return [tables_of(day, world.tabulator(FIRST_DAY)) for day in events]


@pytest.fixture(scope="module")
def demo() -> tuple[World, list[DayEvents]]:
    """The demo world after the two weeks in which artists become known."""
    world = World("demo", seed=11)
    return world, list(world.events(KNOWN_DAYS + 5))[KNOWN_DAYS:]


def clicks_of(day: DayEvents) -> np.ndarray:
    clicked = np.zeros(len(day.music.exposures.second), dtype=bool)
    clicked[day.music.listens.exposure[day.music.listens.exposure >= 0]] = True
    return clicked


def test_the_same_seed_gives_the_same_days_and_another_seed_gives_others(tables: list[dict[str, pa.Table]]) -> None:
    again = [day for _, day in simulate(World("tiny", seed=3), FIRST_DAY, 3)]
    assert again == tables[:3]
    other = World("tiny", seed=4).day(FIRST_DAY, 0)
    assert all(other[name] != table for name, table in tables[0].items())


def test_a_day_is_the_same_however_many_days_are_simulated_after_it(world: World, tables: list[dict]) -> None:
    assert [day for _, day in simulate(world, FIRST_DAY, 6)] == tables[:6]
    assert world.day(FIRST_DAY, 7) == tables[7]


def test_a_state_can_be_kept_and_replayed(world: World, tables: list[dict]) -> None:
    state = world.state(5)
    for _ in range(2):
        replayed, following = world.step(state)
        assert tables_of(replayed, world.tabulator(FIRST_DAY)) == tables[5]
        assert following.day == 6


def test_a_date_moves_timestamps_and_nothing_else(world: World, tables: list[dict]) -> None:
    moved = world.day(date(2030, 5, 1), 4)["exposures"]
    assert moved.drop_columns("ts") == tables[4]["exposures"].drop_columns("ts")
    assert moved["ts"][0].as_py().date() == date(2030, 5, 5)


@pytest.mark.slow
def test_demo_has_the_base_rates_of_its_design(demo: tuple[World, list[DayEvents]]) -> None:
    figures = ceiling(*demo)
    assert figures["video_click_rate"] == pytest.approx(0.19, abs=0.01)
    assert figures["ctr_rate"] == pytest.approx(0.056, abs=0.007)
    assert figures["discovery_rate"] == pytest.approx(0.023, abs=0.004)
    assert figures["engagement_rate"] == pytest.approx(0.5, abs=0.04)
    assert figures["trail_mean"] == pytest.approx(6.3, abs=0.3)


@pytest.mark.slow
def test_the_truth_predicts_what_happens_better_than_chance_and_not_perfectly(demo: tuple) -> None:
    figures = ceiling(*demo)
    for task in ("video_click", "ctr", "discovery", "engagement"):
        assert 0.8 < figures[f"{task}_auc"] < 0.95, task
    assert 0.25 < figures["trail_r2"] < 0.5


@pytest.mark.slow
def test_demo_has_the_volumes_of_its_design(demo: tuple[World, list[DayEvents]]) -> None:
    world, days = demo
    surfaces = np.concatenate([day.music.exposures.surface for day in days])
    assert sum(len(day.video.second) for day in days) / len(days) == pytest.approx(94_000, rel=0.02)
    assert (surfaces == HOMEPAGE).sum() / len(days) == pytest.approx(6450, rel=0.07)
    assert (surfaces == RADIO).sum() / len(days) == pytest.approx(2550, rel=0.07)
    twins = world.truth.population.tracks.video >= 0
    assert twins.mean() == pytest.approx(0.9)
    assert (world.truth.population.tracks.release_day >= 0).mean() == pytest.approx(0.35)


def test_paper_has_a_hundred_source_impressions_per_exposure() -> None:
    sizes = load_preset("paper")
    assert sizes.source_impressions >= 100 * (sizes.homepage_exposures + sizes.radio_exposures)
    assert sizes.days * sizes.source_impressions >= 8_000_000


@pytest.mark.slow
def test_evaluation_days_carry_the_traffic_of_training_days(events: list[DayEvents]) -> None:
    days = [day for seed in (5, 6, 7) for day in World("tiny", seed=seed).events(DAYS)] + events
    for count in (
        lambda day: len(day.video.second),
        lambda day: (day.music.exposures.surface == HOMEPAGE).sum(),
        lambda day: (day.music.exposures.surface == RADIO).sum(),
    ):
        training = np.mean([count(day) for day in days if day.state.day < 7])
        evaluation = np.mean([count(day) for day in days if 7 <= day.state.day < 10])
        assert evaluation == pytest.approx(training, rel=0.1)


@pytest.mark.parametrize(("dial", "low", "high"), [(0.0, -0.02, 0.02), (0.5, 0.45, 0.55), (1.0, 0.999, 1.001)])
def test_the_dial_is_the_correlation_of_tastes_on_the_two_sides(dial: float, low: float, high: float) -> None:
    world = World("demo", seed=2, shared_taste=dial)
    truth, people, tracks = world.truth, world.truth.population.app, world.truth.population.tracks
    rng = np.random.default_rng(0)
    user = rng.integers(0, len(people.activity), 200_000)
    track = rng.choice(np.flatnonzero(tracks.video >= 0), 200_000)
    on_video = truth.video_taste(people.platform_user[user], tracks.video[track])
    assert low < np.corrcoef(truth.taste(user, track), on_video)[0, 1] < high


def shared(population: Population) -> dict[str, float]:
    twins = population.tracks.video >= 0
    person, video = population.app.platform_user, population.tracks.video[twins]
    pairs = {
        "quality": (population.tracks.quality[twins], population.videos.quality[video]),
        "engagement": (population.app.engagement, population.platform.engagement[person]),
        "content": (population.tracks.content[twins].ravel(), population.videos.content[video].ravel()),
        "embedding": (population.tracks.embedding[twins].ravel(), population.videos.embedding[video].ravel()),
    }
    return {name: float(np.corrcoef(*pair)[0, 1]) for name, pair in pairs.items()}


def test_dial_zero_shares_nothing_and_dial_one_what_the_design_says() -> None:
    apart = shared(World("demo", shared_taste=0.0).truth.population)
    assert all(abs(value) < 0.08 for value in apart.values()), apart
    together = shared(World("demo", shared_taste=1.0).truth.population)
    assert together["quality"] == pytest.approx(0.8, abs=0.05)
    assert together["engagement"] == pytest.approx(0.6, abs=0.05)
    assert together["content"] == pytest.approx(1.0, abs=1e-6)
    assert 0.7 < together["embedding"] < 0.9  # both sides have noise of their own


@pytest.mark.slow
def test_with_nothing_shared_the_platform_tells_nothing_about_the_app() -> None:
    labels, scores = [], []
    for seed in range(4):
        world = World("tiny", seed=seed, shared_taste=0.0)
        truth, people = world.truth, world.truth.population
        for day in world.events(DAYS):
            shown = day.music.exposures
            at = np.flatnonzero((shown.surface == HOMEPAGE) & (people.tracks.video[shown.track] >= 0))
            video, person = people.tracks.video[shown.track[at]], people.app.platform_user[shown.user[at]]
            scores.append(truth.video_taste(person, video) + 0.7 * people.videos.quality[video])
            labels.append(clicks_of(day)[at])
    assert auc(np.concatenate(labels), np.concatenate(scores)) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_linked_share_is_the_share_of_users_with_a_linked_account(share: float) -> None:
    world = World("tiny", linked_share=share)
    users = pa.concat_tables([world.tabulator(FIRST_DAY).catalogue_tables(day)["users"] for day in range(DAYS)])
    linked = dict(zip(users["user_id"].to_pylist(), users["source_user_id"].to_pylist(), strict=True))
    assert len(linked) == world.preset.app_users
    assert np.mean([account is not None for account in linked.values()]) == pytest.approx(share)


@pytest.mark.parametrize("name", ["shared_taste", "linked_share"])
def test_a_dial_outside_its_range_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} 1\.5"):
        World("tiny", **cast("dict[str, Any]", {name: 1.5}))


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown preset 'huge'"):
        World("huge")


def test_known_artists_follow_from_the_listens_of_the_14_days_before(world: World, tables: list[dict]) -> None:
    long = World("tiny", seed=3)
    everything = list(long.events(KNOWN_DAYS + 3))
    tabulator = long.tabulator(FIRST_DAY)
    logs = [tabulator.app_tables(day.state.day, day.music) for day in everything]
    artist = {}
    for day in everything:
        rows = tabulator.catalogue_tables(day.state.day)["items"]
        artist |= dict(zip(rows["item_id"].to_pylist(), rows["creator_id"].to_pylist(), strict=True))
    played = [
        {(u, artist[i]) for u, i in zip(*(log["listens"][c].to_pylist() for c in ("user_id", "item_id")), strict=True)}
        for log in logs
    ]
    for index in (0, 1, 9, KNOWN_DAYS + 2):
        window = set().union(*played[max(0, index - KNOWN_DAYS) : index])
        shown = logs[index]["exposures"]
        derived = [
            (u, artist[i]) in window
            for u, i in zip(shown["user_id"].to_pylist(), shown["item_id"].to_pylist(), strict=True)
        ]
        assert derived == everything[index].music.exposures.known.tolist()


def test_play_counts_of_a_state_are_the_listens_of_its_window(world: World, events: list[DayEvents]) -> None:
    state = events[8].state
    tracks = world.truth.population.tracks
    counted = np.zeros((world.preset.app_users, world.preset.artists))
    for day in events[:8]:
        np.add.at(counted, (day.music.listens.user, tracks.artist[day.music.listens.track]), 1)
    users, artists = np.indices(counted.shape)
    assert (state.plays(users, artists) == counted).all()


def test_trails_in_the_logs_follow_the_hidden_law(demo: tuple[World, list[DayEvents]]) -> None:
    _, days = demo
    noise = []
    for day in days:
        shown = day.music.exposures
        at = np.flatnonzero(clicks_of(day) & (shown.surface == HOMEPAGE))
        noise.append(np.log1p(trail_seconds(day)[at]) - shown.trail_mean[at])
    residual = np.concatenate(noise)
    assert residual.mean() == pytest.approx(0, abs=0.08)
    assert residual.std() == pytest.approx(TRAIL_NOISE, rel=0.07)


def test_clicks_follow_the_hidden_law(demo: tuple[World, list[DayEvents]]) -> None:
    _, days = demo
    homepage = [day.music.exposures.surface == HOMEPAGE for day in days]
    probability = np.concatenate([d.music.exposures.probability[h] for d, h in zip(days, homepage, strict=True)])
    clicked = np.concatenate([clicks_of(d)[h] for d, h in zip(days, homepage, strict=True)])
    for low, high in ((0, 0.02), (0.02, 0.1), (0.1, 0.3), (0.3, 1)):
        part = (probability >= low) & (probability < high)
        error = np.sqrt((probability[part] * (1 - probability[part])).sum()) / part.sum()
        assert clicked[part].mean() == pytest.approx(probability[part].mean(), abs=4 * error)


def test_the_laws_answer_for_a_slate_that_nobody_logged(world: World) -> None:
    truth, state = world.truth, world.state(4)
    user, tracks = indices_of(["u7"]), indices_of(["t3", "t11", "t150"])
    plays = state.plays(user, truth.population.tracks.artist[tracks])
    shelf = np.array([0, 1, 2])
    context = {"hour": 20, "mood": 0.5, "known": plays > 0}
    clicks = truth.homepage_click_probability(
        user, tracks, day=4, slot=Slot(shelf, row=np.zeros(3), column=np.arange(3)), plays=plays, **context
    )
    trails = truth.trail_mean(user, tracks, shelf=shelf, **context)
    engaged = truth.radio_engagement_probability(
        user, tracks, seed=tracks[0], index=np.zeros(3, int), mood=np.full(3, 0.5), known=plays > 0
    )
    assert clicks.shape == trails.shape == engaged.shape == (3,)
    assert ((clicks > 0) & (clicks < 1) & (engaged > 0) & (engaged < 1)).all()


def test_no_column_betrays_the_mood_but_outcomes(demo: tuple[World, list[DayEvents]]) -> None:
    world, days = demo
    tabulator = world.tabulator(FIRST_DAY)
    first_shown, skips_before, last_mood = [], [], []
    for day in days:
        shown, table = day.music.exposures, tabulator.app_tables(day.state.day, day.music)["exposures"]
        assert "mood" not in " ".join(table.column_names)
        _, first = np.unique(shown.session, return_index=True)
        columns = [shown.second, shown.session, shown.user, shown.track, shown.shelf, shown.seed]
        first_shown.append(np.stack([*(column[first] for column in columns), shown.mood[first]]))
        radio = np.flatnonzero((shown.surface == RADIO) & (shown.column == 8))
        played = day.music.listens
        skips = played.exposure[(played.exposure >= 0) & (played.outcome == SKIPPED)]
        skips = skips[(shown.surface[skips] == RADIO) & (shown.column[skips] < 8)]
        skipped = np.bincount(shown.session[skips], minlength=shown.session.max() + 1)
        skips_before.append(skipped[shown.session[radio]])
        last_mood.append(shown.mood[radio])
    *visible, mood = np.concatenate(first_shown, axis=1)
    for column in visible:
        assert abs(np.corrcoef(column, mood)[0, 1]) < 4 / np.sqrt(len(mood))
    assert np.corrcoef(np.concatenate(skips_before), np.concatenate(last_mood))[0, 1] < -0.4


def test_a_mood_moves_slowly_within_a_session(demo: tuple[World, list[DayEvents]]) -> None:
    now, then = [], []
    for day in demo[1]:
        shown = day.music.exposures
        order = np.lexsort((shown.column, shown.session))
        order = order[shown.surface[order] == RADIO]
        same = shown.session[order][1:] == shown.session[order][:-1]
        now.append(shown.mood[order][1:][same])
        then.append(shown.mood[order][:-1][same])
    assert np.corrcoef(np.concatenate(now), np.concatenate(then))[0, 1] > 0.9


def test_logging_policies_hide_new_releases_in_the_app_and_boost_them_on_video(demo: tuple) -> None:
    world, days = demo
    tracks, videos = world.truth.population.tracks, world.truth.population.videos

    def exposure_over_catalogue(released: np.ndarray, shown: list[tuple[int, np.ndarray]]) -> float:
        exposed = np.mean([(day - released[items] <= HYPE_DAYS).mean() for day, items in shown])
        offered = np.mean([(day - released[released <= day] <= HYPE_DAYS).mean() for day, _ in shown])
        return float(exposed / offered)

    app = [(day.state.day, day.music.exposures.track) for day in days]
    video = [(day.state.day, day.video.video) for day in days]
    assert exposure_over_catalogue(tracks.release_day, app) < 0.4
    assert exposure_over_catalogue(videos.release_day, video) > 1.5


def test_nothing_happens_to_an_item_or_a_user_before_it_exists(world: World, events: list[DayEvents]) -> None:
    people = world.truth.population
    for day in events:
        for rows in (day.music.exposures, day.music.listens):
            assert (people.tracks.release_day[rows.track] <= day.state.day).all()
            assert (people.app.sign_up_day[rows.user] <= day.state.day).all()
        assert (people.videos.release_day[day.video.video] <= day.state.day).all()


def test_new_users_and_new_releases_are_seen_on_evaluation_days(demo: tuple[World, list[DayEvents]]) -> None:
    world, days = demo
    people = world.truth.population
    users = np.concatenate([d.state.day - people.app.sign_up_day[d.music.exposures.user] for d in days])
    tracks = np.concatenate([d.state.day - people.tracks.release_day[d.music.exposures.track] for d in days])
    assert 0.03 < (users <= 7).mean() < 0.15
    assert 0.01 < (tracks <= 7).mean() < 0.08


def test_shelves_in_a_drawn_order_log_the_propensities_with_which_items_stand_where_they_stand() -> None:
    """Frequencies are those of the propensities, every shelf's add up, and without a share nothing is logged."""
    world = World("demo", seed=5, shuffled=0.5)
    events, _ = world.step(world.start())
    shown = events.music.exposures
    drawn = shown.shuffled >= 0
    assert (drawn == np.isfinite(shown.propensity)).all() and not drawn[shown.surface == RADIO].any()
    assert 0.45 < drawn[shown.surface == HOMEPAGE].mean() < 0.55
    rows = np.flatnonzero(drawn)
    rows = rows[np.lexsort((shown.column[rows], shown.shuffled[rows]))].reshape(-1, COLUMNS)
    assert (shown.column[rows] == np.arange(COLUMNS)).all() and (np.ptp(shown.user[rows], axis=1) == 0).all()
    inverse = 1 / (COLUMNS * shown.propensity[rows])
    assert abs(inverse.mean() - 1) < 3 * inverse.mean(axis=1).std() / len(rows) ** 0.5
    place = np.abs(shown.propensity[rows][..., None] - SHUFFLE_CHANCES[:, np.arange(COLUMNS)].T).argmin(axis=2)
    first = np.bincount(place[:, 0], minlength=COLUMNS) / len(rows)
    assert np.abs(first - SHUFFLE_CHANCES[:, 0]).max() < 4 * (0.25 / len(rows)) ** 0.5
    table = tables_of(events, world.tabulator(FIRST_DAY))["exposures"]
    assert table["propensity"].null_count == table["list_id"].null_count == (~drawn).sum()
    assert len(set(table["list_id"].to_pylist())) - 1 == len(rows)


def test_a_drawn_order_changes_the_order_of_a_shelf_and_a_world_without_logs_nothing(
    tables: list[dict[str, pa.Table]],
) -> None:
    def first_pages(exposures: pa.Table) -> dict[tuple[str, str], list[str]]:
        rows = [row for row in exposures.sort_by("column").to_pylist() if row["surface"] == "homepage"]
        begun: dict[str, Any] = {}
        for row in rows:
            begun[row["session_id"]] = min(begun.get(row["session_id"], row["ts"]), row["ts"])
        shelves: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            if row["ts"] == begun[row["session_id"]]:
                shelves.setdefault((row["session_id"], row["container_id"]), []).append(row["item_id"])
        return shelves

    assert all(day["exposures"]["propensity"].null_count == len(day["exposures"]) for day in tables)
    plain = first_pages(tables[0]["exposures"])
    drawn = first_pages(World("tiny", seed=3, shuffled=1.0).day(FIRST_DAY, 0)["exposures"])
    assert {at: sorted(items) for at, items in drawn.items()} == {at: sorted(items) for at, items in plain.items()}
    assert drawn != plain

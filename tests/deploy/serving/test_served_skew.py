"""What was served against the training rows: zero skew over HTTP, a planted one found by name, counts that add up."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import numpy as np
import pyarrow as pa
import pytest

from checks.guards.served import judge_days
from deploy.automation.conditions import ServedLogLanded
from deploy.serving.run import serving
from ml.evaluation.outcome import Outcome
from ml.evaluation.served import Unequal, calibration
from ml.evaluation.served_kinds import AS_LOGGED, EXPOSED, LOGGED, OLDER, REPRODUCED, UNEQUAL
from ml.features.tables import feature_tables
from ml.foundation.ids import id63_array
from ml.foundation.lake import Lake, quoted
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.inference.snapshot import publish
from ml.lab.live.replay import requests_of
from ml.landing.load import load_days
from ml.stages.served import compare_served, served_skew_table
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from tests.support.known import the
from tests.support.tiny_home import DAY, Home, rank_body, tiny_settings

pytestmark = pytest.mark.slow

USERS, ASKED, SHOWN = 12, 20, 6
AT = datetime(DAY.year, DAY.month, DAY.day, 9, tzinfo=UTC)


def examples_of(lake: Lake, surface: Surface, settings: Settings, rows: pa.Table) -> pa.Table:
    """Training rows by SQL from the feature tables, as dbt joins them; nothing of the server's code."""
    tables = feature_tables(settings)
    lake.connection.register("_rows", rows)
    joins, columns = ["lake.features.feat_item as item on item.day = r.day and item.item_id = r.item_id"], ["r.*"]
    for name, table in tables.items():
        keys = [f"t_{name}.{key} = {'item' if key == 'creator_id' else 'r'}.{key}" for key in table.entity]
        joins.append(f"lake.features.{name} as t_{name} on t_{name}.day = r.day and {' and '.join(keys)}")
    for name, item in surface.inputs.items():
        if item.source:
            table, column = item.source.split(".")
            default = tables[table].defaults.get(column)
            value = f"t_{table}.{column}"
            columns.append(f"{value if default is None else f'coalesce({value}, {default})'} as {quoted(name)}")
    return lake.sql(f"select {', '.join(columns)} from _rows as r left join {' left join '.join(joins)}")


class Served:
    """A home whose homepage was asked, and shown what came first."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(tiny_settings(folder / "home", serve_log_share=1.0))
        self.home.publish()
        self.home.promote("homepage", 1)
        self.settings, self.surface = self.home.settings, self.home.surfaces["homepage"]

    def ask(self, *, named: bool) -> None:
        """Ask for every user, show the first few, land the log."""
        for path in the(Path, self.settings.serve_log_dir).glob("day=*/*"):
            path.unlink()
        shown = []
        with serving(self.settings, poll_s=0.1) as url, httpx.Client(base_url=url) as client:
            for user in range(USERS):
                at = AT + timedelta(minutes=user)
                body = rank_body(user=f"u{user}", items=ASKED, ts=at.isoformat())
                for candidate in body["candidates"] if named else ():
                    candidate["exposure_id"] = f"eu{user}-{candidate['item_id']}"
                answer = client.post("/rank", json=body).raise_for_status().json()
                shown += [(f"u{user}", at + timedelta(seconds=5), item["item_id"]) for item in answer["items"][:SHOWN]]
            client.post("/rank", json=rank_body(user=None, items=2, ts=AT.isoformat())).raise_for_status()
            client.post("/rank", json=rank_body(user="u39", items=3, ts=AT.isoformat())).raise_for_status()
        # one that was shown again, one whose request was not logged, one that no request had
        shown += [("u1", shown[SHOWN][1] + timedelta(minutes=2), shown[SHOWN][2])]
        shown += [("u38", AT, "i1"), ("u2", AT + timedelta(minutes=3), "i55")]
        with Lake(self.settings) as lake:
            self._show(lake, shown)
            load_days(lake, self.settings, [DAY], {"homepage", "radio"}, ["served"])

    def _show(self, lake: Lake, shown: list[tuple[str, datetime, str]]) -> None:
        users, times, items = (list(column) for column in zip(*shown, strict=True))
        names = [f"e{user}-{item}" for user, item in zip(users, items, strict=True)]
        names[USERS * SHOWN] += "-again"
        naive = [at.replace(tzinfo=None) for at in times]
        n = len(shown)
        exposures = pa.table(
            {
                "day": pa.array([DAY] * n),
                "exposure_id": id63_array(names),
                "landed_exposure_id": names,
                "landed_user_id": users,
                "landed_item_id": items,
                "ts": pa.array(naive, pa.timestamp("us")),
                "surface": ["homepage"] * n,
            }
        )
        lake.replace_days("features.stg_exposures", exposures, [DAY])
        rng = np.random.default_rng(1)
        rows = pa.table(
            {
                "day": exposures["day"],
                "exposure_id": exposures["exposure_id"],
                "ts": exposures["ts"],
                "user_id": id63_array(users),
                "item_id": id63_array(items),
                "container_id": id63_array(["new"] * n),
                "hour": pa.array([9] * n),
                "session_outcomes": pa.array([[2, 1]] * n),
                "row": pa.array(rng.integers(0, 9, n)),
                "column": pa.array(rng.integers(0, 9, n)),
                "label_ctr": rng.integers(0, 2, n).astype(float),
                "label_trail": rng.random(n),
                "label_discovery": rng.integers(0, 2, n).astype(float),
            }
        )
        rows = rows.slice(1)  # the first exposure has no training row
        if not lake.table_exists("features.examples_homepage"):  # from the features as they were first published
            lake.replace_days("features.examples_homepage", examples_of(lake, self.surface, self.settings, rows), [DAY])

    def compared(self) -> list[dict[str, Any]]:
        compare_served(self.settings, self.surface, [DAY])
        with Lake(self.settings) as lake:
            return lake.sql(f"select * from lake.{served_skew_table('homepage')} order by all").to_pylist()

    def outcomes(self, **limits: float) -> dict[str, Outcome]:
        """Judge the day with more rows than there are, unless told."""
        guards = {**self.surface.gate.guards, "served": {"min_rows": 10, **limits}}
        gate = self.surface.gate.model_copy(update={"guards": guards})
        with Lake(self.settings) as lake:
            checks = judge_days(lake, self.surface.model_copy(update={"gate": gate}), [DAY])
        return {check.name: check.outcome for check in checks}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield Served(tmp_path_factory.mktemp("served"))


def counts(rows: list[dict[str, Any]], kind: str) -> dict[str, int]:
    return {row["name"]: row["n"] for row in rows if row["kind"] == kind}


def value(rows: list[dict[str, Any]], kind: str, name: str = "", of: str | None = None) -> float:
    [found] = [r["value"] for r in rows if (r["kind"], r["name"]) == (kind, name) and of in (None, r["of"])]
    return found


@pytest.mark.parametrize("named", [False, True])
def test_what_was_served_is_what_was_trained_on_and_every_row_is_counted(served: Served, *, named: bool) -> None:
    served.ask(named=named)
    rows = served.compared()
    logged, exposed = counts(rows, LOGGED), counts(rows, EXPOSED)
    matched = USERS * SHOWN
    assert logged == {
        "matched": matched,
        "not shown, others of the request were": USERS * (ASKED - SHOWN),
        "an unknown visitor": 2,
        "nothing of the request was shown": 3,
    }
    assert exposed == {
        "matched": matched - 1,
        "no training row": 1,
        "no logged request": 1,
        "the logged requests had other items": 1 if not named else 2,
        **({} if named else {"shown again": 1}),
    }
    assert sum(exposed.values()) == matched + 3
    unequal = {row["name"]: row for row in rows if row["kind"] == UNEQUAL}
    assert unequal.keys() == {name for name, i in served.surface.inputs.items() if i.kind != "after_ranking"}
    assert {row["value"] for row in unequal.values()} == {0.0} and {row["n"] for row in unequal.values()} == {
        matched - 1
    }
    assert value(rows, OLDER) == value(rows, REPRODUCED) == 0
    outcomes = served.outcomes()
    assert outcomes["matched_exposures"] is Outcome.PASS
    assert {outcomes[name] for name in outcomes if name.startswith("unequal")} == {Outcome.PASS}
    assert served.outcomes(min_rows=1000)["matched_exposures"] is Outcome.WARN


def test_a_feature_that_was_altered_in_the_served_snapshot_is_found_and_named(served: Served) -> None:
    served.ask(named=True)
    before = served.compared()
    with Lake(served.settings) as lake:
        lake.connection.execute("update lake.features.feat_item set ctr = ctr + 0.001")
        publish(lake, served.settings, served.home.surfaces, DAY)
    served.ask(named=True)
    rows = served.compared()
    found = {row["name"]: row["value"] for row in rows if row["kind"] == UNEQUAL and row["value"] > 0}
    assert found.keys() == {"item_ctr"} and 0.5 < found["item_ctr"] < 1  # of some items it is not known
    assert value(before, REPRODUCED) == value(rows, REPRODUCED) == 0
    outcomes = served.outcomes()
    assert outcomes["unequal_item_ctr"] is Outcome.FAIL
    assert [name for name, outcome in outcomes.items() if outcome is Outcome.FAIL and "unequal" in name] == [
        "unequal_item_ctr"
    ]
    assert served.outcomes(max_unequal=1)["unequal_item_ctr"] is Outcome.PASS
    assert served.outcomes(min_rows=1000)["unequal_item_ctr"] is Outcome.WARN


def test_scores_that_the_release_does_not_give_are_counted(served: Served) -> None:
    served.ask(named=True)
    with Lake(served.settings) as lake:
        lake.connection.execute("update lake.landing.served set score = score + 1 where user_id = 'u3'")
    rows = served.compared()
    assert value(rows, REPRODUCED) == pytest.approx(SHOWN / (USERS * SHOWN - 1))
    assert served.outcomes()["not_reproduced"] is Outcome.FAIL


def test_features_of_another_day_are_told_apart_from_skew(served: Served) -> None:
    served.ask(named=True)
    with Lake(served.settings) as lake:
        lake.connection.execute("update lake.landing.served set feature_day = '2026-01-19'")
    rows = served.compared()
    assert value(rows, OLDER) == 1
    daily = {name for name, item in served.surface.inputs.items() if item.kind == "daily"}
    assert {row["n"] for row in rows if row["kind"] == UNEQUAL and row["name"] in daily} == {0}
    assert served.outcomes()["older_features"] is Outcome.FAIL


def test_days_that_have_a_log_are_compared_and_others_are_not(served: Served) -> None:
    served.ask(named=True)
    days = dg.DailyPartitionsDefinition(str(DAY - timedelta(days=2)), end_date=str(DAY + timedelta(days=1)))
    logged = ServedLogLanded(served.settings, served.surface)

    @dg.asset(partitions_def=days, automation_condition=dg.AutomationCondition.missing() & logged)
    def compared() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.evaluate_automation_conditions([compared], instance)
    assert result.get_requested_partitions(compared.key) == {str(DAY)}


def test_a_day_without_a_log_has_no_figures_and_no_check(served: Served) -> None:
    before = DAY - timedelta(days=1)
    told = compare_served(served.settings, served.surface, [before])
    assert told.numbers == {} and "was logged" in told.summary
    with Lake(served.settings) as lake:
        assert judge_days(lake, served.surface, [before]) == []


def test_counts_of_unequal_values() -> None:
    unequal = Unequal()
    nan = np.float32("nan")
    unequal.add("x", np.array([1, nan, nan, 2], np.float32), np.array([1, nan, 3, np.inf], np.float32))
    unequal.add("x", np.array([2], np.float32), np.array([2], np.float32))
    unequal.add("v", np.array([[1, 2], [1, 3]]), np.array([[1, 2], [1, 2]]))
    unequal.add("none", np.zeros(0, np.int64), np.zeros(0, np.int64))
    shares = {
        figure.name: (figure.value, figure.n) for figure in unequal.figures(dict.fromkeys(("x", "v", "none"), "daily"))
    }
    assert shares["x"] == (2 / 5, 5) and shares["v"] == (1 / 2, 2) and shares["none"][1] == 0


def test_calibration_is_found_off_where_it_is_and_its_interval_is_over_users() -> None:
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(400), 10)
    logits = rng.normal(-1, 1, 4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-logits))).astype(float)
    good = calibration("ctr", AS_LOGGED, users, logits, labels, 1)
    off = calibration("ctr", AS_LOGGED, users, logits + 1, labels, 1)
    one = calibration("ctr", AS_LOGGED, np.zeros(4000, int), logits, labels, 1)
    assert good and good.lo and good.hi and good.lo < 1 < good.hi and good.users == 400
    assert off and off.lo and off.lo > 1.25
    assert one and one.lo is None
    assert calibration("ctr", AS_LOGGED, users, logits, np.full(4000, np.nan), 1) is None


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_a_day_that_dbt_built_is_served_without_skew(tiny_demo: Path, tmp_path: Path, *, named: bool) -> None:
    """The days of the demo's world, its features published and looked up, its exposures asked for over HTTP."""
    surfaces_dir = PROJECT_ROOT / "tests" / "surfaces"
    settings = Settings(home=tiny_demo, surfaces_dir=surfaces_dir, threads=1, serve_log_share=1.0)
    serves = settings.model_copy(update={"home": tmp_path / "serves", "max_feature_age_days": 400})
    surfaces = load_surfaces(settings)
    surface = surfaces["homepage"]
    Home(serves).promote("homepage", 1)  # a ranker with all inputs
    for path in the(Path, settings.serve_log_dir).glob("day=*/*"):
        path.unlink()
    with Lake(settings) as lake:
        day: date = lake.sql("select max(day) as day from lake.features.examples_homepage")["day"][0].as_py()
        publish(lake, serves, surfaces, day)
        bodies = list(requests_of(lake, surface, day, named=named))[:150]
    with serving(serves, poll_s=0.1) as url, httpx.Client(base_url=url) as client:
        for body in bodies:
            client.post("/rank", json=body).raise_for_status()
    with Lake(settings) as lake:
        [report] = load_days(lake, settings, [day], set(surfaces), ["served"])
        assert report.rows_quarantined == 0
    compare_served(settings, surface, [day])
    with Lake(settings) as lake:
        rows = lake.sql(f"select * from lake.{served_skew_table('homepage')} where day = ?", [day]).to_pylist()
    rows_asked = sum(len(the(list, body["candidates"])) for body in bodies)
    assert counts(rows, LOGGED)["matched"] > 0.9 * rows_asked
    if named:
        assert counts(rows, LOGGED) == {"matched": rows_asked}
    assert sum(counts(rows, EXPOSED).values()) >= rows_asked
    assert {(row["name"], row["value"]) for row in rows if row["kind"] == UNEQUAL and row["value"]} == set()
    assert {row["n"] for row in rows if row["kind"] == UNEQUAL} == {counts(rows, EXPOSED)["matched"]}
    assert value(rows, OLDER) == 0

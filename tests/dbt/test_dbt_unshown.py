"""Pairs that nobody was shown: by rule and seed alone, none that was shown, and known as of their exposure's time."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from assets.progress import ProgressResource
from assets.unshown_labels import build_unshown_labels
from ml.features.unshown import (
    Drawn,
    UnshownError,
    compiled_queries,
    draw_pairs,
    drawn_by,
    unshown_inputs_table,
    unshown_table,
)
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from ml.teacher.labels import unshown_rows
from tests.support.known import the
from tests.support.two_teachers import write_two

SURFACE = "homepage"
TABLES = unshown_table(SURFACE), unshown_inputs_table(SURFACE)


def declaring(surface: Surface, **unshown: Any) -> Surface:
    content = surface.model_dump(mode="json", by_alias=True)
    content["distillation"]["unshown"] = {"per_exposure": 4, **unshown}
    return Surface.model_validate(content)


def hashes(lake: Lake, days: list[date]) -> list[Mapping[date, tuple[int, str]]]:
    return [lake.content_hashes(f"lake.{table}", days) for table in TABLES]


@pytest.fixture(scope="module")
def drawn(
    built: SimpleNamespace, parsed: Callable[[Settings], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """A home with the pairs of its middle days, and how its app's SQL compiled: once for all draws of this module."""
    home = shutil.copytree(built.settings.home, tmp_path_factory.mktemp("unshown") / "home")
    settings = built.settings.model_copy(update={"home": home})
    surfaces, days = load_surfaces(settings), built.days[2:5]
    surface = declaring(surfaces[SURFACE])
    queries: dict[tuple[date, date], tuple[str, str]] = {}

    def compiled(s: Settings, all_surfaces: Any, of: Surface, first: date, last: date, _: Path | None) -> Any:
        if (first, last) not in queries:
            queries[first, last] = compiled_queries(s, all_surfaces, of, first, last, parsed(s))
        return queries[first, last]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ml.features.unshown.compiled_queries", compiled)

        def draw(lake: Lake, days: list[date], of: Surface = surface) -> Drawn:
            return draw_pairs(lake, surfaces, of, days)

        with Lake(settings) as lake:
            told = draw(lake, days)
        yield SimpleNamespace(settings=settings, surface=surface, days=days, told=told, draw=draw)


@pytest.fixture
def lake(drawn: SimpleNamespace) -> Any:
    with Lake(drawn.settings) as lake:
        yield lake


def test_each_exposure_lends_its_user_to_four_items_of_its_day_that_the_user_was_not_shown(
    drawn: SimpleNamespace, lake: Lake
) -> None:
    [(pairs, exposures, most, ids)] = lake.connection.execute(
        f"""select sum(n), count(*), max(n), sum(ids) from (
            select exposure_id, count(*) as n, count(distinct item_id) as ids
            from lake.{TABLES[0]} group by day, exposure_id
        )"""
    ).fetchall()
    assert most == 4 and pairs == ids == sum(drawn.told.pairs.values())
    assert pairs > 0.9 * sum(drawn.told.wanted.values()) and exposures > 0.9 * sum(drawn.told.wanted.values()) / 4
    window = drawn.settings.feature_window_days
    shown = f"""select count(*) from lake.{TABLES[0]} as p inner join lake.features.stg_exposures as e
        on e.user_id = p.user_id and e.item_id = p.item_id and e.day between p.day - {window} and p.day"""
    foreign = f"""select count(*) from lake.{TABLES[0]} as p anti join lake.features.stg_exposures as e
        on e.day = p.day and e.item_id = p.item_id and e.surface = '{SURFACE}'"""
    strangers = f"""select count(*) from lake.{TABLES[0]} as p anti join lake.features.stg_exposures as e
        on e.day = p.day and e.exposure_id = p.exposure_id and e.user_id = p.user_id and e.ts = p.ts"""
    assert [lake.connection.execute(query).fetchall() for query in (shown, foreign, strangers)] == [[(0,)]] * 3
    assert {name for rules in drawn_by(lake, SURFACE, drawn.days).values() for name in rules} == {"uniform 4"}


def test_a_pair_is_known_as_its_exposure_and_as_its_item_were(drawn: SimpleNamespace, lake: Lake) -> None:
    """What the app's own tables say of the exposure's user, and of the item where it was shown, is said of the pair."""
    wanted = {
        TABLES[0]: ("examples_homepage", ("user_history_embedding",), ("creator_id", "content_embedding")),
        TABLES[1]: (
            "teacher_inputs_homepage",
            ("hour", "source_user_id", "user_clicks_7d", "history_embedding"),
            ("source_item_id", "item_clicks_7d", "category", "landed_item_id"),
        ),
    }
    for table, (own, of_user, of_item) in wanted.items():
        item = "landed_item_id" if "landed_item_id" in of_item else "item_id"
        same_user = " and ".join(f"p.{c} is not distinct from e.{c}" for c in of_user)
        query = f"""select count(*), count(*) filter (where {same_user}) from lake.{table} as p
            inner join lake.features.{own} as e on e.day = p.day and e.exposure_id = p.exposure_id"""
        [(rows, same)] = lake.connection.execute(query).fetchall()
        assert rows == same == sum(drawn.told.pairs.values()), (table, rows, same)
        items = f"select distinct day, {', '.join(dict.fromkeys([item, *of_item]))} from lake.features.{own}"
        same_item = " and ".join(f"p.{c} is not distinct from i.{c}" for c in of_item)
        query = f"""select count(*), count(*) filter (where {same_item}) from lake.{table} as p
            inner join ({items}) as i on i.day = p.day and i.{item} = p.{item}"""
        [(rows, same)] = lake.connection.execute(query).fetchall()
        assert rows == same == sum(drawn.told.pairs.values()), (table, rows, same)


def test_drawing_again_one_day_of_many_without_the_days_after_it_gives_the_same_rows(
    drawn: SimpleNamespace, tmp_path: Path
) -> None:
    """The pairs and their inputs use nothing of later days, and nothing of the other days of a range."""
    settings = drawn.settings.model_copy(update={"home": shutil.copytree(drawn.settings.home, tmp_path / "home")})
    day = drawn.days[1]
    with Lake(settings) as lake:
        before = hashes(lake, drawn.days)
        for schema, name in lake.tables():
            if "day" in lake.columns(f"{schema}.{name}") and not name.startswith("unshown_"):
                lake.connection.execute(f"delete from lake.{schema}.{name} where day > ?", [day])
        drawn.draw(lake, [day])
        assert hashes(lake, drawn.days) == before and before[0][day][0] > 100


def test_popular_items_are_drawn_as_often_as_they_were_shown(drawn: SimpleNamespace, tmp_path: Path) -> None:
    settings = drawn.settings.model_copy(update={"home": shutil.copytree(drawn.settings.home, tmp_path / "home")})
    shown = f"""select corr(shown, drawn) from (
        select day, item_id, count(*) as shown from lake.features.stg_exposures where surface = '{SURFACE}' group by all
    ) left join (select day, item_id, count(*) as drawn from lake.{TABLES[0]} group by all) using (day, item_id)
    where drawn is not null"""
    with Lake(settings) as lake:
        [(uniform,)] = lake.connection.execute(shown).fetchall()
        popular = declaring(drawn.surface, rule="popular")
        drawn.draw(lake, drawn.days, popular)
        [(weighted,)] = lake.connection.execute(shown).fetchall()
        assert drawn_by(lake, SURFACE, drawn.days) == {day: {"popular 4"} for day in drawn.days}
    assert weighted > uniform + 0.3


def test_a_branch_input_that_the_apps_sql_lacks_is_named_and_leaves_the_rows_as_they_were(
    drawn: SimpleNamespace, lake: Lake
) -> None:
    content = drawn.surface.model_dump(mode="json", by_alias=True)
    content["inputs"]["mood"] = {"kind": "request", "type": "id", "embedding": 16}
    content["network"]["products"].append(["user_id", "mood"])
    before = hashes(lake, drawn.days)
    with pytest.raises(UnshownError, match=r"homepage: no inputs of pairs: .*mood"):
        drawn.draw(lake, drawn.days, Surface.model_validate(content))
    assert hashes(lake, drawn.days) == before
    with pytest.raises(UnshownError, match=r"surface radio declares no distillation.unshown"):
        drawn.draw(lake, drawn.days, load_surfaces(drawn.settings)["radio"])


def test_the_asset_has_each_teacher_label_the_pairs_and_tells_of_both(drawn: SimpleNamespace, tmp_path: Path) -> None:
    changes = {"home": shutil.copytree(drawn.settings.home, tmp_path / "home"), "teacher": None}
    settings = drawn.settings.model_copy(update={**changes, "teachers": write_two(tmp_path, "user_likes_7d")})
    content = drawn.surface.model_dump(mode="json", by_alias=True)
    content["distillation"]["heads"] = [
        {**content["distillation"]["heads"][0], "teacher_output": f"{name}/click"} for name in settings.teachers
    ]
    for task in content["tasks"].values():
        task["teacher_output"] = None
    surface = Surface.model_validate(content)
    surfaces = {**load_surfaces(settings), SURFACE: surface}
    [asset] = build_unshown_labels(settings, surfaces, surface)
    day = drawn.days[1]
    resources = {"settings": settings, "progress": ProgressResource()}
    made = dg.materialize([asset], resources=resources, partition_key=day.isoformat())
    [told] = made.asset_materializations_for_node(asset.op.name)
    with Lake(settings) as lake:
        query = f"select teacher, count(*) as n from lake.{unshown_rows(SURFACE).labels} where day = ? group by all"
        rows = dict(lake.connection.execute(query, [day]).fetchall())
    assert rows == dict.fromkeys(("toy", "noise"), drawn.told.pairs[day])
    shown = {name: value.value for name, value in told.metadata.items()}
    assert shown["rows"] == shown["dagster/partition_row_count"] == 2 * drawn.told.pairs[day]
    assert shown["teacher_version"] == "1, 7" and the(dict, shown["defaulted_inputs"]).keys() == {"toy", "noise"}
    assert shown["coverage"] == 1, "of the one that labelled fewest"

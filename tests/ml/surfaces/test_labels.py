"""Labels that a surface's YAML counts from outcomes, and the refusal of what is none."""

import pytest
import yaml

from ml.features.build import dbt_vars
from ml.foundation.settings import EXAMPLES, Settings
from ml.surfaces.columns import PLAYED_OUTCOMES
from ml.surfaces.files import load_surface
from ml.surfaces.keys import SpecError
from ml.surfaces.spec import Surface

HOMEPAGE = EXAMPLES / "simulator" / "surfaces" / "homepage.yaml"


def _with(tmp_path, **keys: object) -> Surface:
    path = tmp_path / "homepage.yaml"
    path.write_text(yaml.safe_dump({"extends": str(HOMEPAGE), **keys}))
    return load_surface(path)


def test_labels_of_outcomes_stand_beside_the_numbers_that_the_sql_reads(tmp_path) -> None:
    rules = {
        "bought": {"any": "order"},
        "spent": {"sum": "price"},
        "stars": {"latest": "rating"},
        "old": {"first": "rating"},
    }
    surface = _with(tmp_path, labels=rules | {"heard": {"sum": "session.played_s"}})
    assert {name: label.rule for name, label in surface.label_rules.items()} == {
        "bought": ("any", "order"),
        "spent": ("sum", "price"),
        "stars": ("latest", "rating"),
        "old": ("first", "rating"),
        "heard": ("sum", "session.played_s"),
    }
    values = dbt_vars(Settings(), {"homepage": surface}, Settings().first_day, Settings().first_day)
    assert values["labels"] == {"homepage": {"trail_max_hours": 6, "discovery_trail_bound": 3.4}}
    assert ["homepage", "spent", "sum", "price"] in values["label_rules"] and len(values["label_rules"]) == 5
    again = Surface.model_validate(surface.model_dump(mode="json", by_alias=True))
    assert again == surface and again.digest == surface.digest != load_surface(HOMEPAGE).digest


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ({"any": "session.complete"}, "no outcome 'session.complete'; did you mean 'session.completed'"),
        ({"sum": "listen.seconds"}, "listens have no outcome 'listen.seconds'"),
        ({"any": "purchse"}, "'purchse', which is no outcome of the surface; did you mean 'purchase'"),
        ({"summ": "purchase"}, "did you mean 'sum'"),
        ({"sum": "purchase", "any": "purchase"}, "a label says one of any, sum, latest, first"),
        ({}, "a label says one of any, sum, latest, first"),
    ],
)
def test_a_label_that_counts_nothing_is_refused_with_the_nearest_name(
    tmp_path, label: dict[str, str], told: str
) -> None:
    with pytest.raises(SpecError, match=r"homepage\.yaml") as refused:
        _with(tmp_path, outcomes=["purchase", "rating"], labels={"bought": label})
    assert told in str(refused.value) and "bought" in str(refused.value)


def test_the_sql_knows_the_outcomes_of_listens() -> None:
    macro = (EXAMPLES.parent / "dbt_project" / "macros" / "labels.sql").read_text(encoding="utf-8")
    stated = macro[macro.index("macro played_outcomes") :]
    places = [stated.index(f"'.{name.split('.')[1]}'") for name in PLAYED_OUTCOMES if name.startswith("listen")]
    assert places == sorted(places)

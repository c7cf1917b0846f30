"""A day on which nothing was shown passes guards `data` and `soft_labels` as empty, and is told."""

from collections.abc import Iterator
from datetime import timedelta

import pyarrow as pa
import pytest

from checks.guards import data, soft_labels
from ml.evaluation.outcome import Outcome
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.verdicts import Check
from ml.surfaces.spec import Surface


@pytest.fixture
def home(tmp_path, toolbox) -> Iterator[tuple[Lake, Surface]]:
    """A home whose first day was built and is empty on the surface; another surface had a row."""
    settings: Settings
    settings, surface = toolbox.make_home(tmp_path / "home")
    first, days = toolbox.FIRST, settings.days(toolbox.FIRST, toolbox.PARTITION)
    with Lake(settings) as lake:
        lake.replace_days("features.examples_tiny", toolbox.examples(first).slice(0, 0), [first])
        lake.replace_days("ml.soft_labels_tiny", lake.sql("select * from ml.soft_labels_tiny limit 0"), [first])
        lake.replace_days("features.int_day", pa.table({"day": pa.array(days, pa.date32())}), days)
        shown = {"day": pa.array(days, pa.date32()), "surface": ["other"] + ["tiny"] * len(days[1:])}
        lake.replace_days("features.stg_exposures", pa.table(shown), days)
        yield lake, surface


def judged(lake: Lake, surface: Surface, days: list) -> list[list[Check]]:
    return [data.judge_days(lake, surface, days), soft_labels.judge_days(lake, surface, days)]


@pytest.mark.parametrize("length", [1, 3])
def test_an_empty_day_passes_alone_and_among_others_and_is_told(home, toolbox, length: int) -> None:
    lake, surface = home
    days = [toolbox.FIRST + timedelta(days=i) for i in range(length)]
    for checks in judged(lake, surface, days):
        (told,) = [check for check in checks if check.outcome is not Outcome.PASS]
        assert (told.name, told.outcome, told.value) == ("empty_days", Outcome.WARN, 1)
        assert str(toolbox.FIRST) in told.detail
        assert (len(checks) > 1) == (length > 1), "the other days are judged"


def test_a_surface_whose_days_may_be_empty_says_so_with_no_least_rows(home, toolbox) -> None:
    lake, surface = home
    content = surface.model_dump(mode="json", by_alias=True)
    content["gate"]["data"]["min_rows"] = 0
    for checks in judged(lake, Surface.model_validate(content), [toolbox.FIRST]):
        assert [check.outcome for check in checks] == [Outcome.PASS]


def test_a_day_whose_examples_were_lost_is_not_empty(home, toolbox) -> None:
    lake, surface = home
    lake.connection.execute("update lake.features.stg_exposures set surface = 'tiny'")
    for checks in judged(lake, surface, [toolbox.FIRST]):
        assert Outcome.FAIL in {check.outcome for check in checks}

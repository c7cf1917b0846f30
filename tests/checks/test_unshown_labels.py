"""Guard `soft_labels` of pairs that nobody was shown: healthy ones pass, every kind of fault fails its check."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from checks.guards import soft_labels
from ml.evaluation.outcome import Outcome
from ml.features.unshown import unshown_inputs_table, unshown_table
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.verdicts import Check
from ml.surfaces.spec import Surface
from ml.teacher.contract import load_contract
from ml.teacher.labels import label_days, unshown_rows
from tests.support.known import present

PAIRS, INPUTS, LABELS = unshown_table("tiny"), unshown_inputs_table("tiny"), unshown_rows("tiny").labels


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, toolbox) -> tuple[Settings, Surface]:
    """A home with pairs of its first two days: users with an item that was shown on the day, but not to them."""
    settings, surface = toolbox.make_home(tmp_path_factory.mktemp("lake") / "home")
    content = surface.model_dump(mode="json", by_alias=True)
    content["network"]["interaction"] = {"embedding": 4, "layers": [4]}
    heads = [{"teacher_output": "click", "weight": 1.0}]
    content["distillation"] = {"technique": "interaction", "heads": heads, "unshown": {"per_exposure": 1}}
    days = settings.days(toolbox.FIRST, toolbox.FIRST)
    days.append(settings.days(toolbox.FIRST, toolbox.PARTITION)[1])
    with Lake(settings) as lake:
        for day in days:
            shown = lake.sql("select * from lake.features.examples_tiny where day = ? order by exposure_id", [day])
            rng = np.random.default_rng(day.toordinal())
            seen = set(zip(shown["user_id"].to_pylist(), shown["item_id"].to_pylist(), strict=True))
            places = rng.permutation(shown.num_rows)
            items = shown["item_id"].to_numpy()[places]
            fresh = np.array([pair not in seen for pair in zip(shown["user_id"].to_pylist(), items, strict=True)])
            pairs = shown.select(["day", "exposure_id", "ts", "user_id"]).append_column("item_id", pa.array(items))
            pairs = pairs.append_column("pair_id", pa.array(np.arange(len(places)) + 1_000 * day.toordinal()))
            pairs = pairs.append_column("drawn_by", pa.array(["uniform 1"] * len(places))).filter(pa.array(fresh))
            rates = pa.table({"item_ctr": shown["item_ctr"].take(pa.array(places))}).filter(pa.array(fresh))
            inputs = pairs.select(["day", "exposure_id", "pair_id"]).append_column("item_ctr", rates["item_ctr"])
            lake.replace_days(PAIRS, pairs, [day])
            lake.replace_days(INPUTS, inputs, [day])
        label_days(lake, settings, "tiny", load_contract(present(settings.teacher)), days, rows_of=unshown_rows)
    return settings, Surface.model_validate(content)


@pytest.fixture
def lake(home: tuple[Settings, Surface]) -> Iterator[Lake]:
    with Lake(home[0]) as opened:
        kept = {table: opened.sql(f"select * from lake.{table}") for table in (PAIRS, LABELS)}
        yield opened
        for table, rows in kept.items():
            opened.replace_days(table, rows, rows["day"].to_pylist())


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.outcome is not Outcome.PASS}


def judged(home: tuple[Settings, Surface], lake: Lake) -> list[Check]:
    [(first, last)] = lake.connection.execute(f"select min(day), max(day) from lake.{PAIRS}").fetchall()
    return soft_labels.judge_unshown(lake, home[1], home[0].days(first, last))


FAULTS = {
    "unshown_pairs_that_were_shown": f"update lake.{PAIRS} set item_id = e.item_id "
    f"from lake.features.examples_tiny as e where e.exposure_id = unshown_tiny.exposure_id and pair_id % 50 = 0",
    "unshown_by_rule": f"update lake.{PAIRS} set drawn_by = 'popular 1' where pair_id % 50 = 0",
    "unshown_coverage": f"delete from lake.{LABELS} where pair_id % 10 = 0",
    "unshown_non_finite": f"update lake.{LABELS} set scores = ['nan'::double] where pair_id % 50 = 0",
    "unshown_other_teacher": f"update lake.{LABELS} set teacher_version = '0' where pair_id % 200 = 0",
    "unshown_strangers": f"delete from lake.{PAIRS} where pair_id % 50 = 0",
    "unshown_defaulted_share": f"update lake.{LABELS} set defaulted_inputs = 2",
    "unshown_rescore_difference": f"update lake.{LABELS} set scores = [scores[1] + 0.01]",
}


def test_healthy_labels_of_pairs_pass(home: tuple[Settings, Surface], lake: Lake) -> None:
    checks = judged(home, lake)
    assert failed(checks) == set() and FAULTS.keys() <= {check.name for check in checks}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_pairs_fails_its_check(home: tuple[Settings, Surface], lake: Lake, name: str) -> None:
    lake.connection.execute(FAULTS[name])
    assert name in failed(judged(home, lake))

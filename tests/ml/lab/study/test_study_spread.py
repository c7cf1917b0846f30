from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pytest

from ml.evaluation.report import SurfaceReport, spread_text
from ml.lab.study.design import Design, load_design
from ml.lab.study.spread import Spread, expected_spreads, keep_spreads, spreads
from ml.lab.study.trials import TRIALS_SCHEMA

DESIGN = load_design("spread")


def rows(differences: dict[int, list[float]]) -> pa.Table:
    """Return trials of control and student with these differences {world: one per initialisation}."""
    made = [
        {"trial": f"{arm}-{world}-{seed}", "condition": "", "surface": "homepage", "task": "ctr", "slice": "all"}
        | {"metric": "auc", "arm": arm, "world": world, "seed": seed, "value": 0.7 + 0.01 * seed + gain, "n": 9}
        | {"replicates": [0.0]}
        for world, gains in differences.items()
        for seed, difference in enumerate(gains)
        for arm, gain in (("control", 0.0), ("student", difference))
    ]
    return pa.Table.from_pylist(made, schema=TRIALS_SCHEMA)


def test_the_spread_is_that_within_worlds_and_not_what_makes_worlds_differ():
    around = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) * 1e-3
    found = spreads(rows({w: (0.01 * w + around).tolist() for w in (1, 2, 3)}), DESIGN)["homepage"]["ctr"]
    assert found.deviation == pytest.approx(np.std(around, ddof=1))
    assert found == Spread(found.deviation, "auc", worlds=3, seeds=5)


def test_fewer_than_five_initialisations_give_no_spread():
    with pytest.raises(ValueError, match=r"study spread: 4 initialisations of homepage ctr; a spread needs 5"):
        spreads(rows({1: [0.01, 0.02, 0.03, 0.02, 0.01], 2: [0.01, 0.02, 0.03, 0.02]}), DESIGN)


def test_what_was_measured_is_kept_by_preset_and_told_beside_one_initialisation(tmp_path: Path):
    file = tmp_path / "spread.yaml"
    assert expected_spreads("demo", file) == {}
    found = {"homepage": {"ctr": Spread(0.00312, "auc", 3, 5), "trail": Spread(0.0081, "r2", 3, 5)}}
    keep_spreads("kuairand", {"radio": {"engagement": Spread(0.02, "auc", 1, 8)}}, file)
    keep_spreads("demo", found, file)
    assert expected_spreads("demo", file) == found and set(expected_spreads("kuairand", file)) == {"radio"}
    surface = cast("SurfaceReport", {"tasks": {"ctr": {"metric": "auc"}, "trail": {"metric": "r2"}}})
    told = spread_text({**surface, "spread": {t: s.deviation for t, s in found["homepage"].items()}})
    assert told.endswith("by (one deviation): ctr 0.31, trail 0.008")
    assert "was not measured at this size" in spread_text(surface)


def test_figures_of_one_world_rest_on_five_initialisations():
    def enough(design: Design) -> bool:
        return all(len(part.worlds) > 1 or len(part.seeds or design.seeds) >= 5 for part in design.parts)

    assert all(enough(load_design(name)) for name in ("kuairand", "spread", "headline"))
    assert len(DESIGN.seeds) >= 5

"""What the initialisation alone moves: the spread of student less control within a world, for who trains only one.

The difference of one initialisation is a draw. Its deviation within a world is pooled over worlds, so that what makes
worlds differ does not count. ``spread.yaml`` keeps what was measured, by preset; ``crossfade study spread`` writes it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from ml.evaluation.results import ALL
from ml.foundation.documents import load_yaml
from ml.lab.study.analysis import FEWEST_SEEDS, RANKING, differences_by_seed
from ml.lab.study.design import STUDENT, Design

SPREAD_FILE = Path(__file__).with_name("spread.yaml")
_HEAD = """\
# What another initialisation alone moves: deviation of student less control in a world, by preset, surface and task.
# Written by `crossfade study spread NAME` from the trials of a study; the demo prints it beside its one initialisation.
"""


@dataclass(frozen=True)
class Spread:
    """Deviation of student less control between the initialisations of a world.

    Attributes:
        deviation: In the metric's unit, pooled over worlds; one initialisation of two lies within two thirds of it.
        metric: ``auc`` or ``r2``.
        worlds: Worlds.
        seeds: Initialisations of each.
    """

    deviation: float
    metric: str
    worlds: int
    seeds: int


def spreads(rows: pa.Table, design: Design) -> dict[str, dict[str, Spread]]:
    """Return {surface: {task: spread}} of a study, on all rows of its worlds as they are.

    Raises:
        ValueError: A world has fewer than five initialisations of the student.
    """
    found: dict[str, dict[str, Spread]] = {}
    for (surface, task, metric), worlds in differences_by_seed(rows, STUDENT, ALL, RANKING).items():
        fewest = min(len(values) for values in worlds.values())
        if fewest < FEWEST_SEEDS:
            raise ValueError(
                f"study {design.name}: {fewest} initialisations of {surface} {task}; a spread needs {FEWEST_SEEDS}: "
                "take study `spread`, or `kuairand`"
            )
        variance = np.mean([np.var(values, ddof=1) for values in worlds.values()])
        spread = Spread(float(np.sqrt(variance)), metric, len(worlds), fewest)
        found.setdefault(surface, {})[task] = spread
    return found


def keep_spreads(preset: str, found: dict[str, dict[str, Spread]], file: Path = SPREAD_FILE) -> None:
    """Write the spreads of a preset into the file, in place of what it had of that preset."""
    content = load_yaml(file) if file.exists() else {}
    content[preset] = {
        surface: {task: {**asdict(spread), "deviation": round(spread.deviation, 5)} for task, spread in tasks.items()}
        for surface, tasks in found.items()
    }
    file.write_text(_HEAD + yaml.safe_dump(content, sort_keys=True, default_flow_style=None, width=120))


def expected_spreads(preset: str, file: Path = SPREAD_FILE) -> dict[str, dict[str, Spread]]:
    """Return what was measured of a preset; empty where nothing was."""
    content = load_yaml(file) if file.exists() else {}
    return {
        surface: {task: Spread(**spread) for task, spread in tasks.items()}
        for surface, tasks in content.get(preset, {}).items()
    }

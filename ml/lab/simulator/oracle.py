"""What a ranker that knows the hidden truth reaches: the ceiling of every metric on a world."""

import math
from collections.abc import Iterable

import numpy as np

from ml.lab.simulator.music import HOMEPAGE, RADIO, SKIPPED
from ml.lab.simulator.truth import TRAIL_NOISE
from ml.lab.simulator.world import DayEvents, World


def auc(label: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the ROC curve; ties count half. Needs both classes."""
    positive = np.asarray(label, dtype=bool)
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    ones, zeros = positive.sum(), (~positive).sum()
    if not ones or not zeros:
        raise ValueError(f"AUC needs both classes, got {ones} positives and {zeros} negatives")
    return float((rank[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def ceiling(world: World, days: Iterable[DayEvents], discovery_bound: float = 3.4) -> dict[str, float]:
    """Return base rates and best possible figures over days: AUC of each binary task, R2 of the trail.

    Args:
        world: The world of ``days``.
        days: Events, for example of the evaluation days.
        discovery_bound: log1p(seconds) that the trail of a discovery exceeds.
    """
    columns: dict[str, list[np.ndarray]] = {}

    def collect(**values: np.ndarray) -> None:
        for name, value in values.items():
            columns.setdefault(name, []).append(value)

    for day in days:
        shown, played = day.music.exposures, day.music.listens
        from_exposure = played.exposure >= 0
        clicked = np.zeros(len(shown.second), dtype=bool)
        clicked[played.exposure[from_exposure]] = True
        home, radio = shown.surface == HOMEPAGE, shown.surface == RADIO
        trail = trail_seconds(day)
        far = np.log1p(trail) > discovery_bound
        reached = 0.5 * np.vectorize(math.erfc)((discovery_bound - shown.trail_mean[home]) / TRAIL_NOISE / math.sqrt(2))
        engaged = np.zeros(len(shown.second), dtype=bool)
        enough = np.minimum(30.0, world.truth.population.tracks.duration_s[played.track])
        listened = from_exposure & (played.outcome != SKIPPED) & (played.played_ms / 1000 >= enough)
        engaged[played.exposure[listened]] = True
        collect(
            video_click=day.video.clicked,
            video_click_score=day.video.click_probability,
            ctr=clicked[home],
            ctr_score=shown.probability[home],
            discovery=(clicked & ~shown.known & far)[home],
            discovery_score=shown.probability[home] * ~shown.known[home] * reached,
            engagement=engaged[radio],
            engagement_score=shown.probability[radio],
            trail=np.log1p(trail[home & clicked]),
            trail_score=shown.trail_mean[home & clicked],
        )
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    figures: dict[str, float] = {}
    for task in ("video_click", "ctr", "discovery", "engagement"):
        figures[f"{task}_rate"] = float(joined[task].mean())
        figures[f"{task}_auc"] = auc(joined[task], joined[f"{task}_score"])
    error = ((joined["trail"] - joined["trail_score"]) ** 2).sum()
    figures["trail_mean"] = float(joined["trail"].mean())
    figures["trail_r2"] = float(1 - error / ((joined["trail"] - joined["trail"].mean()) ** 2).sum())
    return figures


def trail_seconds(day: DayEvents) -> np.ndarray:
    """Return seconds played from each clicked exposure to the session's next one, 0 if not clicked [exposures]."""
    played = day.music.listens
    order = np.lexsort((played.second, played.session))
    session, exposure = played.session[order], played.exposure[order]
    starts = (exposure >= 0) | np.concatenate([[True], session[1:] != session[:-1]])
    run = np.cumsum(starts) - 1
    seconds = np.bincount(run, played.played_ms[order]) / 1000
    first = exposure[starts]
    result = np.zeros(len(day.music.exposures.second))
    result[first[first >= 0]] = seconds[first >= 0]
    return result

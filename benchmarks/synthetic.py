"""Examples and soft labels with a planted taste, written straight into a lake: for benchmarks and tests of students.

Nothing here comes from the simulator; labels follow the product of a hidden user and item vector, which the teacher
sees with noise.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from ml.foundation.ids import id63_array
from ml.foundation.lake import FEATURES, ML, Lake
from ml.surfaces.columns import Input
from ml.surfaces.spec import Surface
from ml.teacher.teachers import LabelsOf

OUTPUTS = ("click", "watch", "continue", "like")
TEACHER_VERSION, CONTRACT_HASH = "1", "c0ffee"
LABELS = (LabelsOf(version=TEACHER_VERSION, contract_hash=CONTRACT_HASH, outputs=OUTPUTS),)
PARTS = ("user", "item", "pair")


@dataclass(frozen=True)
class Shape:
    """How large a planted world is, and what moves its labels.

    Attributes:
        first_day: First day.
        days: Number of days.
        rows_per_day: Exposures per day.
        users: Users that there are.
        items: Items that there are.
        teacher_noise: Deviation of the noise on the teacher's logits, whose signal has deviation 1.
        popularity: Deviation of what an item is to everybody, beside each one's taste; a rank that is learnt soon.
        activity: Deviation of what a user clicks whatever is shown.
        knows: Which of these the teacher sees: ``user``, ``item``, ``pair``; none of them is a teacher of noise.
        seed: Seed of everything.
    """

    first_day: date
    days: int
    rows_per_day: int
    users: int = 300
    items: int = 200
    teacher_noise: float = 0.5
    popularity: float = 0.0
    activity: float = 0.0
    knows: Collection[str] = PARTS
    seed: int = 0


def write_world(lake: Lake, surface: Surface, shape: Shape) -> None:
    """Write ``features.examples_<surface>`` and ``ml.soft_labels_<surface>``, replacing the world's days."""
    examples, soft_labels = world(surface, shape)
    all_days = [shape.first_day + timedelta(days=d) for d in range(shape.days)]
    lake.replace_days(f"{FEATURES}.examples_{surface.name}", examples, all_days)
    lake.replace_days(f"{ML}.soft_labels_{surface.name}", soft_labels, all_days)


def reduced(surface: Surface, keep: Collection[str], **changes: dict[str, Any]) -> Surface:
    """Return a surface with the inputs ``keep`` only, and some sections changed key by key."""
    content = surface.model_dump(mode="json", by_alias=True)
    content["inputs"] = {name: spec for name, spec in content["inputs"].items() if name in keep}
    content["network"]["products"] = [p for p in content["network"]["products"] if set(p) <= set(keep)]
    for section, values in changes.items():
        content[section] |= values
    return Surface.model_validate(content)


def world(surface: Surface, shape: Shape) -> tuple[pa.Table, pa.Table]:
    """Return examples and soft labels as Arrow tables."""
    rng = np.random.default_rng(shape.seed)
    users, items, n = shape.users, shape.items, shape.days * shape.rows_per_day
    taste, appeal = rng.normal(size=(users, 4)), rng.normal(size=(items, 4))
    user, item = rng.integers(users, size=n), (items * rng.random(n) ** 1.5).astype(int)
    parts = {
        "user": shape.activity * np.random.default_rng(shape.seed + 2).normal(size=users)[user],
        "item": shape.popularity * np.random.default_rng(shape.seed + 1).normal(size=items)[item],
        "pair": (taste[user] * appeal[item]).sum(1) / 2.0,
    }
    day = np.repeat(np.arange(shape.days), shape.rows_per_day)
    start = np.datetime64(shape.first_day, "us")
    ts = start + (day * 86_400_000_000 + rng.integers(86_400_000_000, size=n)).astype("timedelta64[us]")
    columns: dict[str, object] = {
        "day": pa.array(np.datetime64(shape.first_day, "D") + day, pa.date32()),
        "exposure_id": rng.permutation(np.arange(1, n + 1)),
        "ts": pa.array(ts, pa.timestamp("us")),
        "user_id": _ids("user", users)[user],
        "session_id": rng.integers(1, n, size=n),
    }
    for name, spec in surface.inputs.items():
        if name == "user_id":
            continue
        columns[name] = _column(name, spec, item, items, appeal, rng)
    columns |= _labels(surface, parts["pair"] + parts["item"] + parts["user"], rng)
    known = sum((part for name, part in parts.items() if name in shape.knows), np.zeros(n))
    scale = known.std() or 1.0
    scores = np.stack([-1.0 + known / scale + shape.teacher_noise * rng.normal(size=n) for _ in OUTPUTS], axis=1)
    order = rng.permutation(n)
    soft_labels = pa.table(
        {
            "day": columns["day"],
            "exposure_id": columns["exposure_id"],
            "teacher_version": pa.array([TEACHER_VERSION] * n),
            "contract_hash": pa.array([CONTRACT_HASH] * n),
            "scores": pa.ListArray.from_arrays(np.arange(0, 4 * n + 1, 4, dtype=np.int32), scores.reshape(-1)),
            "defaulted_inputs": pa.array(np.full(n, 8, dtype=np.int32)),
        }
    )
    return pa.table(columns).take(order), soft_labels.take(rng.permutation(n))


def _labels(surface: Surface, affinity: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """Return a label per task: the first binary one is the click, without which the others are 0 or missing."""
    n = len(affinity)
    shown = rng.normal(size=n)
    clicked = np.ones(n, dtype=bool)
    labels: dict[str, object] = {}
    for index, task in enumerate(surface.tasks.values()):
        if task.kind == "binary":
            probability = 1 / (1 + np.exp(-(-1.5 + 1.2 * affinity + 0.2 * shown)))
            label = (rng.random(n) < probability) & clicked
            labels[task.label] = pa.array(label.astype(float))
            clicked = label if index == 0 else clicked
        else:
            value = 4.0 + 0.7 * affinity + rng.normal(size=n)
            labels[task.label] = pa.array(np.where(clicked, value, np.nan), from_pandas=True)
    return labels


def _ids(prefix: str, count: int) -> np.ndarray:
    return id63_array(f"{prefix}{i}" for i in range(count))


def _column(name: str, spec: Input, item: np.ndarray, items: int, appeal: np.ndarray, rng: np.random.Generator):
    n = len(item)
    match spec.type:
        case "id" | "category":
            if name == "creator_id":
                values = _ids("creator", 1 + items // 5)[item // 5]
            elif name == "item_id" or spec.vocabulary == "item_id":
                values = _ids("item", items)[item if name == "item_id" else rng.permutation(item)]
            else:
                values = _ids(name, 12)[rng.integers(12, size=n)]
            return pa.array(values, mask=rng.random(n) < (0.02 if spec.kind == "daily" else 0.0))
        case "number":
            counts = name.endswith(("plays", "impressions", "days", "_s")) or spec.kind == "after_ranking"
            values = np.floor(rng.lognormal(3, 1, n)) if counts else rng.beta(2, 6, n)
            return pa.array(values, mask=rng.random(n) < 0.05)
        case "vector":
            noisy = rng.normal(size=(n, spec.length))
            width = min(spec.length, appeal.shape[1])
            noisy[:, :width] += appeal[item][:, :width]
            flat, lengths = noisy.astype(np.float32), np.full(n, spec.length)
        case "event_list":
            lengths = rng.integers(0, spec.length + 1, size=n)
            flat = rng.integers(1, 4, size=int(lengths.sum()))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, flat.reshape(-1), mask=pa.array(rng.random(n) < 0.03))

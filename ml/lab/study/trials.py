"""One trial: a ranker trained in one world, scored on its evaluation days, with the replicates of every metric."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from time import perf_counter

import numpy as np
import pyarrow as pa
import torch
from scipy.special import expit

from ml.evaluation import metrics
from ml.evaluation.bootstrap import UserWeights
from ml.evaluation.results import ALL
from ml.features.tables import VECTORS_TABLE
from ml.features.unshown import draw_pairs
from ml.foundation.code import code_hash
from ml.foundation.documents import digest
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.foundation.settings import Settings
from ml.lab.study.design import OWN, SECOND, Labels, Trial, Variant, Vectors, outputs_of, score_input
from ml.lab.study.noise import prepare_noise
from ml.students.checkpoint import predict
from ml.students.dataset import Dataset, TrainingSet, build_training_set, load
from ml.students.train import fit, shuffle_soft_labels
from ml.surfaces.condition import condition
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface, output_name
from ml.surfaces.techniques import NO_TECHNIQUE
from ml.teacher.contract import Contract
from ml.teacher.labels import label_days, unshown_rows
from ml.teacher.teachers import LabelsOf

REPLICATES = 200
"""Bootstrap samples of the users of a world; the same for every variant, which pairs them."""

_SLICES = ("new_releases",)
_CODE = (
    "ml/students",
    "ml/distillation",
    "ml/evaluation/bootstrap.py",
    "ml/evaluation/metrics.py",
    "ml/lab/study/trials.py",
)
"""Code between rows and figures; what is before the rows shows in their content hash."""
_PAIRS_CODE = ("ml/features/unshown.py",)
"""Code that draws the pairs of the variants that learn some."""
_VECTORS_CODE = ("ml/teacher/vectors.py", "ml/lab/demo_teacher.py")
"""Code that computes what the variants read that read the teacher's vectors."""

_SECOND_CODE = ("ml/lab/study/noise.py",)
"""Code that makes the second teacher of the variants that have one."""


@dataclass(frozen=True)
class Measured:
    """A metric of one task on one slice.

    Attributes:
        task: Name of the task.
        slice: ``all`` or a slice of the surface.
        metric: Name of a function of ``ml/evaluation/metrics.py``.
        value: On all rows of the slice.
        replicates: Of users drawn with replacement [REPLICATES], NaN where undefined.
        n: Labelled rows.
        positives: Of a binary task, else None.
        users: Users of those rows.
    """

    task: str
    slice: str
    metric: str
    value: float
    replicates: np.ndarray
    n: int
    positives: int | None
    users: int


class Bench:
    """The rows of one surface of a prepared world with the labels of one teacher, read once for all their trials.

    Args:
        settings: The world's home.
        surface: One of its surfaces.
        contract: A teacher whose soft labels are in the world's lake.
    """

    def __init__(self, settings: Settings, surface: Surface, contract: Contract) -> None:
        self.settings, self.surface, self.contract = settings, surface, contract
        self._with_pairs: tuple[str, Dataset] | None = None
        with Lake(settings) as lake:
            self.training_set: TrainingSet = self._built(lake, surface)

    def _built(self, lake: Lake, surface: Surface) -> TrainingSet:
        assert self.settings.last_day is not None
        return build_training_set(lake, surface, self.settings.last_day, [LabelsOf.only(self.contract)])

    @cached_property
    def train(self) -> Dataset:
        """Training rows with soft labels."""
        return load(self.settings, self.training_set, self.surface, self.training_set.train_days, soft_labels=True)

    def with_pairs(self, surface: Surface) -> Dataset:
        """Return training rows with soft labels, and the pairs that a surface declares, which are drawn for it."""
        unshown, days = str(surface.distillation.unshown), self.training_set.train_days
        if self._with_pairs is None or self._with_pairs[0] != unshown:
            with Lake(self.settings) as lake:
                draw_pairs(lake, load_surfaces(self.settings), surface, days)
                label_days(lake, self.settings, surface.name, self.contract, days, rows_of=unshown_rows)
                rows = self._built(lake, surface)
            read = load(self.settings, rows, surface, days, soft_labels=True)
            self._with_pairs = unshown, read
        return self._with_pairs[1]

    def vectors(self, kind: Vectors, seed: int) -> dict[str, "Lagged"]:
        """Return {``user`` or ``item``: its vectors of all days}, as they are or as placebos."""
        with Lake(self.settings) as lake:
            return {
                item.entity.removesuffix("_id"): lagged(lake, self.contract, item.name, item.entity, kind, seed)
                for item in self.contract.embeddings
            }

    @cached_property
    def beside_noise(self) -> Dataset:
        """Training rows with soft labels of the teacher and of a second one that knows nothing."""
        contracts = {OWN: self.contract, SECOND: prepare_noise(self.settings, self.contract)}
        assert self.settings.last_day is not None
        labels = [
            LabelsOf(
                teacher=name,
                version=contract.version,
                contract_hash=contract.contract_hash,
                outputs=tuple(output_name(name, task, prefixed=True) for task in contract.tasks),
            )
            for name, contract in contracts.items()
        ]
        with Lake(self.settings) as lake:
            rows = build_training_set(lake, self.surface, self.settings.last_day, labels)
        return load(self.settings, rows, self.surface, rows.train_days, soft_labels=True)

    @cached_property
    def held_out(self) -> Dataset:
        """Evaluation rows, ``after_ranking`` inputs at their serving value, soft labels for the teacher's own score."""
        days = self.training_set.eval_days
        return load(self.settings, self.training_set, self.surface, days, soft_labels=True, after_ranking="serving")

    @cached_property
    def slices(self) -> dict[str, np.ndarray]:
        """{slice: mask over the evaluation rows}."""
        masks = {ALL: np.ones(len(self.held_out), dtype=bool)}
        days = self.training_set.eval_days
        with Lake(self.settings, snapshot=self.training_set.snapshot) as lake:
            for name in _SLICES:
                if name in self.surface.slices:
                    query = (
                        f"select exposure_id from {ALIAS}.{FEATURES}.examples_{self.surface.name} "
                        f"where day between ? and ? and ({condition(self.surface.slices[name]).sql})"
                    )
                    inside = lake.sql(query, [days[0], days[-1]])["exposure_id"].to_numpy()
                    masks[name] = np.isin(self.held_out.exposure_id.numpy(), inside)
        return masks

    @cached_property
    def weights(self) -> UserWeights:
        """How often each user counts in each replicate."""
        return UserWeights(self.held_out.user_id.numpy(), seed=0, replicates=REPLICATES)

    def trial_digest(self, trial: Trial) -> str:
        """Return the identity of a trial: rows, variant, surface as variant and condition change it, seed, and code."""
        pairs = {"pairs": code_hash(_PAIRS_CODE)} if trial.variant.unshown else {}
        pairs |= {"vectors": [trial.variant.vectors, code_hash(_VECTORS_CODE)]} if trial.variant.vectors else {}
        pairs |= {"second": code_hash(_SECOND_CODE)} if trial.variant.beside_noise else {}
        return digest(
            pairs
            | {
                "world": trial.world.model_dump(mode="json", exclude_defaults=True),
                "rows": self.training_set.content_hash,
                "surface": trained_surface(trial, self.surface).ranker_digest,
                "arm": trial.variant.name,
                "labels": trial.variant.labels if trial.variant.distils else None,
                "condition": trial.condition.model_dump(mode="json", exclude_defaults=True),
                "seed": trial.seed,
                "code": code_hash(_CODE),
            }
        )

    def run(self, trial: Trial) -> tuple[list[Measured], float]:
        """Train and measure; return the metrics and the seconds that training took."""
        surface = trained_surface(trial, self.surface)
        rows = self.with_pairs(surface) if trial.variant.unshown else self.train
        rows = self.beside_noise if trial.variant.beside_noise else rows
        began = perf_counter()
        technique = surface.distillation.technique if trial.variant.distils else NO_TECHNIQUE
        data = thinned(rows, trial.condition.volume, trial.seed)
        if trial.variant.distils:
            data = relabelled(data, trial.variant.labels, trial.seed)
        held_out = self.held_out
        if trial.variant.reads_teacher:
            data, held_out = (with_scores(rows, self.surface) for rows in (data, held_out))
        if trial.variant.vectors:
            read = self.vectors(trial.variant.vectors, trial.seed)
            data, held_out = (with_vectors(rows, read) for rows in (data, held_out))
        ranker, _ = fit(data, surface, technique=technique, seed=trial.seed)
        seconds = perf_counter() - began
        scores = predict(ranker, {name: held_out.inputs[name].numpy() for name in surface.inputs})
        return list(self.measure(scores)), seconds

    def teacher(self) -> list[Measured]:
        """Measure the teacher's own scores, for the tasks that it has a counterpart of."""
        outputs = {task: spec.teacher_output for task, spec in self.surface.tasks.items()}
        soft = self.held_out.soft_labels
        return list(self.measure({task: soft[output].numpy() for task, output in outputs.items() if output in soft}))

    def measure(self, scores: dict[str, np.ndarray]) -> Iterator[Measured]:
        """Yield the metrics of every task and slice of scores {task: [evaluation rows]}."""
        for task, spec in self.surface.tasks.items():
            if task not in scores:
                continue
            labels = self.held_out.labels[task].numpy().astype(np.float64)
            for name, mask in self.slices.items():
                rows = mask & np.isfinite(labels) & np.isfinite(scores[task])
                y, s, codes = labels[rows], scores[task][rows].astype(np.float64), self.weights.codes[rows]
                w = self.weights
                if spec.kind == "binary":
                    if not 0 < y.sum() < len(y):
                        continue
                    found = {
                        "log_loss": (metrics.log_loss(y, s), w.mean(codes, metrics.log_losses(y, s))),
                        "predicted_over_observed": (metrics.predicted_over_observed(y, s), w.ratio(codes, expit(s), y)),
                    }
                    positives = int(y.sum())
                    values = {"auc": (metrics.auc(y, s), w.auc(codes, y, s))}
                else:
                    if len(y) < 2:
                        continue
                    found = {
                        "r2": (metrics.r2(y, s), w.r2(codes, y, s)),
                        "r2_affine": (metrics.r2_affine(y, s), w.r2_affine(codes, y, s)),
                    }
                    positives, values = None, {}
                replicates = w.replicate([linear for _, linear in found.values()])
                values |= {name: (value, r) for (name, (value, _)), r in zip(found.items(), replicates, strict=True)}
                users = len(np.unique(codes))
                for metric, (value, drawn) in values.items():
                    yield Measured(task, name, metric, value, drawn, len(y), positives, users)


def trained_surface(trial: Trial, surface: Surface) -> Surface:
    """Return the surface as the variant and the condition of a trial change it."""
    return trial.condition.surface(trial.variant.surface(surface))


def thinned(data: Dataset, share: float, seed: int) -> Dataset:
    """Return a seeded share of the rows, in their order; the same rows for control and variants."""
    if share == 1:
        return data
    kept = np.flatnonzero(np.random.default_rng([seed, 23]).random(len(data)) < share)
    return data.select(torch.from_numpy(kept))


def with_scores(data: Dataset, surface: Surface) -> Dataset:
    """Return the data with the teacher's scores among its inputs; a missing one takes its input's default."""
    read = {score_input(output): data.soft_labels[output] for output in outputs_of(surface)}
    return replace(data, inputs=data.inputs | read)


@dataclass(frozen=True)
class Lagged:
    """Vectors of users or items, in the order of (id, day): what a row of a later day may read.

    Attributes:
        ids: int64 [n].
        days: int64 [n], days since 1970-01-01.
        vectors: float32 [n, d].
        window: Days after which a vector is too old, as in features.
    """

    ids: np.ndarray
    days: np.ndarray
    vectors: np.ndarray
    window: int

    def read(self, ids: np.ndarray, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 [m, d] and [m]: the latest vector of each id before its day, zeros where none is known."""
        keys = np.unique(self.ids)
        span = int(max(self.days.max(initial=0), days.max(initial=0))) + 1
        order = np.searchsorted(keys, self.ids) * span + self.days
        place = np.minimum(np.searchsorted(keys, ids), len(keys) - 1)
        found = np.searchsorted(order, place * span + days) - 1
        known = (found >= 0) & (self.ids[found] == ids) & (self.days[found] >= days - self.window)
        return np.where(known[:, None], self.vectors[found], np.float32(0)), known.astype(np.float32)


def lagged(lake: Lake, contract: Contract, name: str, entity: str, kind: Vectors, seed: int) -> Lagged:
    """Return the vectors of one embedding in a world's lake; ``kind`` other than ``as_is`` makes a placebo of them.

    A placebo is the same for an id on all days: the vectors of another id, or normal noise of their spread.
    """
    rows = lake.sql(
        f"select {entity} as id, day::date - date '1970-01-01' as day, vector from {ALIAS}.{VECTORS_TABLE} "
        "where teacher = ? and embedding = ? order by id, day",
        [contract.name, name],
    )
    ids, days = rows["id"].to_numpy(), rows["day"].to_numpy().astype(np.int64)
    vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
    keys, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    rng = np.random.default_rng([seed, 29])
    if kind == "shuffled":
        vectors = vectors[first[rng.permutation(len(keys))]][inverse]
    elif kind == "noise":
        spread = vectors.std(axis=0, keepdims=True)
        vectors = (rng.standard_normal((len(keys), vectors.shape[1])).astype(np.float32) * spread)[inverse]
    return Lagged(ids, days, vectors, lake.settings.feature_window_days)


def with_vectors(data: Dataset, read: dict[str, Lagged]) -> Dataset:
    """Return the data with the vectors of user and item among its inputs: those of the days before each row's."""
    found: dict[str, torch.Tensor] = {}
    for entity, vectors in read.items():
        ids = data.user_id if entity == "user" else data.inputs["item_id"]
        values, known = vectors.read(ids.numpy(), data.day.numpy().astype(np.int64))
        found[f"teacher_{entity}_vector"] = torch.from_numpy(values)
        found[f"teacher_{entity}_known"] = torch.from_numpy(known)
    return replace(data, inputs=data.inputs | found)


def relabelled(data: Dataset, labels: Labels, seed: int) -> Dataset:
    """Return the data with other soft labels; see ``Labels``. All outputs of a row stay together.

    Pairs that nobody was shown are treated alike, among themselves.
    """
    if labels == "as_is":
        return data
    if labels == "shuffled":
        return shuffle_soft_labels(data, seed)
    if data.unshown:
        pairs = replace(data.unshown, rows=relabelled(data.unshown.rows, labels, seed))
        return replace(relabelled(replace(data, unshown=None), labels, seed), unshown=pairs)
    rng = np.random.default_rng([seed, 17])
    n = len(data)
    if labels == "noise":
        soft = {
            name: torch.where(label.isnan(), label, torch.from_numpy(rng.standard_normal(n).astype(np.float32)))
            for name, label in data.soft_labels.items()
        }
        return replace(data, soft_labels=soft)
    key = data.inputs["item_id" if labels == "within_item" else "user_id"].numpy()
    group = np.lexsort((rng.random(n), key, data.day.numpy()))
    place = np.lexsort((np.arange(n), key, data.day.numpy()))
    order = np.empty(n, dtype=np.int64)
    order[place] = group
    at = torch.from_numpy(order)
    return replace(data, soft_labels={name: label[at] for name, label in data.soft_labels.items()})


def trial_rows(trial: Trial, identity: str, measured: list[Measured], seconds: float) -> pa.Table:
    """Return the lake rows of a trial, one per task and slice."""
    rows: list[dict[str, object]] = [
        {
            "trial": identity,
            "preset": trial.world.preset,
            "world": trial.world.seed,
            "world_config": trial.world.model_dump_json(),
            "condition": trial.condition.label,
            "surface": trial.surface,
            "arm": trial.variant.name,
            "variant_config": describe(trial.variant),
            "seed": trial.seed,
            "task": m.task,
            "slice": m.slice,
            "metric": m.metric,
            "value": m.value,
            "replicates": m.replicates.tolist(),
            "n": m.n,
            "positives": m.positives,
            "users": m.users,
            "seconds": seconds,
        }
        for m in measured
    ]
    return pa.Table.from_pylist(rows, schema=TRIALS_SCHEMA)


def describe(variant: Variant) -> str:
    """Return a variant as JSON."""
    return json.dumps(asdict(variant), sort_keys=True)


TRIALS_SCHEMA = pa.schema(
    [
        ("trial", pa.string()),
        ("preset", pa.string()),
        ("world", pa.int64()),
        ("world_config", pa.string()),
        ("condition", pa.string()),
        ("surface", pa.string()),
        ("arm", pa.string()),
        ("variant_config", pa.string()),
        ("seed", pa.int64()),
        ("task", pa.string()),
        ("slice", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("replicates", pa.list_(pa.float64())),
        ("n", pa.int64()),
        ("positives", pa.int64()),
        ("users", pa.int64()),
        ("seconds", pa.float64()),
    ]
)

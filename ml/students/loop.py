"""The training loop: passes over the fitting days until the validation days stop improving, then the newest days."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ml.distillation.technique import Activations, masked_cross_entropy, masked_mean_square
from ml.students.checkpoint import write_atomically
from ml.students.measure import Metrics, task_metrics
from ml.students.network import Ranker
from ml.students.optimizer import Recipe, build_optimizer
from ml.students.unshown_batches import UnshownBatches
from ml.students.vocabulary import UNKNOWN_ROW

Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps at most, mean loss so far in this pass)."""

_UNKNOWN_SEED = 2
_REPORTS = 50
_CHUNK = 8_192
_DRAWN = 65_536
"""Rows for which forgotten ids are drawn at once; another number is another draw."""
_BEST = "best."


class DivergedError(ValueError):
    """A training whose loss is not finite; the message names the surface."""


@dataclass(frozen=True)
class Batches:
    """Preprocessed rows on the device that trains, in the order of time; a batch is a slice.

    Attributes:
        rows: Embedding rows, int64 [n, ids].
        dense: Standardised numbers, float32 [n, width].
        labels: {task: [n]}, NaN where masked.
        soft_labels: {teacher output: [n]}, NaN where missing.
        users: User of each row, int64 [n].
        unshown: Pairs beside these rows that nobody was shown, for the branch alone; None where there are none.
    """

    rows: Tensor
    dense: Tensor
    labels: dict[str, Tensor]
    soft_labels: dict[str, Tensor]
    users: Tensor
    unshown: UnshownBatches | None = None

    def part(self, rows: slice) -> "Batches":
        """Return a slice of the rows."""
        return Batches(
            rows=self.rows[rows],
            dense=self.dense[rows],
            labels={name: label[rows] for name, label in self.labels.items()},
            soft_labels={name: label[rows] for name, label in self.soft_labels.items()},
            users=self.users[rows],
            unshown=self.unshown and self.unshown.part(rows),
        )


@dataclass(frozen=True)
class Point:
    """A ranker after a pass, judged on the validation days.

    Attributes:
        steps: Steps so far.
        loss: Of the tasks on the validation days, weights included.
        metrics: {task: metrics on the validation days}.
    """

    steps: int
    loss: float
    metrics: dict[str, Metrics]


@dataclass(frozen=True)
class Course:
    """What a training did.

    Attributes:
        steps: Steps behind the weights that were kept, those over the validation days included.
        passes: Passes over the days before, of which the weights were kept; 1 is the first.
        points: One per pass that was tried; none where there were too few days to hold any out.
        losses: Mean losses of tasks and of distillation heads over the kept pass, weights included.
        batch_size: Rows of a step.
        learning_rate: Of the layers at the first step of a pass.
        embedding_learning_rate: Of the embedding tables.
    """

    steps: int
    passes: int
    points: tuple[Point, ...]
    losses: tuple[float, float]
    batch_size: int
    learning_rate: float
    embedding_learning_rate: float

    def to_json(self) -> dict[str, object]:
        """Return what a checkpoint says about it."""
        return asdict(self)


def task_loss(ranker: Ranker, outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    r"""Return the weighted sum of the tasks' losses, a scalar.

    .. math:: L = \sum_t w_t \frac{1}{|P_t|} \sum_{i \in P_t} \ell_t(o_{t,i}, y_{t,i})

    with binary cross-entropy or square error, over the rows P that have the label.

    Args:
        ranker: Gives kinds and weights.
        outputs: {task: logit or value [n]}.
        labels: {task: [n]}, NaN where masked.
    """
    total = next(iter(outputs.values())).new_zeros(())
    for name, task in ranker.surface.tasks.items():
        loss_of = masked_mean_square if task.kind == "regression" else masked_cross_entropy
        total = total + task.weight * loss_of(outputs[name], labels[name])
    return total


def training_step(ranker: Ranker, optimizer: torch.optim.Optimizer, batch: Batches) -> tuple[Tensor, Tensor]:
    """Learn one batch; return the losses of tasks and distillation, weights included, two scalars."""
    optimizer.zero_grad(set_to_none=True)
    activations = ranker.activations(batch.rows, batch.dense)
    hard = task_loss(ranker, dict(activations.outputs), batch.labels)
    soft = hard.new_zeros(())
    if ranker.distillation is None:
        hard.backward()
    else:
        soft = ranker.distillation.loss(*_with_unshown(ranker, activations, batch))
        ranker.distillation.backward(hard, soft, ranker)
    optimizer.step()
    return hard.detach(), soft.detach()


def _with_unshown(
    ranker: Ranker, activations: Activations, batch: Batches
) -> tuple[Activations, dict[str, Tensor], Tensor]:
    """Return what the heads on the branch learn a batch from: its rows, and the pairs beside them after those."""
    pairs = batch.unshown
    if pairs is None or ranker.branch is None:
        return activations, batch.soft_labels, batch.users
    interaction = torch.cat([activations.interaction, ranker.branch(*pairs.whole())])
    soft = {name: torch.cat([label, pairs.soft_labels[name]]) for name, label in batch.soft_labels.items()}
    return replace(activations, interaction=interaction), soft, torch.cat([batch.users, pairs.users])


class Loop:
    r"""Passes over the rows before the validation days, in the order of time, and last one over the validation days.

    The learning rates fall within each pass as if it went on through the validation days, and start again with the next
    (warm restarts, "SGDR", arXiv 1608.03983), so that each pass ends with a ranker that could serve. After each the
    validation days are scored as days never seen: ids that only they have are unknown. When ``patience`` passes have
    not lowered the loss of the tasks there, the weights of the best pass are kept, and learn the validation days too:
    the newest days are worth most to a ranker.

    Args:
        ranker: On the device that trains.
        batches: All rows.
        held_from: First row of the validation days; n where none are held out, and then all ``epochs`` passes are made.
        recipe: Batch size, learning rates, passes at most.
        seed: Seed of the ids that are forgotten.
        progress: Told how far it is.
        snapshots: Where to keep and find snapshots of this run.
    """

    def __init__(
        self,
        ranker: Ranker,
        batches: Batches,
        held_from: int,
        recipe: Recipe,
        seed: int,
        progress: Progress | None,
        snapshots: "Snapshots | None",
    ) -> None:
        self.ranker, self.batches, self.held_from = ranker, batches, held_from
        self.recipe, self.seed = recipe, seed
        self.optimizer = build_optimizer(ranker, recipe)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.sums = torch.zeros(2, device=batches.rows.device)
        self.per_pass, self.newest_steps = (
            -(-rows // recipe.batch_size) for rows in (held_from, len(batches.rows) - held_from)
        )
        self.at_most = recipe.epochs * self.per_pass + self.newest_steps
        self.progress, self.snapshots = progress, snapshots
        self.place = Place()
        self.best: dict[str, Tensor] = {}

    def run(self) -> Course:
        """Train to the end, from the snapshot of this run if there is one.

        Raises:
            DivergedError: The loss is not finite.
        """
        if self.snapshots:
            self._restore(self.snapshots)
        self.ranker.train()
        while not self.place.newest:
            self._learn(self.per_pass)
            self._judge()
        self._learn(self.per_pass + self.newest_steps)
        hard, soft = (self.sums / max(self.place.index, 1)).tolist()
        self._check(hard + soft)
        return Course(
            steps=self.place.kept * self.per_pass + self.newest_steps,
            passes=self.place.kept,
            points=tuple(self.place.points),
            losses=(hard, soft),
            batch_size=self.recipe.batch_size,
            learning_rate=self.recipe.learning_rate,
            embedding_learning_rate=self.recipe.embedding_learning_rate,
        )

    def _learn(self, end: int) -> None:
        """Do the steps of this pass up to ``end``; those from ``per_pass`` on learn the validation days."""
        place, n, size = self.place, len(self.batches.rows), self.recipe.batch_size
        if place.index >= end:
            return
        report_every = max(1, self.at_most // _REPORTS)
        share = self.recipe.unknown_share
        epoch = place.kept - 1 if place.newest else place.epoch
        rows = Forgetting(self.batches.rows, share, seed_of(self.seed, _UNKNOWN_SEED, epoch))
        if place.index == 0:
            self.sums.zero_()
        while place.index < end:
            if place.index < self.per_pass:
                start, stop = place.index * size, min((place.index + 1) * size, self.held_from)
            else:
                start = self.held_from + (place.index - self.per_pass) * size
                stop = min(start + size, n)
            self._set_rates(remaining_rate(place.index, self.per_pass + self.newest_steps, self.recipe.final_rate))
            part = slice(start, stop)
            hard, soft = training_step(
                self.ranker, self.optimizer, replace(self.batches.part(part), rows=rows.part(part))
            )
            self.sums[0] += hard
            self.sums[1] += soft
            place.index += 1
            done = place.epoch * self.per_pass + place.index
            if self.snapshots and self.snapshots.due(done) and not (place.newest and place.index == end):
                self.snapshots.write(self._state(), self.best, place)
            if self.progress and (done % report_every == 0 or place.index == end):
                self.progress(done, self.at_most, float(self.sums.sum()) / place.index)

    def _judge(self) -> None:
        """After a pass: score the validation days, and go on with the next pass or with the newest days."""
        place, recipe = self.place, self.recipe
        self._check(float(self.sums.sum()))
        if self.held_from < len(self.batches.rows):
            place.points.append(self._point())
            losses = [point.loss for point in place.points]
            place.kept = 1 + losses.index(min(losses))
            last = len(losses) - place.kept >= recipe.patience or len(losses) == recipe.epochs
        else:
            place.kept = place.epoch + 1
            last = place.kept == recipe.epochs
        is_best = place.kept == place.epoch + 1
        if not last:
            if is_best:
                self.best = {name: tensor.detach().clone() for name, tensor in self._state().items()}
            place.epoch, place.index = place.epoch + 1, 0
            return
        if not is_best:
            self._put_back(self.best)
        place.newest, self.best = True, {}
        if self.progress and self.newest_steps == 0:
            self.progress(self.at_most, self.at_most, float(self.sums.sum()) / place.index)

    def _point(self) -> Point:
        """Return the loss and the metrics of the validation days."""
        held = slice(self.held_from, None)
        batches, ranker = self.batches.part(held), self.ranker
        rows = unknown_if_unseen(self.batches.rows[: self.held_from], batches.rows)
        ranker.eval()
        with torch.inference_mode():
            parts = [
                ranker.activations(rows[at : at + _CHUNK], batches.dense[at : at + _CHUNK]).outputs
                for at in range(0, len(rows), _CHUNK)
            ]
            outputs = {task: torch.cat([part[task] for part in parts]) for task in ranker.surface.tasks}
            loss = float(task_loss(ranker, outputs, batches.labels))
        ranker.train()
        self._check(loss)
        scores = {task: values.cpu().numpy() for task, values in outputs.items()}
        labels = {task: label.cpu().numpy() for task, label in batches.labels.items()}
        steps = (self.place.epoch + 1) * self.per_pass
        return Point(steps, loss, task_metrics(ranker.surface, scores, labels))

    def _check(self, loss: float) -> None:
        if not np.isfinite(loss):
            raise DivergedError(f"surface {self.ranker.surface.name}: training loss became {loss}")

    def _set_rates(self, share: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share

    def _state(self) -> dict[str, Tensor]:
        """Return all that a step changes, not copied."""
        tensors = {f"parameter.{name}": parameter.detach() for name, parameter in self.ranker.named_parameters()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        return tensors | {"sums": self.sums}

    def _put_back(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, parameter in self.ranker.named_parameters():
                parameter.copy_(tensors[f"parameter.{name}"])
            self.sums.copy_(tensors["sums"])
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, entry = name.split(".")
                state.setdefault(int(index), {})[entry] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _restore(self, snapshots: "Snapshots") -> None:
        found = snapshots.read()
        if found is None:
            return
        tensors, self.place = found
        device = self.sums.device
        self.best = {
            name.removeprefix(_BEST): tensor.to(device) for name, tensor in tensors.items() if name.startswith(_BEST)
        }
        self._put_back({name: tensor for name, tensor in tensors.items() if not name.startswith(_BEST)})


@dataclass
class Place:
    """How far a training is.

    Attributes:
        epoch: Passes before this one.
        index: Steps of this pass.
        newest: Whether it learns the validation days.
        kept: Pass with the least loss so far, 1 is the first; 0 before any ended.
        points: One per pass that ended.
    """

    epoch: int = 0
    index: int = 0
    newest: bool = False
    kept: int = 0
    points: list[Point] = field(default_factory=list)

    @classmethod
    def from_json(cls, text: str) -> "Place":
        """Read what ``json.dumps`` made of its fields."""
        content = json.loads(text)
        return cls(**content | {"points": [Point(**point) for point in content["points"]]})


class Snapshots:
    """The state of a run on disk, so that a killed run goes on to the same bytes.

    Args:
        path: File of the newest snapshot.
        identity: Digest of everything that determines the run; a snapshot of another run is ignored.
        every: Steps between snapshots.
    """

    def __init__(self, path: Path, *, identity: str, every: int) -> None:
        self.path = path
        self.identity = identity
        self.every = every

    def due(self, step: int) -> bool:
        """Tell whether a snapshot is due after so many steps."""
        return step % self.every == 0

    def write(self, state: Mapping[str, Tensor], best: Mapping[str, Tensor], place: Place) -> None:
        """Write what a run goes on from: its tensors, those of its best pass, and its place."""
        tensors = {**state, **{_BEST + name: tensor for name, tensor in best.items()}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = save(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"identity": self.identity, "place": json.dumps(asdict(place))},
        )
        write_atomically(self.path, content)

    def read(self) -> tuple[dict[str, Tensor], Place] | None:
        """Return tensors and place of this run's snapshot; None without one."""
        if not self.path.exists():
            return None
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("identity") != self.identity or "place" not in metadata:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return tensors, Place.from_json(metadata["place"])

    def clear(self) -> None:
        """Delete the snapshot."""
        self.path.unlink(missing_ok=True)


def remaining_rate(step: int, steps: int, final_rate: float) -> float:
    """Return the share of the learning rates at ``step`` of ``steps``: 1 at the first, ``final_rate`` at the last."""
    return 1.0 - (1.0 - final_rate) * step / max(steps - 1, 1)


class Forgetting:
    """Embedding rows with a seeded share of them set to 0, so that the unknown vectors are learnt.

    What is forgotten is drawn as far as it is asked for; it is the same in whatever parts that is.

    Args:
        rows: Embedding rows, int64 [n, ids].
        share: Share that is forgotten.
        seed: Seed of the draw.
    """

    def __init__(self, rows: Tensor, share: float, seed: int) -> None:
        self._rows, self._share, self._seed = rows, share, seed
        self._drawn = -1
        self._kept = torch.empty(0)
        self._generator = torch.Generator()

    def part(self, rows: slice) -> Tensor:
        """Return a slice of the rows, int64 [m, ids]; one that lies before the last is drawn again from the first."""
        part = self._rows[rows]
        if self._share == 0.0:
            return part
        start, stop, _ = rows.indices(len(self._rows))
        kept = [
            self._mask(block)[max(start - block * _DRAWN, 0) : stop - block * _DRAWN]
            for block in range(start // _DRAWN, -(-stop // _DRAWN))
        ]
        return part * torch.cat(kept).to(part.device)

    def _mask(self, block: int) -> Tensor:
        """Return which rows of a block are kept, bool [m, ids]."""
        if block < self._drawn:
            self._drawn = -1
        if self._drawn < 0:
            self._generator.manual_seed(self._seed)
        while self._drawn < block:
            self._drawn += 1
            shape = self._rows[self._drawn * _DRAWN : (self._drawn + 1) * _DRAWN].shape
            self._kept = torch.rand(shape, generator=self._generator) >= self._share
        return self._kept


def unknown_if_unseen(seen: Tensor, rows: Tensor) -> Tensor:
    """Return embedding rows [n, ids], those that are not in the same column of ``seen`` [m, ids] set to unknown."""
    most = 1 + max((int(part.max()) for part in (seen, rows) if part.numel()), default=0)
    known = torch.zeros((rows.shape[1], most), dtype=torch.bool, device=rows.device)
    for part in seen.split(_CHUNK):
        known.scatter_(1, part.T, True)
    return torch.where(known.gather(1, rows.T).T, rows, UNKNOWN_ROW)


def seed_of(*parts: int) -> int:
    """Return the seed of a purpose, told apart by numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))

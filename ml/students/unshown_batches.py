"""Pairs that nobody was shown, as a student's branch reads them: beside the exposures that lent them their user."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ml.students.dataset import Dataset
from ml.students.preprocessing import Preprocessing
from ml.surfaces.spec import Surface

_CHUNK = 16_384


@dataclass(frozen=True)
class UnshownBatches:
    """Pairs on the device that trains; of their inputs, only what the branch reads is held.

    Attributes:
        rows: Embedding rows of the branch's ids, int64 [m, places].
        dense: Standardised numbers of its vectors, float32 [m, columns].
        places: Which ids these are of all, int64 [places].
        columns: Which columns of the dense matrix, int64 [columns].
        widths: All ids, and all columns.
        soft_labels: {teacher output: [m]}, NaN where missing.
        users: int64 [m].
        starts: The first pair of each of n exposures, and m, int64 [n + 1] on the CPU.
    """

    rows: Tensor
    dense: Tensor
    places: Tensor
    columns: Tensor
    widths: tuple[int, int]
    soft_labels: dict[str, Tensor]
    users: Tensor
    starts: Tensor

    def part(self, rows: slice) -> "UnshownBatches":
        """Return the pairs of a slice of the exposures."""
        first, last, _ = rows.indices(len(self.starts) - 1)
        own = slice(int(self.starts[first]), int(self.starts[last]))
        return replace(
            self,
            rows=self.rows[own],
            dense=self.dense[own],
            soft_labels={name: label[own] for name, label in self.soft_labels.items()},
            users=self.users[own],
            starts=self.starts[first : last + 1] - self.starts[first],
        )

    def whole(self) -> tuple[Tensor, Tensor]:
        """Return embedding rows [m, ids] and the dense matrix [m, width], 0 where the branch does not look."""
        rows = self.rows.new_zeros((len(self.rows), self.widths[0]))
        dense = self.dense.new_zeros((len(self.dense), self.widths[1]))
        rows[:, self.places], dense[:, self.columns] = self.rows, self.dense
        return rows, dense


def prepare_unshown(
    preprocessing: Preprocessing, surface: Surface, data: Dataset, device: torch.device
) -> UnshownBatches | None:
    """Look up every id of the pairs and standardise their vectors, with flat memory; None where there are none."""
    if data.unshown is None:
        return None
    inputs, pairs = surface.inputs, data.unshown.rows
    read = {name for pair in surface.network.products for name in pair}
    places = torch.tensor([at for at, name in enumerate(preprocessing.ids) if name in read], dtype=torch.int64)
    slices = [at for name, at in preprocessing.slices.items() if name in read]
    columns = torch.cat([torch.arange(at.start, at.stop) for at in slices] or [torch.zeros(0, dtype=torch.int64)])
    rows, dense = [], []
    for start in range(0, len(pairs), _CHUNK):
        part = {name: column[start : start + _CHUNK] for name, column in pairs.inputs.items()}
        count = min(_CHUNK, len(pairs) - start)
        absent = {
            name: torch.zeros((count, *spec.shape), dtype=torch.int64 if spec.dtype == "int64" else torch.float32)
            for name, spec in inputs.items()
            if name not in part
        }
        found_rows, found_dense = preprocessing(part | absent)
        rows.append(found_rows[:, places])
        dense.append(found_dense[:, columns])
    return UnshownBatches(
        rows=torch.cat(rows).to(device),
        dense=torch.cat(dense).to(device),
        places=places.to(device),
        columns=columns.to(device),
        widths=(len(preprocessing.ids), preprocessing.width),
        soft_labels={name: label.to(device) for name, label in pairs.soft_labels.items()},
        users=pairs.user_id.to(device),
        starts=torch.searchsorted(data.unshown.of, torch.arange(len(data) + 1)),
    )

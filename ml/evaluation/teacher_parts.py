r"""What a teacher's logits differ by: the user, the item, or which user meets which item; and which technique fits.

For logits :math:`t_{ui} = \mu + a_u + b_i + c_{ui}`, averaged over the rows of a pair, the differences within a user
hold no :math:`a`, those within an item no :math:`b`:

.. math:: \sigma_a^2 = V - V_{\text{user}}, \quad \sigma_b^2 = V - V_{\text{item}}, \quad
          \sigma_c^2 = V - \sigma_a^2 - \sigma_b^2, \quad
          V_{\text{user}} = \frac{\sum_u \sum_i (t_{ui} - \bar t_u)^2}{\sum_u (n_u - 1)}

with V the variance over all pairs. The variance of the users' means would not do: with few rows a user, most of it is
what happened to be shown. Henderson, "Estimation of Variance and Covariance Components", Biometrics 9 (1953). The part
of the pair holds what differs by context too.
"""

from dataclasses import dataclass
from math import nan

import numpy as np

from ml.students.dataset import Dataset
from ml.students.train import centre_soft_labels
from ml.surfaces.learning import DistillationHead
from ml.surfaces.spec import Surface

MOST = 0.5
"""Share of a teacher's variance from which on it is mainly that; and below which a setting took most of it away."""


@dataclass(frozen=True)
class TeacherParts:
    """What one output of the teacher differs by over the training rows.

    Attributes:
        output: Teacher output.
        deviation: Standard deviation of its logits.
        user: Share of their variance that is the user's level, NaN where the output is constant.
        item: The item's level.
        pair: Which user meets which item, and the context.
        centre_by: What the surface centres it by.
        kept: Share of the variance that centring leaves.
        technique: The technique to try first.
        centre: What to centre by with it.
    """

    output: str
    deviation: float
    user: float
    item: float
    pair: float
    centre_by: str | None
    kept: float
    technique: str
    centre: str | None

    @property
    def warning(self) -> str:
        """What the surface's setting takes away, or an empty text."""
        if self.centre_by is None or not self.kept < MOST:
            return ""
        return (
            f"centre_by: {self.centre_by} takes {100 * (1 - self.kept):.0f} % of what the teacher's {self.output} says "
            f"(deviation {self.deviation:.3g} to {self.deviation * self.kept**0.5:.3g}): leave it out"
        )

    @property
    def advice(self) -> str:
        """Which technique fits what it knows, as one clause."""
        if np.isnan(self.pair):
            return "says the same of every row: there is nothing to learn"
        knows = max((self.user, "users"), (self.item, "items"), (self.pair, "who likes what"))[1]
        centred = f", `centre_by: {self.centre}`" if self.centre else ", not centred"
        return f"knows mostly {knows}: try `{self.technique}`{centred}"


def teacher_parts(data: Dataset, surface: Surface) -> tuple[TeacherParts, ...]:
    """Split the variance of every output that a head learns; none where the surface has no id of a candidate.

    Args:
        data: Training rows with soft labels.
        surface: Heads, and what centres them.
    """
    items = [name for name, spec in surface.inputs.items() if spec.type == "id" and spec.per_candidate]
    if not items:
        return ()
    users, item = data.user_id.numpy(), data.inputs[items[0]].numpy()
    centred = centre_soft_labels(data, surface).soft_labels
    found: list[TeacherParts] = []
    for head in {head.teacher_output: head for head in surface.distillation.heads}.values():
        if head.teacher_output not in data.soft_labels:
            continue
        logits = data.soft_labels[head.teacher_output].numpy().astype(np.float64)
        known = ~np.isnan(logits)
        left = centred[head.teacher_output].numpy().astype(np.float64)[known]
        found.append(_parts(head, surface, logits[known], left, users[known], item[known]))
    return tuple(found)


def shares(logits: np.ndarray, users: np.ndarray, items: np.ndarray) -> tuple[float, float, float]:
    """Return the shares of user, item and pair in the variance of logits [n]; NaN where they are constant.

    Args:
        logits: Finite, [n].
        users: User of each row [n].
        items: Item of each row [n].
    """
    pairs, codes = np.unique(np.stack([users, items]), axis=1, return_inverse=True)
    values = np.bincount(codes, weights=logits) / np.bincount(codes) if len(logits) else logits
    if len(values) < 2 or values.var() <= 1e-12 * max(1.0, float(np.square(values).mean())):
        return nan, nan, nan
    total = float(values.var(ddof=1))
    of_user, of_item = (max(0.0, total - _within(values, ids)) for ids in pairs)
    rest = max(0.0, total - of_user - of_item)
    whole = of_user + of_item + rest
    return of_user / whole, of_item / whole, rest / whole


def _within(values: np.ndarray, ids: np.ndarray) -> float:
    """Return the pooled variance within ids; that of all where no id has two values."""
    _, codes, counts = np.unique(ids, return_inverse=True, return_counts=True)
    if not (counts > 1).any():
        return float(values.var(ddof=1))
    means = np.bincount(codes, weights=values) / counts
    return float(np.square(values - means[codes]).sum() / (counts - 1).sum())


def _parts(
    head: DistillationHead,
    surface: Surface,
    logits: np.ndarray,
    left: np.ndarray,
    users: np.ndarray,
    items: np.ndarray,
) -> TeacherParts:
    user, item, pair = shares(logits, users, items)
    spread = float(logits.var()) if len(logits) else 0.0
    taught = "interaction" if surface.network.interaction else "auxiliary"
    mostly_pairs = pair >= max(user, item)
    # A level of the user is the sister platform's: it goes where enough is left to learn from without it.
    centre = "user_id" if mostly_pairs and 0.1 < user < MOST and "user_id" in surface.inputs else None
    return TeacherParts(
        output=head.teacher_output,
        deviation=spread**0.5,
        user=user,
        item=item,
        pair=pair,
        centre_by=head.centre_by,
        kept=float(left.var()) / spread if spread > 0 else nan,
        technique=taught if mostly_pairs else "auxiliary",
        centre=centre,
    )

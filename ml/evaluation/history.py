"""Slices by how much there was to learn of a user: a teacher may help those with few rows and cost the rest."""

import numpy as np

HISTORY_SLICES = ("few_training_rows", "some_training_rows", "many_training_rows")
"""The thirds of the users by their number of training rows."""


def history_slices(users: np.ndarray, training_rows: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Cut users into thirds by how many training rows each has; equal numbers stay together.

    Args:
        users: User of each row [n].
        training_rows: Training rows of that user [n].

    Returns:
        {slice: mask [n]} of the thirds that hold users but not all of them, and {slice: numbers of its users}.
    """
    if len(users) == 0:
        return {}, {}
    _, first = np.unique(users, return_index=True)
    cuts = np.quantile(training_rows[first], [1 / 3, 2 / 3], method="lower")
    third = np.searchsorted(cuts, training_rows, side="left")
    masks = {name: third == place for place, name in enumerate(HISTORY_SLICES)}
    masks = {name: mask for name, mask in masks.items() if mask.any() and not mask.all()}
    ends = {name: (training_rows[mask].min(), training_rows[mask].max()) for name, mask in masks.items()}
    return masks, {name: f"{low:,} to {high:,}" if high > low else f"{low:,}" for name, (low, high) in ends.items()}

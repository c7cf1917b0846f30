"""How far two models' scores and rankings of the same rows lie apart."""

import numpy as np

BINS = 10

_LEAST_SHARE = 1e-4


def psi(reference: np.ndarray, scores: np.ndarray, bins: int = BINS) -> float:
    r"""Return the population stability index of ``scores`` [m] against ``reference`` [n].

    .. math:: \sum_b (q_b - p_b) \ln(q_b / p_b)

    over bins of equal mass in the reference, with its shares p and the scores' shares q, neither below 1e-4. Below 0.1
    is usually called stable, above 0.25 a shift. Ties share a bin. Any monotone map of both leaves it as it is.

    Source: Siddiqi, "Credit Risk Scorecards" (2005); Yurdakul and Naranjo, J. Risk Model Validation 14 (2020).
    """
    edges = np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1])
    shares = [
        np.clip(np.bincount(np.searchsorted(edges, values), minlength=bins) / len(values), _LEAST_SHARE, None)
        for values in (reference, scores)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def top_overlap(reference: np.ndarray, scores: np.ndarray, groups: np.ndarray, top: int) -> tuple[float, int]:
    """Return the mean share of a group's ``top`` rows that both orders have in common, and the number of groups.

    Args:
        reference: Score [n]; higher ranks first, equal ones in the order of the rows.
        scores: Score [n] to compare.
        groups: Group of each row [n]; those with fewer than two rows per place are left out.
        top: Places that count.

    Returns:
        The mean in [0, 1], NaN without a group, and the groups that counted.
    """
    _, code, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    best = [_is_top(values, code, top) for values in (reference, scores)]
    common = np.bincount(code, weights=best[0] & best[1], minlength=len(sizes)) / top
    counted = sizes >= 2 * top
    return (float(common[counted].mean()) if counted.any() else float("nan")), int(counted.sum())


def _is_top(scores: np.ndarray, code: np.ndarray, top: int) -> np.ndarray:
    order = np.lexsort((np.arange(len(scores)), -scores, code))
    sorted_code = code[order]
    first = np.r_[True, sorted_code[1:] != sorted_code[:-1]]
    place = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    found = np.empty(len(order), dtype=bool)
    found[order] = place < top
    return found

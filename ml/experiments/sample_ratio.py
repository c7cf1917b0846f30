"""Whether the users of an experiment were split as they should have been.

A split that is off by more than luck means that users of one variant were lost, logged twice or sent elsewhere, and
then no figure of the experiment says what the variant did. The test counts users, not requests: a variant that people
like has more requests.

Source: Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD 2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import chisquare

REFUSED_BELOW = 0.001
"""p-value below which a split is called wrong: looked at daily, such a test must not cry wolf."""


@dataclass(frozen=True)
class SampleRatio:
    """How users were split.

    Attributes:
        users: Users of each variant; those who met several are in none.
        shares: Share of the users that each should have, summing to 1.
        p: Of a split at least as far from the shares, by luck.
        in_both: Users who met more than one variant.
    """

    users: dict[str, int]
    shares: dict[str, float]
    p: float
    in_both: int

    @property
    def refused(self) -> bool:
        """Whether the split is wrong, so that no figure counts."""
        return self.p < REFUSED_BELOW

    def __str__(self) -> str:
        """Say the counts, what was meant, and where the split is wrong what to do."""
        total = sum(self.users.values())
        counts = ", ".join(
            f"{name} {count:,} ({count / max(total, 1):.2%} of {self.shares[name]:.2%} meant)"
            for name, count in self.users.items()
        )
        both = f"; {self.in_both:,} more met several variants and count in no daily look" if self.in_both else ""
        if not self.refused:
            return f"users as split: {counts}; p = {self.p:.3f}{both}"
        return (
            f"SAMPLE RATIO MISMATCH, no figure counts: {counts}; p = {self.p:.1g}{both}. Find who lost, doubled or "
            "moved users; if other shares were meant, name them in the surface's YAML under `experiment: shares`"
        )


def sample_ratio(users: Mapping[str, int], shares: Mapping[str, float] | None = None, in_both: int = 0) -> SampleRatio:
    """Compare the users of each variant with the shares that were meant, by a chi-square test.

    Args:
        users: Users of each variant, two variants or more.
        shares: Share of the users that each variant should have; even without it. Any positive numbers.
        in_both: Users who met more than one variant, to be reported.

    Raises:
        ValueError: ``shares`` names other variants.
    """
    shares = dict.fromkeys(users, 1.0) if shares is None else shares
    if set(shares) != set(users):
        raise ValueError(f"experiment: shares of {sorted(shares)}, but users met {sorted(users)}; name these variants")
    total, whole = sum(users.values()), sum(shares.values())
    meant = {name: shares[name] / whole for name in users}
    # Where each user met several variants, nothing is left that was split.
    p = float(chisquare(list(users.values()), [total * share for share in meant.values()]).pvalue) if total else 0.0
    return SampleRatio(dict(users), meant, p, in_both)

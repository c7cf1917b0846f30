"""Who moves what serves, and why: words that a reader of the history can see."""

import unicodedata

from ml.releases.refusals import PromotionRefused, Refusal

MAX_LENGTH = 2_000
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"
"""Letters by category that print as a space."""
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that show others in another order than they are written."""


def require_named(*, by: str, reason: str) -> None:
    """Refuse a name or a reason that prints nothing, or prints as something else than it is.

    Raises:
        PromotionRefused: One of them has no letter and no digit, or has characters that cannot be seen.
    """
    for what, text in (("name", by), ("reason", reason)):
        if not any(unicodedata.category(c)[0] in "LN" and c not in _BLANK_LETTERS for c in text):
            raise PromotionRefused(Refusal.UNNAMED, f"the {what} {text!a} prints nothing: give a {what}")
        if hidden := [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") or c in _TURNING]:
            told = f"the {what} {text[:100]!a} holds {hidden[0]!a}, which cannot be seen"
            raise PromotionRefused(Refusal.UNNAMED, told)
        if len(text) > MAX_LENGTH:
            told = f"the {what} has {len(text):,} characters; at most {MAX_LENGTH:,} are kept"
            raise PromotionRefused(Refusal.UNNAMED, told)

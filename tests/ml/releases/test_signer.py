"""Who moves what serves, and why, can be read."""

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest

from ml.evaluation.outcome import Outcome
from ml.releases.recovery import recover
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.verdicts import Override


def _refused(code: Refusal):
    return pytest.raises(PromotionRefused, match=f"^{code}: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "blank",
    [
        "",
        " ",
        "\u200b",
        "\u2800",
        "\u3164",
        "\u00ad\u2060",
        "\ufeff",
        "...",
        "\u0301",
        "a\u202eb",
        "a\x1b[2K",
        "x" * 3000,
    ],
)
def test_no_command_takes_a_name_or_a_reason_that_prints_nothing_or_something_else(shop, blank: str) -> None:
    shop.release(0)
    shop.release(1)
    store, candidate = shop.store, shop.candidate(2)
    shop.judge(candidate, Outcome.FAIL)
    before = store.history("homepage")
    commands: list[Callable[..., object]] = [
        lambda **signed: shop.promote(candidate, override=Override(**signed)),
        lambda **signed: shop.promote(candidate, **signed),
        partial(store.confirm, "homepage"),
        partial(store.rollback, "homepage"),
        partial(store.end_challenge, "homepage"),
        partial(recover, store, "homepage"),
    ]
    for command, (by, reason) in product(commands, ((blank, "because"), ("Ada", blank))):
        with _refused(Refusal.UNNAMED):
            command(by=by, reason=reason)
    assert store.history("homepage") == before


def test_names_of_any_script_sign(shop) -> None:
    shop.release(0)
    for by in ("Ada", "Zo\u00eb", "\u674e\u96f7", "\u0645\u0631\u06cc\u0645", "7"):
        assert shop.store.confirm("homepage", by=by, reason="looks right").by == by

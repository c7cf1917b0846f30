"""What the health sensor asks and decides: a champion that is not taken up for too long, and no other, goes back."""

import json
from dataclasses import replace

import pytest

from deploy.automation.health import overdue, unserved
from deploy.serving.run import serving
from tests.support.tiny_home import Home


@pytest.mark.slow
def test_a_champion_that_the_server_does_not_take_up_is_seen_and_late_after_its_patience(home: Home) -> None:
    home.publish()
    first = home.promote("homepage", 1)
    with serving(home.settings, poll_s=1000) as url:
        settings = home.settings.model_copy(update={"serve_url": url})
        assert unserved(settings) == []
        second = home.promote("homepage", 2)
        [missing] = unserved(settings)
    assert (missing.surface, missing.pointer.release) == ("homepage", second.release)
    assert missing.reason == f"it serves {first.release}"
    late, cursor = overdue([missing], None, now=1000.0, patience_s=600)
    assert late == []
    late, cursor = overdue([missing], cursor, now=1599.0, patience_s=600)
    assert late == []
    assert overdue([missing], cursor, now=1600.0, patience_s=600)[0] == [missing]
    _, cursor = overdue([], cursor, now=1650.0, patience_s=600)
    assert json.loads(cursor) == {}, "one that was served meanwhile begins anew"
    other = replace(missing, pointer=missing.pointer.model_copy(update={"number": 9}))
    assert overdue([other], json.dumps({"homepage 2": 0.0}), now=1600.0, patience_s=600)[0] == []


def test_a_server_that_is_down_serves_nothing_and_says_so(home: Home) -> None:
    home.promote("homepage", 1)
    [missing] = unserved(home.settings.model_copy(update={"serve_url": "http://127.0.0.1:9"}))
    assert missing.reason.startswith("it does not answer")

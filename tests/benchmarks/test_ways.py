"""The page of the way in is what its command measured, and has every kind of source and every framework."""

import json
from typing import get_args

from benchmarks.frameworks import FRAMEWORKS
from benchmarks.ways import DAYS, FORMS, MEASURED, PAGE, page_of
from ml.landing.sources import DatabaseType


def test_the_page_is_what_was_measured() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_of(json.loads(MEASURED.read_text(encoding="utf-8")))


def test_every_kind_of_source_landed_its_rows_but_the_bad_one_and_every_framework_agrees() -> None:
    record = json.loads(MEASURED.read_text(encoding="utf-8"))
    landed = {one["kind"]: one for one in record["sources"]["found"]}
    assert all(one["quarantined"] == 1 and one["rows"] == 1_440 * one["days"] for one in landed.values())
    assert landed["query, `postgres`"]["days"] == len(DAYS) == 30
    asked = {f"query, `{kind}`" for kind in get_args(DatabaseType)} - {"query, `mysql`"}
    assert landed.keys() == {"files in S3", *(f"files, `.{form}`" for form in FORMS), *asked}
    taught = {one["framework"]: one for one in record["teachers"]["found"]}
    assert taught.keys() == FRAMEWORKS.keys()
    assert max(one["apart"] for one in taught.values()) < 1e-4

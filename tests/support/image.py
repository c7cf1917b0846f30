"""The project as an image has it: its copied files alone, installed."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import yaml

from ml.foundation.quiet import QUIET
from tests.support.commands import ROOT

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
SERVICES = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
COPIED = [word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M) for word in line.split()[:-1]]


@dataclass(frozen=True)
class Installed:
    """An environment that the project is installed in, and the folder that it was installed from."""

    folder: Path
    programs: Path

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return the variables of a login: no path to this checkout, and nobody asked for quiet."""
        path = f"{self.programs}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(home), "CROSSFADE_HOME": str(home / "crossfade"), **more}

    def run(self, home: Path, *command: str, **more: str) -> str:
        """Run a command in the folder and return what it printed."""
        environment = self.environment(home, **more)
        done = subprocess.run(
            [str(self.programs / command[0]), *command[1:]],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr


def install(folder: Path) -> None:
    app = folder / "crossfade"
    for name in COPIED:
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, app / name)
    # What the lock names is there already: the new environment sees the packages of this one, without its .pth files.
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--editable", "."]
    quiet = {name: value for name, value in os.environ.items() if name not in {*QUIET, "PYTHONPATH"}}
    done = subprocess.run(pip, cwd=app, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

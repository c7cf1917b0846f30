"""The images and the compose file, as far as they can be run without a container engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ml.settings import PROJECT_ROOT, Settings
from tests.conftest import home_environment

DOCKERFILE = (PROJECT_ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (PROJECT_ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
SERVICES = yaml.safe_load(COMPOSE)["services"]


def test_the_files_that_an_image_gets_are_all_that_the_graph_needs(prepared_home: Path, tmp_path: Path) -> None:
    copied = [word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M) for word in line.split()[:-1]]
    for name in copied:
        source = PROJECT_ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, tmp_path / name)
    kept = {line[1:] for line in (PROJECT_ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == kept
    code = (
        "from deploy.definitions import build_definitions; from ml.settings import Settings;"
        "print(len(build_definitions(Settings()).resolve_asset_graph().get_all_asset_keys()))"
    )
    environment = home_environment(prepared_home, PYTHONPATH=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 40


def test_every_variable_is_a_setting_and_each_that_must_be_given_is_named_at_the_top() -> None:
    known = {f"CROSSFADE_{name.upper()}" for name in Settings.model_fields}
    for service in SERVICES.values():
        assert {name for name in service["environment"] if name.startswith("CROSSFADE_")} <= known
    exported = set(re.findall(r"(\w+)=", "\n".join(line for line in COMPOSE.splitlines() if line.startswith("#"))))
    assert set(re.findall(r"\$\{(\w+):\?\}", COMPOSE)) == exported


def test_no_secret_stands_in_the_file_and_nothing_is_published_beyond_loopback() -> None:
    secrets = ("PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY")
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            assert not any(word in name for word in secrets) or re.fullmatch(r"\$\{\w+:\?\}", str(value)), name
            assert not re.search(r"//\w+:[^@/]+@", str(value)), f"{name} holds a password"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("service", [name for name, service in SERVICES.items() if "build" in service])
def test_a_service_starts_a_program_of_the_environment_from_an_image_that_is_built(service: str) -> None:
    program = SERVICES[service]["command"][0]
    assert (Path(sys.executable).parent / program).exists()
    target = SERVICES[service]["build"]["target"]
    assert re.search(rf"^FROM \S+ AS {target}$", DOCKERFILE, re.M) and SERVICES[service]["image"].endswith(target)

"""The images and the compose file, as far as they can be run without a container engine."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import dagster as dg
import jsonschema
import psutil
import pytest
import yaml

from benchmarks.process import free_port, running
from ml.foundation.settings import PROJECT_ROOT, Settings
from tests.support.commands import home_environment
from tests.support.image import COPIED, DOCKERFILE, SERVICES, Installed
from tests.support.instance import wait

IMAGES = PROJECT_ROOT / "deploy" / "images.env"
COMPOSE = (PROJECT_ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
GIVEN = {name: f"/given/{name.lower()}" for name in re.findall(r"(\w+)=", COMPOSE.split("\nname:")[0])}
"""Values of the variables that the head of the compose file exports; folders, since a bare name would be a volume."""


def rendered(given: Mapping[str, str]) -> dict[str, Any]:
    """The compose file with its variables put in, by the rules that it uses: NAME:-default, and NAME:? for a must."""

    def value(found: re.Match[str]) -> str:
        name, rule, default = found.groups()
        if given.get(name):
            return given[name]
        assert rule == ":-", f"required variable {name} is missing a value"
        return default

    return yaml.safe_load(re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", value, COMPOSE))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The Compose specification's schema."""
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(vendored.read_text(encoding="utf-8"))


def test_the_compose_file_with_its_variables_is_valid_by_composes_schema(schema: dict[str, Any]) -> None:
    whole = rendered(GIVEN)
    assert "${" not in json.dumps(whole) and len(whole["services"]) > 4
    jsonschema.validate(whole, schema)
    for name in SERVICES:
        broken = copy.deepcopy(whole)
        broken["services"][name]["depend_on"] = ["postgres"]
        with pytest.raises(jsonschema.ValidationError, match="depend_on"):
            jsonschema.validate(broken, schema)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\$\{(\w+):\?\}", COMPOSE))))
def test_a_variable_that_is_missing_is_refused_by_name(name: str) -> None:
    with pytest.raises(AssertionError, match=name):
        rendered({**GIVEN, name: ""})


def _answers(command: list[str]) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_docker_compose_renders_it_alike() -> None:
    compose = next((c for c in (["docker-compose"], ["docker", "compose"]) if _answers([*c, "version"])), None)
    if compose is None:
        pytest.skip("no docker compose")
    command = [*compose, "-f", str(PROJECT_ROOT / "deploy" / "compose.yaml"), "config", "--format", "json"]
    done = subprocess.run(command, env={**os.environ, **GIVEN}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services, own = json.loads(done.stdout)["services"], rendered(GIVEN)["services"]
    assert services.keys() == own.keys()
    assert all(services[name].get("command") == own[name].get("command") for name in own)


def test_the_project_installs_and_runs_from_the_files_that_an_image_gets(image: Installed, tmp_path: Path) -> None:
    """What the Dockerfile's last RUN and the first start of a container do, without what it does not copy."""
    kept = {line[1:] for line in (PROJECT_ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(COPIED) == kept
    assert "\nRUN pip install --no-deps --editable .\n" in DOCKERFILE
    assert "demo" in image.run(tmp_path, "crossfade", "--help")
    # The app's folder comes from outside of the image.
    app = shutil.copytree(PROJECT_ROOT / "examples" / "simulator", tmp_path / "app")
    mounted = {"CROSSFADE_APP": str(app)}
    assert "ready: " in image.run(tmp_path, "crossfade", "init", **mounted)  # parses dbt
    assert str(app / "surfaces") in image.run(tmp_path, "crossfade", "settings", **mounted)
    code = (
        "from deploy.definitions import build_definitions; from ml.foundation.settings import PROJECT_ROOT, Settings;"
        "print(PROJECT_ROOT, len(build_definitions(Settings()).resolve_asset_graph().get_all_asset_keys()))"
    )
    root, assets = image.run(tmp_path, "python", "-W", "ignore", "-c", code, **mounted).split()
    assert Path(root) == image.folder and int(assets) > 40


def test_images_and_manifests_have_the_projects_version_as_tag_and_base_images_from_one_file() -> None:
    version = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    texts = [
        COMPOSE,
        *(path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "deploy" / "kubernetes").iterdir()),
    ]
    tags = re.findall(r"crossfade/[a-z-]+(?::|, tag: )([^\s,]+)", "\n".join(texts))
    assert len(tags) == 6 and set(tags) == {version}
    named = dict(re.findall(r"^([A-Z_]+)=(.+)$", IMAGES.read_text(encoding="utf-8"), re.M))
    defaults = dict(re.findall(r"\$\{([A-Z_]+_IMAGE):-(\S+?)\}", COMPOSE))
    assert defaults == {name: image.split("@")[0] for name, image in named.items()}
    assert f"ARG PYTHON_IMAGE={defaults['PYTHON_IMAGE']}\n" in DOCKERFILE


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[tuple[Path, Callable[..., "subprocess.CompletedProcess[str]"]]]:
    """A commit with the files that make images, and a function that calls the script beside a docker of the test."""
    for name in ("deploy/images.sh", "deploy/images.env", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT_ROOT / name, tmp_path / name)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=ann", "-c", "user.email=ann@localhost"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *command], check=True)
    docker = tmp_path / ".git" / "docker"

    def call(what: str, says: str) -> "subprocess.CompletedProcess[str]":
        docker.write_text(f'#!/bin/sh\necho docker "$@" >&2\n{says}\n', encoding="utf-8")
        docker.chmod(0o755)
        environment = {**os.environ, "PATH": f"{docker.parent}:{os.environ['PATH']}"}
        script = [str(tmp_path / "deploy" / "images.sh"), what]
        return subprocess.run(script, env=environment, capture_output=True, text=True)

    yield tmp_path, call


def test_digests_are_those_that_the_registry_names_and_builds_take_them(
    checkout: tuple[Path, Callable[..., "subprocess.CompletedProcess[str]"]],
) -> None:
    folder, call = checkout
    names = folder / "deploy" / "images.env"
    before = names.read_text(encoding="utf-8")
    for says in ("exit 1", "echo no such manifest"):
        assert call("digests", says).returncode and names.read_text(encoding="utf-8") == before
    digest = f"sha256:{'0' * 63}7"
    for _ in range(2):  # a digest takes the place of the one before
        done = call("digests", f"echo {digest}")
        assert done.returncode == 0 and "inspect --format {{.Manifest.Digest}} postgres:17\n" in done.stderr
        assert f"PYTHON_IMAGE=python:3.11-slim@{digest}\n" in names.read_text(encoding="utf-8")
    built = [line for line in call("build", "").stderr.splitlines() if line.startswith("docker build ")]
    assert len(built) == 2
    for line, target in zip(built, ("code-location", "server"), strict=True):
        assert f"--target {target} --tag crossfade/{target}:0.1.0 " in line
        assert f"PYTHON_IMAGE=python:3.11-slim@{digest} " in line
        assert re.search(r" --build-arg COMMIT=[0-9a-f]{40}-dirty ", line)
    assert {"PYTHON_IMAGE", "VERSION", "COMMIT"} <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.M))
    labels = re.findall(r"org\.opencontainers\.image\.(\w+)=\$(\w+)", DOCKERFILE)
    assert labels == [("version", "VERSION"), ("revision", "COMMIT")]


def test_bills_of_images_come_from_the_images_of_this_commit_and_from_the_lock_without_them(
    checkout: tuple[Path, Callable[..., "subprocess.CompletedProcess[str]"]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, call = checkout
    ours = folder / ".git" / "python"
    ours.write_text('#!/bin/sh\necho lock "$@"\n', encoding="utf-8")
    ours.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(ours))
    commit = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    bill = folder / ".bills" / "server-0.1.0.cdx.json"
    for says, begins in (
        ("exit 1", "lock -m deploy.image_bill server --commit"),
        ("echo of-another-commit", "lock -m deploy.image_bill server --commit"),
        (f'case "$1" in run) echo image "$@";; *) echo {commit};; esac', "image run --rm --network none "),
    ):
        done = call("bills", says)
        assert done.returncode == 0 and str(bill.relative_to(folder)) in done.stdout, done.stderr
        assert bill.read_text(encoding="utf-8").startswith(begins)
    failing = call("bills", f'case "$1" in run) exit 1;; *) echo {commit};; esac')
    assert failing.returncode and bill.read_text(encoding="utf-8").startswith("image "), "no half a bill"


def test_an_image_has_what_the_lock_says_and_torch_as_its_build_for_cpus_unless_somebody_asks_for_another() -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    (uv,) = re.findall(r"^UV_VERSION := (\S+)$", makefile, re.M)
    assert f"\nARG UV_VERSION={uv}\n" in DOCKERFILE and " uv sync --locked " in DOCKERFILE
    assert "\nARG TORCH_INDEX=https://download.pytorch.org/whl/cpu\n" in DOCKERFILE
    (name,) = re.findall(r'^RUN pip install --extra-index-url "\$TORCH_INDEX" "\$\((.+)\)"$', DOCKERFILE, re.M)
    torch = subprocess.run(["sh", "-c", name], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    assert torch.strip() in tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def test_health_checks_tell_a_service_that_works_and_who_ends_the_ui_ends_its_webserver_and_daemon(
    prepared_home: Path,
) -> None:
    port, environment = free_port(), home_environment(prepared_home)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def healthy(service: str) -> bool:
        mark, *command = SERVICES[service]["healthcheck"]["test"]
        assert mark == "CMD"
        command = [word.replace(":3000/", f":{port}/") for word in command]
        return subprocess.run(command, env=environment, cwd=PROJECT_ROOT, capture_output=True).returncode == 0

    assert not healthy("webserver") and not healthy("daemon")
    command = [sys.executable, "-W", "ignore", "-m", "deploy.cli", "ui", "--port", str(port)]
    with (
        pytest.raises(RuntimeError, match="ended with"),
        running(command, lambda _: f"http://127.0.0.1:{port}", "/server_info", environment=environment) as (_, ui),
    ):
        assert healthy("webserver")
        with dg.DagsterInstance.from_config(str(prepared_home / "dagster")) as instance:
            daemons = set(instance.get_required_daemon_types())
            wait("heartbeats of the daemons", lambda: daemons <= instance.get_daemon_heartbeats().keys(), 120)
        assert healthy("daemon")
        started = ui.children(recursive=True)
        assert {"deploy.webserver", "dagster._daemon"} <= {word for p in started for word in p.cmdline()}
        ui.terminate()
        _, alive = psutil.wait_procs([ui, *started], timeout=90)
        assert not alive
    assert not healthy("webserver")


def test_every_variable_is_a_setting_and_each_that_must_be_given_is_named_at_the_top() -> None:
    known = {f"CROSSFADE_{name.upper()}" for name in Settings.model_fields}
    for service in SERVICES.values():
        assert {name for name in service["environment"] if name.startswith("CROSSFADE_")} <= known
    exported = set(re.findall(r"(\w+)=", "\n".join(line for line in COMPOSE.splitlines() if line.startswith("#"))))
    assert set(re.findall(r"\$\{(\w+):\?\}", COMPOSE)) == exported


def test_the_graphs_services_see_the_apps_folder_and_their_inputs_and_cannot_write_the_app() -> None:
    for service in (service for service in SERVICES.values() if "build" in service):
        found = (re.fullmatch(r"(.+):(/[^:]+?)(:ro)?", mount) for mount in service["volumes"])
        mounts = {mount[2]: (mount[1], bool(mount[3])) for mount in found if mount}
        for name in ("CROSSFADE_APP", "CROSSFADE_LANDING_DIR", "CROSSFADE_TEACHER"):
            assert any(Path(service["environment"][name]).is_relative_to(path) for path in mounts), name
        assert mounts[service["environment"]["CROSSFADE_APP"]] == ("${APP:?}", True)


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
    assert re.search(rf"^FROM \S+ AS {target}$", DOCKERFILE, re.M) and f"/{target}:" in SERVICES[service]["image"]

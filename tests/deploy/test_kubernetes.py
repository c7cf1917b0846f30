"""The manifests of deploy/kubernetes and the values of Dagster's chart, as far as no cluster is needed to look."""

import copy
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
from google.protobuf import text_format
from kubernetes.client import ApiClient

from benchmarks.process import free_port
from deploy.serving.app import create_app
from ml.foundation.settings import EXAMPLES, PROJECT_ROOT, Settings
from tests.support.command_line import assert_taken
from tests.support.commands import home_environment
from tests.support.image import DOCKERFILE, SERVICES
from tests.support.instance import wait

FOLDER = PROJECT_ROOT / "deploy" / "kubernetes"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir())}
VALUES = yaml.safe_load(TEXTS["values.yaml"])
CODE_LOCATION = VALUES["dagster-user-deployments"]["deployments"][0]
LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
MANIFESTS = {
    f"{found['kind']} {found['metadata']['name']}": found
    for name in ("crossfade.yaml", "triton.yaml")
    for found in yaml.safe_load_all(TEXTS[name])
}
WORKLOADS = {name: found for name, found in MANIFESTS.items() if "template" in found.get("spec", {})}
CONFIG = MANIFESTS["ConfigMap crossfade"]["data"]
SECRET = set(
    re.findall(r"[A-Z][A-Z_]+", TEXTS["crossfade.yaml"].split("a line for each of")[1].split(";")[0].replace("#", ""))
)
"""Variables that the Secret has to hold, as the file's head says."""


def pod_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = WORKLOADS[name]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def run_job() -> dict[str, Any]:
    """The Job that Dagster's launcher makes of the values for a run."""
    image = CODE_LOCATION["image"]
    config = DagsterK8sJobConfig(
        job_image=f"{image['repository']}:{image['tag']}",
        dagster_home=VALUES["global"]["dagsterHome"],
        instance_config_map="dagster-instance",
        postgres_password_secret=VALUES["global"]["postgresqlSecretName"],
    )
    more = {re.sub("([A-Z])", lambda m: f"_{m[1].lower()}", k): v for k, v in LAUNCHER["runK8sConfig"].items()}
    context = K8sContainerContext(
        image_pull_policy=LAUNCHER["imagePullPolicy"],
        env_config_maps=[entry["name"] for entry in LAUNCHER["envConfigMaps"]],
        env_secrets=[entry["name"] for entry in LAUNCHER["envSecrets"]],
        volumes=LAUNCHER["volumes"],
        volume_mounts=LAUNCHER["volumeMounts"],
        security_context=LAUNCHER["securityContext"],
        resources=LAUNCHER["resources"],
        run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(more),
    )
    job = construct_dagster_k8s_job(config, ["dagster", "api", "execute_run"], "run", context.run_k8s_config)
    made: Any = ApiClient().sanitize_for_serialization(job)
    return made


def test_every_file_of_the_folder_is_looked_at() -> None:
    assert set(TEXTS) == {"crossfade.yaml", "triton.yaml", "values.yaml"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_valid_by_kubernetes_schema(name: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_is_no_root_writes_nothing_of_its_image_and_is_bounded(name: str) -> None:
    spec, container = pod_of(name)
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["automountServiceAccountToken"] is False
    locked = container["securityContext"]
    assert locked["readOnlyRootFilesystem"] and not locked["allowPrivilegeEscalation"]
    assert locked["capabilities"]["drop"] == ["ALL"]
    assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}


def test_a_run_is_a_valid_job_with_the_settings_and_volumes_of_the_code_location() -> None:
    job = run_job()
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"] == CODE_LOCATION["podSecurityContext"]
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    sources = [{"configMapRef": {"name": "crossfade"}}, {"secretRef": {"name": "crossfade"}}]
    assert all(source in container["envFrom"] for source in sources)
    assert all(mount in container["volumeMounts"] for mount in CODE_LOCATION["volumeMounts"])
    assert container["resources"] == LAUNCHER["resources"]
    assert CONFIG["CROSSFADE_THREADS"] == container["resources"]["requests"]["cpu"]
    # Otherwise the code location's resources replace the launcher's.
    assert CODE_LOCATION["includeConfigInLaunchedRuns"] == {"enabled": False}


def test_all_pods_of_the_graph_see_one_home_and_one_set_of_inputs() -> None:
    claims = {name.split()[1] for name in MANIFESTS if name.startswith("PersistentVolumeClaim")}
    specs = [(pod_of(name)[0], pod_of(name)[1]["volumeMounts"]) for name in WORKLOADS if "triton" not in name]
    for spec, mounts in [*specs, (CODE_LOCATION, CODE_LOCATION["volumeMounts"])]:
        named = {volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"] if "emptyDir" not in volume}
        assert named == claims
        paths = {mount["mountPath"] for mount in mounts}
        assert CONFIG["CROSSFADE_HOME"] in paths
        for name in ("CROSSFADE_APP", "CROSSFADE_LANDING_DIR", "CROSSFADE_TEACHER"):
            assert any(Path(CONFIG[name]).is_relative_to(path) for path in paths)


def test_every_variable_is_a_setting_and_together_they_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"CROSSFADE_{name.upper()}" for name in Settings.model_fields}
    for text in TEXTS.values():
        assert set(re.findall(r"CROSSFADE_\w+", text)) <= known
    assert set(CONFIG) <= known
    # What a cluster's services share lies on servers, as in the compose file.
    shared = {name for name in SERVICES["server"]["environment"] if name.endswith(("_URL", "_TOKEN")) or "AWS" in name}
    assert shared <= SECRET | set(CONFIG) and "PGPASSWORD" in SECRET
    for name, value in CONFIG.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CROSSFADE_APP", str(EXAMPLES / "recipes"))  # the pod's folder is not here
    for name in SECRET & known:
        kind = "s3://bucket/prefix" if name.endswith(("LAKE_URL", "ARTIFACTS_URL")) else "postgresql+psycopg2://host/db"
        monkeypatch.setenv(name, kind)
    assert Settings().source == "files"


def test_addresses_and_secrets_come_from_secrets_alone() -> None:
    secrets = ("PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY", "CATALOG_URL", "DAGSTER_URL", "LAKE_URL", "ARTIFACTS_URL")
    assert not [name for name in CONFIG if any(word in name for word in secrets)]
    assert not any(found["kind"] == "Secret" for found in MANIFESTS.values())
    for name in WORKLOADS:
        for entry in pod_of(name)[1].get("env", []):
            reference = entry.get("valueFrom", {}).get("secretKeyRef")
            assert (reference["key"] in SECRET) if reference else not any(word in entry["name"] for word in secrets)
    for text in TEXTS.values():
        content = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        assert not re.search(r"//\w+:[^@/\s]+@|s3://", content)
    assert VALUES["generatePostgresqlPasswordSecret"] is False and "postgresqlPassword" not in VALUES["postgresql"]


def test_a_command_is_one_that_the_command_line_takes() -> None:
    commands = [pod_of(name)[1]["command"] for name in WORKLOADS if "triton" not in name]
    assert len(commands) == 3
    for program, *arguments in commands:
        assert program == "crossfade"
        assert_taken(arguments)


def test_probes_ports_and_addresses_meet(tmp_path: Path) -> None:
    routes = create_app(Settings(home=tmp_path)).openapi()["paths"]
    for name in ("crossfade", "crossfade-triton"):
        _, container = pod_of(f"Deployment {name}")
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["path"] in routes and asked["port"] in ports  # Triton speaks the same protocol
        assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
        service = MANIFESTS[f"Service {name}"]["spec"]
        assert service["selector"] == WORKLOADS[f"Deployment {name}"]["spec"]["template"]["metadata"]["labels"]
        assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    command = pod_of("Deployment crossfade")[1]["command"]
    assert CONFIG["CROSSFADE_SERVE_URL"] == f"http://crossfade:{command[-1]}"


def test_the_charts_pods_start_again_when_they_hang() -> None:
    """The commands are those of the compose file's health checks, which run in tests/deploy/test_containers.py."""
    webserver, daemon = (VALUES[name]["livenessProbe"] for name in ("dagsterWebserver", "dagsterDaemon"))
    assert webserver["httpGet"]["path"] in SERVICES["webserver"]["healthcheck"]["test"][-1]
    assert ["CMD", *daemon["exec"]["command"]] == SERVICES["daemon"]["healthcheck"]["test"]
    own = CODE_LOCATION["livenessProbe"]
    assert "exec" not in own and own["failureThreshold"] > 0  # the chart's command knows the port
    for probe in (webserver, daemon, own):
        changed = copy.deepcopy(WORKLOADS["Deployment crossfade"])
        (container,) = changed["spec"]["template"]["spec"]["containers"]
        container["livenessProbe"] = probe
        kubernetes_validate.validate(changed, kubernetes_validate.latest_version(), strict=True)


def test_images_are_those_that_are_built_and_hold_what_runs_need() -> None:
    built = {service["image"] for service in SERVICES.values() if "build" in service}
    images = {pod_of(name)[1]["image"] for name in WORKLOADS if "triton" not in name}
    assert images | {"{repository}:{tag}".format(**CODE_LOCATION["image"])} == built
    assert re.search(r"^ARG EXTRAS=.*kubernetes", DOCKERFILE, re.M)
    folders = re.findall(r"install --directory --owner crossfade (.+)$", DOCKERFILE, re.M)[0].split()
    assert {VALUES["global"]["dagsterHome"], CONFIG["CROSSFADE_HOME"]} == set(folders)


def test_the_instance_has_the_pools_of_one_machine_and_starts_lost_runs_again(tmp_path: Path) -> None:
    own = yaml.safe_load((PROJECT_ROOT / "deploy" / "dagster.yaml").read_text(encoding="utf-8"))
    assert VALUES["additionalInstanceConfig"]["concurrency"] == own["concurrency"]
    monitoring = VALUES["dagsterDaemon"]["runMonitoring"]
    assert monitoring["freeSlotsAfterRunEndSeconds"] == own["run_monitoring"]["free_slots_after_run_end_seconds"]
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(VALUES["additionalInstanceConfig"]), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
        assert instance.run_retries_enabled and instance.run_retries_max_retries == 2
        assert instance.run_retries_retry_on_asset_or_op_failure is False
        pools = instance.get_concurrency_config().pool_config
        assert pools.default_pool_limit == 1


def accepts(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def test_the_code_location_serves_the_graph_with_the_values_arguments(prepared_home: Path) -> None:
    port, dagster = str(free_port()), str(Path(sys.executable).parent / "dagster")
    environment = home_environment(prepared_home)
    command = [dagster, "api", "grpc", "--host", "127.0.0.1", "--port", port, *CODE_LOCATION["dagsterApiGrpcArgs"]]
    health = [dagster, "api", "grpc-health-check", "--host", "127.0.0.1", "--port", port]
    with subprocess.Popen(command, env=environment, cwd=PROJECT_ROOT, stderr=subprocess.DEVNULL) as server:
        try:
            wait("the port of the code location", lambda: server.poll() is not None or accepts(int(port)), 120)
            assert subprocess.run(health, env=environment, cwd=PROJECT_ROOT, capture_output=True).returncode == 0
        finally:
            server.kill()  # what a pod gets whose grace period is over


def test_triton_is_pointed_at_what_promotion_publishes(built_demo: Path) -> None:
    service = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    command = pod_of("Deployment crossfade-triton")[1]["command"]
    (repository,) = [word.split("=")[1] for word in command if word.startswith("--model-repository=")]
    folder = Path(repository.replace("$(CROSSFADE_ARTIFACTS_URL)", str(Settings(home=built_demo).artifacts_dir)))
    surfaces = sorted(path.name for path in folder.iterdir())
    assert surfaces == ["homepage", "radio"]
    for surface in surfaces:
        text = (folder / surface / "config.pbtxt").read_text(encoding="utf-8")
        config = text_format.Parse(text, service.ModelConfig())
        assert config.name == surface and config.backend == "onnxruntime"
        assert all(
            (folder / surface / str(v) / "model.onnx").is_file() for v in config.version_policy.specific.versions
        )
        assert config.version_policy.specific.versions

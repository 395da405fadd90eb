"""Manifests for Kubernetes: valid by its schemas, consistent with each other, with the service and with the guide."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.monitoring.metrics import Metrics
from service.server import EXIT_GRACE_S
from service.settings import Settings
from service.store.database import MIGRATION_TIMEOUT_S
from tests.proxy import CONFIGURATION, ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
COMPONENT = FOLDER / "components" / "bundle-store"
OVERLAYS = ("overlays/cpu", "overlays/gpu", "admin")
GUIDE = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text()
# Resources of the Prometheus operator, for which Kubernetes has no schema.
OTHERS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
VERSION = "1.32"
LENGTH = 16  # of the list of replicas in haproxy.cfg


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


MANIFESTS = [
    document
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name not in {"kustomization.yaml", "gpu.yaml"} and COMPONENT not in path.parents
    for document in documents(path)
]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [one for one in MANIFESTS if one["kind"] in kinds]


def named(kind: str, name: str) -> dict[str, Any]:
    return next(one for one in of_kind(kind) if one["metadata"]["name"] == name)


PODS: dict[str, dict[str, Any]] = {
    one["metadata"]["name"]: one["spec"]["template"] if one["kind"] == "Deployment" else one
    for one in of_kind("Deployment", "Pod")
}


def containers() -> Iterator[dict[str, Any]]:
    for pod in PODS.values():
        yield from pod["spec"]["containers"]


def gibibytes(quantity: str) -> float:
    assert quantity.endswith("Gi"), quantity
    return float(quantity.removesuffix("Gi"))


def selected(selector: dict[str, str]) -> list[dict[str, Any]]:
    return [pod for pod in PODS.values() if selector.items() <= pod["metadata"]["labels"].items()]


def ports_of(pod: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for one in pod["spec"]["containers"] for port in one["ports"]}


def settings_of(name: str) -> dict[str, str]:
    data: dict[str, str] = named("ConfigMap", name)["data"]
    return data


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_manifest_is_valid(manifest: dict[str, Any]) -> None:
    if manifest["kind"] not in OTHERS:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_a_manifest_with_a_mistake_is_not_valid() -> None:
    wrong = {**of_kind("PodDisruptionBudget")[0], "spec": {"maxUnavailble": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@pytest.mark.may_skip(reason="kubectl with Kustomize 5 is not among Debian's packages")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_can_be_built(overlay: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", FOLDER / overlay], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] not in OTHERS]
    for one in built:
        kubernetes_validate.validate(one, VERSION, strict=True)
    # The overlays store bundles in an object store, so no volume is shared.
    assert not any(one["kind"] == "PersistentVolumeClaim" for one in built)
    assert "persistentVolumeClaim" not in done.stdout
    images = set(re.findall(r"image: (\S+)", done.stdout))
    assert "plumbline" not in images


def test_alerts_are_those_of_prometheus() -> None:
    written = {
        path: path.read_text() for path in (FOLDER / "alerts").glob("*.yaml") if path.name != "kustomization.yaml"
    }
    generated = runpy.run_path(str(FOLDER / "alerts.py"))["manifests"]()
    assert written == generated, "run python deploy/kubernetes/alerts.py"
    rules = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))]
    assert [one["spec"] for one in of_kind("PrometheusRule")] == rules


def test_every_file_is_used() -> None:
    for kustomization in FOLDER.rglob("kustomization.yaml"):
        (content,) = documents(kustomization)
        named_ones = [*content.get("resources", ()), *content.get("components", ())]
        resources = [(kustomization.parent / name).resolve() for name in named_ones]
        assert all(path.exists() for path in resources)
        used = {path.name for path in resources} | {patch["path"] for patch in content.get("patches", ())}
        assert {path.name for path in kustomization.parent.glob("*.yaml")} - {"kustomization.yaml"} <= used
    (patch,) = documents(FOLDER / "overlays" / "gpu" / "gpu.yaml")
    patched = named(patch["kind"], patch["metadata"]["name"])["spec"]["template"]["spec"]["containers"]
    assert {one["name"] for one in patch["spec"]["template"]["spec"]["containers"]} <= {one["name"] for one in patched}


def test_selectors_and_ports_match() -> None:
    for service in of_kind("Service"):
        (pod,) = selected(service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports_of(pod).keys()
    for deployment in of_kind("Deployment"):
        (pod,) = selected(deployment["spec"]["selector"]["matchLabels"])
        assert pod is deployment["spec"]["template"]
    for one in of_kind("PodDisruptionBudget", "PodMonitor"):
        assert len(selected(one["spec"]["selector"]["matchLabels"])) == 1
    (service_monitor,) = of_kind("ServiceMonitor")
    wanted = service_monitor["spec"]["selector"]["matchLabels"].items()
    scraped = [one for one in of_kind("Service") if wanted <= one["metadata"]["labels"].items()]
    assert [one["metadata"]["name"] for one in scraped] == ["plumbline-replicas"]
    assert service_monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in scraped[0]["spec"]["ports"]}
    # Alerts select this job.
    assert scraped[0]["metadata"]["labels"][service_monitor["spec"]["jobLabel"]] == "plumbline"
    (ingress,) = of_kind("Ingress")
    (rule,) = ingress["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend["port"]["name"] in {port["name"] for port in named("Service", backend["name"])["spec"]["ports"]}
    assert [rule["host"]] == ingress["spec"]["tls"][0]["hosts"]
    assert settings_of("plumbline-settings")["PLUMBLINE_ALLOWED_HOSTS"] == rule["host"]
    for policy in of_kind("NetworkPolicy"):
        (pod,) = selected(policy["spec"]["podSelector"]["matchLabels"])
        inside = {port["port"] for one in policy["spec"]["ingress"] for port in one["ports"]}
        assert inside <= ports_of(pod).keys()


def test_autoscaler_uses_a_metric_of_the_service_and_fits_the_proxy() -> None:
    (autoscaler,) = of_kind("HorizontalPodAutoscaler")
    target = autoscaler["spec"]["scaleTargetRef"]
    assert "replicas" not in named(target["kind"], target["name"])["spec"]
    assert autoscaler["spec"]["metrics"][0]["pods"]["metric"]["name"] in Metrics().registry._names_to_collectors
    assert f"server-template replica 1-{LENGTH} " in CONFIGURATION.read_text()
    assert autoscaler["spec"]["maxReplicas"] <= LENGTH


def test_settings_exist_and_are_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = settings_of("plumbline-settings")
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        if name.startswith("PLUMBLINE_"):
            assert name.removeprefix("PLUMBLINE_").lower() in Settings.model_fields, name
            monkeypatch.setenv(name, value)
    assert Settings().shutdown_delay_s == 5
    (proxy,) = PODS["plumbline-proxy"]["spec"]["containers"]
    given = {one["name"] for one in proxy["env"]} - {"NAMESPACE"}
    assert given <= set(re.findall(r"^#   (PLUMBLINE_\w+)", CONFIGURATION.read_text(), re.MULTILINE))
    address = next(one["value"] for one in proxy["env"] if one["name"] == "PLUMBLINE_REPLICAS_DNS")
    service, _, port = address.replace(".$(NAMESPACE).svc.cluster.local", "").partition(":")
    assert named("Service", service)["spec"]["ports"][0]["port"] == int(port)


def test_bundle_store_fits_the_disk_of_a_pod_and_its_patches_the_manifests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, replica, claim = (documents(COMPONENT / f"{name}.yaml")[0] for name in ("settings", "replica", "claim"))
    for patch in (settings, replica, claim):
        assert named(patch["kind"], patch["metadata"]["name"])
    monkeypatch.chdir(tmp_path)
    for name, value in settings["data"].items():
        monkeypatch.setenv(name, value)
    found = Settings()
    assert found.bundle_store is not None
    assert found.bundle_cache_bytes is not None
    spec = replica["spec"]["template"]["spec"]
    (volume,), (container,) = spec["volumes"], spec["containers"]
    assert volume["persistentVolumeClaim"] is None
    assert found.bundle_cache_bytes < gibibytes(volume["emptyDir"]["sizeLimit"]) * 2**30
    volumes = [*PODS["plumbline"]["spec"]["volumes"], volume]
    used = sum(gibibytes(one["emptyDir"]["sizeLimit"]) for one in volumes if "emptyDir" in one)
    assert used <= gibibytes(container["resources"]["limits"]["ephemeral-storage"])


def test_replicas_fit_the_connections_of_postgresql_and_the_memory_of_their_pod() -> None:
    settings = settings_of("plumbline-settings")
    (autoscaler,) = of_kind("HorizontalPodAutoscaler")
    pods = (
        autoscaler["spec"]["maxReplicas"]
        + named("Deployment", "plumbline")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    )
    # PostgreSQL accepts 100 by default, of which it keeps 3; the admin pod needs some.
    assert pods * int(settings["PLUMBLINE_DATABASE_POOL_SIZE"]) < 97 - 8
    (container,) = PODS["plumbline"]["spec"]["containers"]
    used = sum(int(settings[f"PLUMBLINE_{name}_BYTES"]) for name in ("BUNDLE_MEMORY", "SELF_TEST_MEMORY"))
    assert used + 0.5 * 2**30 < gibibytes(container["resources"]["limits"]["memory"]) * 2**30


def test_proxies_together_fit_the_connections_of_a_replica() -> None:
    spec = named("Deployment", "plumbline-proxy")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    most = int(variables["PLUMBLINE_PROXY_REPLICA_MAXCONN"])

    assert (spec["replicas"] + spec["strategy"]["rollingUpdate"]["maxSurge"]) * most < Settings().max_connections


def test_migration_has_time_before_a_pod_is_ended() -> None:
    spec = named("Deployment", "plumbline")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    probe = container["startupProbe"]
    seconds = probe["periodSeconds"] * probe["failureThreshold"]

    assert seconds > 2 * MIGRATION_TIMEOUT_S
    assert f"A migration has {seconds // 60} minutes (`startupProbe`: {probe['failureThreshold']} attempts" in GUIDE
    assert spec["progressDeadlineSeconds"] > seconds


def test_certificates_of_the_plant_have_a_place() -> None:
    for name in ("plumbline", "plumbline-admin"):
        spec = PODS[name]["spec"]
        (volume,) = [one["configMap"] for one in spec["volumes"] if one["name"] == "ca"]
        assert volume == {"name": "plumbline-ca", "optional": True}
        (mount,) = [one["mountPath"] for one in spec["containers"][0]["volumeMounts"] if one["name"] == "ca"]
        assert f"# AWS_CA_BUNDLE: {mount}/ca.pem " in (FOLDER / "base" / "settings.yaml").read_text()
    assert "kubectl create configmap plumbline-ca --from-file ca.pem=" in GUIDE


def test_pods_have_time_to_complete_their_requests() -> None:
    settings = settings_of("plumbline-settings")
    delay_s, timeout_s, idle_s = (
        float(settings[f"PLUMBLINE_{name}"]) for name in ("SHUTDOWN_DELAY_S", "SHUTDOWN_TIMEOUT_S", "IDLE_TIMEOUT_S")
    )
    spec = PODS["plumbline"]["spec"]
    (container,) = spec["containers"]
    sleep_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= sleep_s + delay_s + timeout_s + EXIT_GRACE_S
    text = CONFIGURATION.read_text()
    (keep_alive,) = re.findall(r"timeout http-keep-alive (\d+)s", text)
    assert float(keep_alive) < idle_s
    # A replica is taken out of the list before the hook ends: names are resolved every second, old ones kept for 5 s.
    (obsolete,) = re.findall(r"hold obsolete (\d+)s", text)
    assert sleep_s > float(obsolete) + 5  # seconds that the name server of a cluster keeps an answer
    (inter,), (fall,) = re.findall(r"check inter (\d+)s", text), re.findall(r" fall (\d+)", text)
    assert delay_s > float(inter) * float(fall)


def test_pods_have_no_rights() -> None:
    for pod in PODS.values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
    for container in containers():
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_secrets_are_references_that_the_guide_describes() -> None:
    assert of_kind("Secret") == []
    text = "".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    names = set(re.findall(r"(?:secretRef: \{name: |secretName: |credentials: \{name: )([\w-]+)", text))
    assert names == {"plumbline-store", "plumbline-tls", "plumbline-metrics"}
    assert names <= set(re.findall(r"kubectl create secret (?:generic|tls) ([\w-]+)", GUIDE))


def test_images_are_those_of_the_dockerfile() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    for overlay in OVERLAYS:
        (content,) = documents(FOLDER / overlay / "kustomization.yaml")
        (image,) = content["images"]
        assert image["name"] in {one["image"] for one in containers()}
        assert image["newTag"] in stages
    (user,) = re.findall(r"useradd --uid (\d+)", (ROOT / "Dockerfile").read_text())
    for name in ("plumbline", "plumbline-admin"):
        assert PODS[name]["spec"]["securityContext"]["runAsUser"] == int(user)
    mounts = {mount["mountPath"] for mount in PODS["plumbline"]["spec"]["containers"][0]["volumeMounts"]}
    assert {"/models", "/data", "/tmp"} <= mounts

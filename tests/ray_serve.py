"""The application for Ray Serve as real processes, for tests and benchmarks: one machine, loopback only.

Run as a program, this module is the driver: it starts Ray, deploys each configuration that it reads, writes one line of
JSON when the first one runs, and stops Ray when its standard input is closed, so that nothing is left behind if the
tests are killed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.serving import ROOT

CONFIGURATION = ROOT / "deploy" / "ray" / "serve.yaml"
START_TIMEOUT_S = 300.0
OBJECT_STORE_BYTES = 80 * 2**20
RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # On a busy machine, the processes that Ray starts take longer than it waits for them by default.
    "RAY_agent_register_timeout_ms": "300000",
    # As in deploy/systemd. By default, processes of all tests beside it have priority.
    "RAY_worker_niceness": "0",
}
HAPROXY_VARIABLE = "PLUMBLINE_TEST_RAY_HAPROXY"
"""If this environment variable is 1, HAProxy replaces Ray's proxy, with fixed ports on all addresses of the machine."""
CORES = 2
RESERVED_CORES = 0.25
"""Cores that Ray reserves for a replica, so that all of them and the task that builds the application fit."""

_IN_SUCCESSION = 20
_ATTEMPTS = 3


@dataclass(frozen=True)
class RayService:
    """The running application.

    Attributes:
        url: Base URL of Ray's proxy.
        process: The driver.
        folder: Folder with the logs of Ray.
        configuration: The configuration that is deployed.
    """

    url: str
    process: subprocess.Popen[str]
    folder: Path
    configuration: dict[str, Any]

    def deploy(self) -> None:
        """Begin to deploy the configuration, for the first time or after a change."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.configuration) + "\n")
        self.process.stdin.flush()

    def autoscale(self, most: int) -> None:
        """Permit this number of replicas of `Inspector`, and start them as soon as runs wait."""
        inspector = self.configuration["applications"][0]["deployments"][1]
        # `Ingress` reports the runs that wait every 10 s by default.
        at_once = {"upscale_delay_s": 0, "metrics_interval_s": 0.5, "look_back_period_s": 2}
        inspector["autoscaling_config"] |= {"max_replicas": most} | at_once
        self.deploy()

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Return the processes of a deployment's replicas."""
        return self.processes(f"ServeReplica:plumbline:{deployment}")

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the processes of Ray whose title contains a text, such as `ProxyActor`."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if title in "".join(process.cmdline()):
                    found.append(process)
        return found

    def wait_for_replicas(self, deployment: str, count: int, *, besides: Iterator[int] | tuple[int, ...] = ()) -> None:
        """Wait until a deployment has this number of processes, besides those with the given ids."""
        ignored, give_up = set(besides), time.monotonic() + START_TIMEOUT_S
        while sum(process.pid not in ignored for process in self.replicas(deployment)) < count:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{deployment} has {self.replicas(deployment)}")
            time.sleep(0.1)

    def runs(self) -> Counter[str]:
        """Return how many runs of graphs each replica of `Inspector` has completed, by the name of its log."""
        logs = self.folder.glob("*/session_latest/logs/serve/replica_plumbline_Inspector_*.log")
        return Counter({log.stem: log.read_text().count('"message": "CALL run OK') for log in logs})

    def wait_until_reached(self) -> None:
        """Wait until the proxy passes on requests. HAProxy does when its first checks of the replicas succeeded."""
        give_up = time.monotonic() + START_TIMEOUT_S
        while (response := httpx.get(f"{self.url}/-/healthz", timeout=START_TIMEOUT_S)).status_code != 200:
            if time.monotonic() > give_up:
                raise TimeoutError(f"/-/healthz returns {response.status_code} {response.text}")
            time.sleep(0.1)

    def wait_until_ready(self) -> None:
        """Wait until /health/ready returns 200 many times in succession. Ray's proxy chooses a replica each time."""
        in_succession, give_up = 0, time.monotonic() + START_TIMEOUT_S
        while in_succession < _IN_SUCCESSION:
            response = httpx.get(f"{self.url}/health/ready", timeout=START_TIMEOUT_S)
            in_succession = in_succession + 1 if response.status_code == 200 else 0
            if time.monotonic() > give_up:
                raise TimeoutError(f"/health/ready returns {response.status_code} {response.text}")

    def logs(self) -> str:
        """Return what the processes of Ray have logged, for messages of failed tests."""
        texts = []
        for file in sorted(self.folder.glob("*/session_latest/logs/**/*")):
            if file.is_file() and ("serve" in file.parent.name or file.suffix == ".err" or "agent" in file.name):
                texts.append(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}")
        return "\n".join(texts)


def configuration(
    port: int, ingresses: int, inspectors: int, places: int | None = None, *, logs_runs: bool = True
) -> dict[str, Any]:
    """Return the shipped configuration for a small machine.

    Args:
        port: Port of Ray's proxy.
        ingresses: Replicas of `Ingress`.
        inspectors: Replicas of `Inspector`.
        places: Runs that each replica of `Inspector` accepts at the same time; None for the shipped number.
        logs_runs: Whether replicas log requests and runs, which the shipped configuration does not do.
    """
    config: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    config["logging_config"] |= {"enable_access_log": logs_runs}
    (application,) = config["applications"]
    application["args"] |= {"loopback_only": True}
    ingress, inspector = application["deployments"]
    ingress["num_replicas"] = ingresses
    # Without autoscaling, a later change to it would replace all replicas.
    inspector["autoscaling_config"] |= {"min_replicas": inspectors, "max_replicas": inspectors}
    for deployment in (ingress, inspector):
        deployment["ray_actor_options"] = {"num_cpus": RESERVED_CORES}
    if places is not None:
        inspector["max_ongoing_requests"] = places
    return config


def haproxy_variables(folder: str) -> dict[str, str]:
    """Return the variables that replace Ray's proxy by HAProxy, whose files are in this folder."""
    files = {
        "CONFIG_FILE_LOC": "haproxy.cfg",
        "SOCKET_PATH": "admin.sock",
        "SERVER_STATE_BASE": "",
        "SERVER_STATE_FILE": "server-state",
        "METRICS_SOCKET_PATH": "metrics.sock",
    }
    paths = {f"RAY_SERVE_HAPROXY_{name}": f"{folder}/h/{file}" for name, file in files.items()}
    return paths | {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_NBTHREAD": str(CORES)}


@contextmanager
def ray_serve_process(
    models: Path,
    data: Path,
    settings: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    *,
    ingresses: int = 1,
    inspectors: int = 2,
    places: int | None = None,
    logs_runs: bool = True,
) -> Iterator[RayService]:
    """Run the application on a free port of the loopback until the end of the block.

    Args:
        models: The model repository, or the cache of the bundle store.
        data: The data folder.
        settings: Further settings by name, without the prefix `PLUMBLINE_`, in lower case. Several replicas of
            `Ingress` need `database_url` of PostgreSQL.
        variables: Further environment variables.
        ingresses: Replicas of `Ingress`.
        inspectors: Replicas of `Inspector`.
        places: As in `configuration`.
        logs_runs: As in `configuration`. `RayService.runs` needs it.
    """
    given = {"models": str(models), "data": str(data)} | dict(settings or {})
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PLUMBLINE_", "RAY_"))}
    port = _free_port()
    # The paths of Ray's sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "tests.ray_serve", folder]
        process = subprocess.Popen(
            command,
            env=inherited
            | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client")])}
            | RAY_VARIABLES
            | (haproxy_variables(folder) if os.environ.get(HAPROXY_VARIABLE) == "1" else {})
            | {f"PLUMBLINE_{name}".upper(): value for name, value in given.items()}
            | dict(variables or {}),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        config = configuration(port, ingresses, inspectors, places, logs_runs=logs_runs)
        service = RayService(f"http://127.0.0.1:{port}", process, Path(folder), config)
        watchdog = threading.Timer(START_TIMEOUT_S, _kill, [process])
        watchdog.start()
        try:
            service.deploy()
            started = process.stdout.readline()
            watchdog.cancel()
            if json.loads(started or "{}").get("event") != "RUNNING":
                raise RuntimeError(f"The application did not start: {started}\n{service.logs()}")
            service.wait_until_reached()
            yield service
        finally:
            watchdog.cancel()
            _kill(process)
            process.stdin.close()
            process.stdout.close()


def _kill(process: subprocess.Popen[str]) -> None:
    """End the driver and all processes of Ray that it started."""
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        for one in [psutil.Process(process.pid), *started]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _drive(folder: str) -> None:
    import ray
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ApplicationStatus, ServeDeploySchema

    config = json.loads(sys.stdin.readline())
    for attempt in range(_ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=CORES,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                configure_logging=False,
                # Ray replaces 127.0.0.1 by an address that others can reach.
                _node_ip_address="127.0.0.2",
                _temp_dir=f"{folder}/{attempt}",
            )
            break
        except Exception:  # a process of Ray did not start within 30 s, which no option changes
            ray.shutdown()
            if attempt == _ATTEMPTS - 1:
                raise
    # As `serve run` does with a configuration file.
    schema = ServeDeploySchema.model_validate(config)
    client = serve_start(
        http_options=schema.http_options.model_dump(),
        proxy_location=schema.proxy_location,
        global_logging_config=schema.logging_config,
    )
    client.deploy_apps(schema)
    while (application := serve.status().applications.get("plumbline")) is None or application.status not in {
        ApplicationStatus.RUNNING,
        ApplicationStatus.DEPLOY_FAILED,
    }:
        time.sleep(0.1)
    result = {"event": application.status.value, "message": application.message}
    print(json.dumps(result), flush=True)  # noqa: T201 - the test reads it
    for line in sys.stdin:
        client.deploy_apps(ServeDeploySchema.model_validate_json(line))
    ray.shutdown()


if __name__ == "__main__":
    _drive(sys.argv[1])

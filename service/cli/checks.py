"""The checks of `plumbline doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from service.bundle.bundle import bundle_folders
from service.cli.bundle_store import check_bundle_store
from service.cli.findings import Finding, Health
from service.cli.interface_checks import check_opcua, check_otel
from service.cli.network_checks import check_certificate, check_port
from service.cli.offline import known_products
from service.cli.options import CLIENT_VARIABLES, place_of_bundles
from service.cli.record_checks import check_records
from service.cli.unknown_variables import unknown_variables
from service.deployment.configuration import bundle_loader
from service.deployment.repository import empty_reason, product_folders
from service.errors import PlumblineError
from service.inspection.runtime.cuda import cuda_problems, has_driver
from service.inspection.runtime.openvino import openvino_problem, openvino_version
from service.inspection.runtime.tensorrt import tensorrt_problems
from service.inspection.runtime.threads import cpu_quota
from service.integrations.config import read_sinks
from service.integrations.errors import SinksInvalid
from service.integrations.sinks import make_sink, warnings_of
from service.settings import Settings
from service.store.access import has_credentials
from service.store.artefacts.opening import open_files
from service.store.database import (
    make_engine,
    name_of,
    open_read_only_engine,
    require_usable_schema,
    sqlite_path,
)
from service.store.errors import StoreUnavailable
from service.store.options import StoreOptions
from service.store.permissions import is_open_to_others
from service.store.postgres import Server
from service.store.reasons import RESTORE
from service.store.schema import Schema
from service.store.session import reading
from service.store.sqlite import check_file

MIN_FREE_BYTES = 200 * 2**20
LOW_FREE_BYTES = 5 * 2**30
_STRUCTURE_CHECK_S = 30.0
_LIBRARIES = ("fastapi", "uvicorn", "numpy", "opencv-python-headless", "onnx", "sqlalchemy", "pydantic")
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def run_checks(settings: Settings) -> Iterator[Finding]:
    """Check everything that the service needs, fast checks first."""
    for check in _CHECKS:
        try:
            yield from check(settings)
        except Exception as error:  # noqa: BLE001 - a check that fails must not hide the findings of the others
            name = check.__name__.removeprefix("_").removeprefix("check_")
            yield Finding(
                name,
                Health.PROBLEM,
                f"the check failed unexpectedly ({type(error).__name__})",
                "Report this as a bug of Plumbline.",
            )


def _check_python(_settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    # An older Python could not have imported this module, so the version needs no check.
    yield Finding("python", Health.OK, f"{version} at {sys.executable}")


def _check_libraries(_settings: Settings) -> Iterator[Finding]:
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding("libraries", Health.PROBLEM, f"{name} is not installed", f"pip install {name}")
    yield Finding("libraries", Health.OK, ", ".join(found))
    runtimes = [name for name in _RUNTIMES if _is_installed(name)]
    if len(runtimes) > 1:
        yield Finding(
            "onnxruntime",
            Health.WARNING,
            "onnxruntime and onnxruntime-gpu are both installed, and each overwrites files of the other",
            "Run pip uninstall onnxruntime onnxruntime-gpu, then install plumbline again.",
        )
    for name in runtimes:
        yield Finding("onnxruntime", Health.OK, f"{name} {importlib.metadata.version(name)}")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _check_settings(settings: Settings) -> Iterator[Finding]:
    for variable in unknown_variables(os.environ, CLIENT_VARIABLES):
        yield Finding("settings", Health.WARNING, variable.detail, variable.remedy)
    changed = {name: getattr(settings, name) for name in sorted(settings.model_fields_set - {"database_url"})}
    listed = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in changed.items()}
    text = ", ".join(f"{name}={value}" for name, value in listed.items())
    yield Finding("settings", Health.OK, text or "all settings have their default values")


def _check_processor(settings: Settings) -> Iterator[Finding]:
    quota = cpu_quota()
    text = f"CPU quota of {quota} threads, {settings.threads or quota} of them for a graph"
    if settings.threads is not None and settings.threads > quota:
        yield Finding("cpu", Health.WARNING, text, f"Set PLUMBLINE_THREADS to at most {quota}, or unset it.")
    else:
        yield Finding("cpu", Health.OK, text)


def _check_cuda(settings: Settings) -> Iterator[Finding]:
    if settings.provider not in {"auto", "cuda", "tensorrt"}:
        yield Finding("cuda", Health.OK, f"not requested (provider is {settings.provider})")
        return
    problems = cuda_problems()
    if settings.provider == "tensorrt":
        problems += tensorrt_problems()
    if not problems:
        yield Finding("cuda", Health.OK, "the driver and the libraries can be loaded")
    elif settings.provider != "auto" or has_driver():
        health = Health.WARNING if settings.provider == "auto" else Health.PROBLEM
        remedy = (
            "Install the GPU driver, and the CUDA libraries with pip install ./client '.[cuda]' in a checkout of "
            "Plumbline; for TensorRT also tensorrt-cu13. Or set PLUMBLINE_PROVIDER=cpu."
        )
        yield Finding("cuda", health, " ".join(problems), remedy)
    else:
        yield Finding("cuda", Health.OK, f"no GPU is available, the CPU is used. {' '.join(problems)}")


def _check_openvino(settings: Settings) -> Iterator[Finding]:
    if settings.provider != "openvino":
        return
    if (problem := openvino_problem()) is None:
        yield Finding("openvino", Health.OK, f"version {openvino_version()}")
    else:
        remedy = (
            "Install it with pip install ./client '.[openvino]' in a checkout of Plumbline, or set "
            "PLUMBLINE_PROVIDER=cpu."
        )
        yield Finding("openvino", Health.PROBLEM, problem, remedy)


def _check_data(settings: Settings) -> Iterator[Finding]:
    # The checks create nothing, so a misspelt path does not become a folder.
    remedy = "Make the folder writable for this user, or set PLUMBLINE_DATA to a folder that is writable."
    existing = next(path for path in (settings.data, *settings.data.parents) if path.exists())
    if not settings.data.is_dir():
        detail = f"{settings.data} does not exist"
        if os.access(existing, os.W_OK | os.X_OK):
            remedy = "plumbline serve creates it. Check PLUMBLINE_DATA if inspections were stored before."
            yield Finding("data folder", Health.WARNING, detail, remedy)
        else:
            yield Finding("data folder", Health.PROBLEM, f"{detail}, and {existing} is not writable", remedy)
    elif not os.access(settings.data, os.R_OK | os.W_OK | os.X_OK) or _is_read_only(settings.data):
        yield Finding("data folder", Health.PROBLEM, f"{settings.data} is not writable", remedy)
    else:
        yield Finding("data folder", Health.OK, f"{settings.data} is writable")
        if is_open_to_others(settings.data):
            text = (
                f"other users of this machine may read {settings.data}, which contains images and hashes of passwords"
            )
            yield Finding("data folder", Health.WARNING, text, f"Run chmod o-rwx {shlex.quote(str(settings.data))}.")
    free = shutil.disk_usage(existing).free
    text = f"{free / 2**30:.1f} GiB free"
    remedy = "Free disk space, or set PLUMBLINE_DATA to a folder on a larger disk. A full disk stops inspection."
    health = Health.PROBLEM if free < MIN_FREE_BYTES else Health.WARNING if free < LOW_FREE_BYTES else Health.OK
    yield Finding("disk", health, text, "" if health is Health.OK else remedy)


def _is_read_only(folder: Path) -> bool:
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _check_database(settings: Settings) -> Iterator[Finding]:
    path = sqlite_path(settings.database)
    if path is None:
        yield from _check_server(settings)
        return
    if not path.exists():
        yield Finding("database", Health.OK, f"{path} does not exist yet; plumbline serve creates it")
        return
    try:
        engine = open_read_only_engine(settings.database)
        schema = require_usable_schema(engine)
        engine.dispose()
    except StoreUnavailable as error:
        yield _database_problem(error)
        return
    damage = check_file(path, _STRUCTURE_CHECK_S)
    if damage is None:
        yield Finding("database", Health.OK, f"can be opened, and {_state_of(schema)}")
    else:
        yield Finding("database", Health.PROBLEM, f"{path} is corrupt ({damage})", RESTORE)


def _check_server(settings: Settings) -> Iterator[Finding]:
    engine = None
    try:
        engine = make_engine(settings.database, options=StoreOptions.of(settings).database)
        with reading(engine) as session:
            server = Server.of(session.connection())
        name = name_of(engine.url)
        for problem in (*server.problems(), *server.write_problems()):
            yield Finding("database", Health.PROBLEM, f"{name} {problem}", "Change it, or use another server.")
        for warning in server.warnings():
            yield Finding("database", Health.WARNING, warning, "Change the configuration of the server.")
        schema = require_usable_schema(engine)
    except StoreUnavailable as error:
        yield _database_problem(error)
    else:
        text = f"{name}: PostgreSQL {server.version}, {server.encoding}, sessions in {server.time_zone}"
        yield Finding("database", Health.OK, f"{text}; can be opened, and {_state_of(schema)}")
    finally:
        if engine is not None:
            engine.dispose()


def _state_of(schema: Schema) -> str:
    if schema.is_newer:
        return f"a newer version migrated its tables to {schema.revision}, with which this version can work"
    return "its tables are up to date"


def _check_artefacts(settings: Settings) -> Iterator[Finding]:
    if not settings.artefacts_url:
        return  # in the data folder, which has a check of its own
    url = settings.artefacts_url
    try:
        files = open_files(StoreOptions.of(settings).artefacts, settings.data)
        if files.folder is not None and not files.folder.exists():
            remedy = "plumbline serve creates it. Check PLUMBLINE_ARTEFACTS_URL if inspections were stored before."
            yield Finding("images and maps", Health.WARNING, f"{files.folder} does not exist", remedy)
            return
        try:
            files.probe()
        finally:
            files.close()
    except StoreUnavailable as error:
        yield Finding("images and maps", Health.PROBLEM, f"{url}: {error.reason}", error.remedy)
    else:
        yield Finding("images and maps", Health.OK, f"{url}: a small file was written and deleted")


def _database_problem(error: StoreUnavailable) -> Finding:
    if error.is_outdated:
        return Finding("database", Health.WARNING, error.reason, error.remedy)
    remedy = error.remedy or "Check PLUMBLINE_DATABASE_URL and PLUMBLINE_DATA."
    return Finding("database", Health.PROBLEM, error.reason, remedy)


def _check_access(settings: Settings) -> Iterator[Finding]:
    path, are_credentials = sqlite_path(settings.database), False
    if path is None or path.exists():
        try:
            engine = open_read_only_engine(settings.database)
            are_credentials = has_credentials(engine)
            engine.dispose()
        except StoreUnavailable:
            text, remedy = "the database cannot be examined for keys", "Protect the port by a firewall until it can."
            yield Finding("access", Health.WARNING, text, remedy)
            return
    if are_credentials:
        yield Finding("access", Health.OK, "requests need an API key or a session")
    elif settings.insecure:
        text, remedy = "everyone who reaches the port may do everything", "Create a key, and unset PLUMBLINE_INSECURE."
        yield Finding("access", Health.WARNING, text, remedy)
    elif settings.is_loopback:
        yield Finding("access", Health.OK, "no API key and no account: requests of this machine need none")
    else:
        text = f"host is {settings.host}, and there is no API key and no account, so the service does not start"
        yield Finding("access", Health.PROBLEM, text, "Create a key, or set PLUMBLINE_HOST=127.0.0.1.")


def _check_models(settings: Settings) -> Iterator[Finding]:
    models = settings.models
    if settings.bundle_store and not models.exists():
        yield Finding("model repository", Health.OK, f"{models} does not exist yet: the cache of the bundle store")
    elif not models.is_dir():
        remedy = "Set PLUMBLINE_MODELS to the folder that holds the products, or create it."
        yield Finding("model repository", Health.PROBLEM, f"{models} does not exist", remedy)
    elif not os.access(models, os.R_OK | os.X_OK):
        remedy = "Make the folder readable for this user."
        yield Finding("model repository", Health.PROBLEM, f"{models} cannot be read", remedy)
    elif not os.access(models, os.W_OK) or _is_read_only(models):
        text = f"{models} is not writable: bundles can be copied there by another user, but not uploaded"
        yield Finding("model repository", Health.OK, text)
    else:
        yield Finding("model repository", Health.OK, f"{models} is writable: bundles can be uploaded")


def _check_bundles(settings: Settings) -> Iterator[Finding]:
    if settings.bundle_store:
        return  # `check_bundle_store`
    products = list(product_folders(settings.models))
    if not products:
        remedy = "Train one with plumbline-train fit, or set PLUMBLINE_MODELS to the folder that holds the products."
        yield Finding("bundles", Health.PROBLEM, f"{settings.models} {empty_reason(settings.models)}", remedy)
    loader = bundle_loader(settings)
    for product in products:
        for path in bundle_folders(settings.models / product):
            subject = f"bundle {product}/{path.name}"
            try:
                inspector = loader.load(path, product)
            except PlumblineError as error:
                yield Finding(subject, Health.PROBLEM, error.detail, "Copy or export the bundle again, or remove it.")
                continue
            yield Finding(subject, Health.OK, f"intact, self-test passed on {inspector.provider}")
            for reason in inspector.bundle.manifest.training.weak:
                remedy = "Train the product again without --allow-weak."
                yield Finding(subject, Health.WARNING, f"weak bundle: {reason}", remedy)
            inspector.close()


def _check_sinks(settings: Settings) -> Iterator[Finding]:
    if settings.sinks is None:
        yield Finding("sinks", Health.OK, "none are configured")
        return
    try:
        configs = read_sinks(settings.sinks)
    except SinksInvalid as error:
        yield Finding("sinks", Health.PROBLEM, error.reason, "Correct the file, or unset PLUMBLINE_SINKS.")
        return
    yield Finding("sinks", Health.OK, f"{len(configs)} in {settings.sinks}")
    known = _known_products(settings)
    for config in configs:
        subject = f"sink {config.name}"
        try:
            target = make_sink(config).target
        except SinksInvalid as error:
            yield Finding(subject, Health.PROBLEM, error.reason, "The service does not start until this is corrected.")
            continue
        yield Finding(subject, Health.OK, f"{target}; plumbline sink test {config.name} sends a test message")
        for warning in warnings_of(config):
            yield Finding(subject, Health.WARNING, warning, "docs/how-to/integrations.md describes the options.")
        if unknown := sorted((config.products or frozenset()) - known):
            text = f"products that {place_of_bundles(settings)} does not hold: {', '.join(unknown)}"
            yield Finding(subject, Health.WARNING, text, "Check their spelling.")


def _known_products(settings: Settings) -> set[str]:
    try:
        return set(known_products(settings))
    except (PlumblineError, OSError):
        return set()  # other checks report it


_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _check_python,
    _check_libraries,
    _check_settings,
    _check_processor,
    _check_cuda,
    _check_openvino,
    _check_data,
    _check_database,
    _check_artefacts,
    check_records,
    _check_access,
    check_port,
    check_certificate,
    _check_sinks,
    check_opcua,
    check_otel,
    _check_models,
    _check_bundles,
    check_bundle_store,
)

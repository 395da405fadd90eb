from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.cli.unknown_variables import unknown_variables
from service.deployment.configuration import memory_limits
from service.settings import Settings


def test_every_setting_is_read_from_its_environment_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLUMBLINE_MODELS", str(tmp_path / "m"))
    monkeypatch.setenv("PLUMBLINE_PORT", "9000")
    monkeypatch.setenv("PLUMBLINE_REQUIRED_PRODUCTS", "bolt, nut,")
    settings = Settings()
    assert settings.models == tmp_path / "m"
    assert settings.port == 9000
    assert settings.required_products == {"bolt", "nut"}
    assert Settings(port=1).port == 1, "arguments take precedence"


def test_required_products_stay_in_memory_beside_the_pinned_ones() -> None:
    assert memory_limits(Settings()).keeps("nut")
    settings = Settings(bundle_memory_bytes=2**30, pinned_products="bolt", required_products="nut")  # type: ignore[arg-type]
    limits = memory_limits(settings)
    assert limits.limit_bytes == 2**30
    assert [name for name in ("bolt", "nut", "rivet") if limits.keeps(name)] == ["bolt", "nut"]


def test_every_setting_is_documented() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_database_is_in_the_data_folder_by_default(tmp_path: Path) -> None:
    assert Settings(data=tmp_path / "d").database == f"sqlite:///{tmp_path / 'd' / 'plumbline.db'}"
    url = "postgresql+psycopg://u:p@h/n"
    assert Settings(database_url=url).database == url
    assert Settings(database_pool_size=2).database_pool_size == 2, "SQLite needs no minimum"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": 70000}, "port"),
        ({"provider": "tpu"}, "provider"),
        ({"queue_limit": 0}, "queue_limit"),
        ({"queue_limit": 2, "max_batch": 4}, "full batch could never form"),
        ({"database_url": "mysql://x"}, "expected sqlite"),
        ({"database_url": "sqlite:///:memory:"}, "loses"),
        ({"artefacts_url": "bucket/prefix"}, "expected s3://"),
        ({"artefacts_url": "s3://"}, "expected s3://"),
        ({"artefacts_url": "file://folder"}, "expected s3://"),
        ({"artefacts_url": "simplecache::s3://bucket"}, "expected s3://"),
        ({"artefacts_url": "sftp://user:password@host/folder"}, "do not belong"),
        ({"s3_endpoint_url": "minio:9000"}, "expected http://"),
        ({"data": "models/data"}, "lies in the model repository"),
        ({"data": __file__}, "is a file"),
        ({"models": "m" * 300}, "cannot be the name of a folder: File name too long"),
        ({"max_body_bytes": 10}, "max_body_bytes"),
        ({"max_body_bytes": 2**22, "max_inflight_body_bytes": 2**21}, "could never be received"),
        ({"queue_deadline_s": 0}, "queue_deadline_s"),
        ({"bundle_memory_bytes": 1000}, "bundle_memory_bytes"),
        ({"bundle_cache_bytes": 2**30}, "bundle_cache_bytes is set but bundle_store is not"),
        ({"bundle_store": "store"}, "expected s3://BUCKET/PREFIX or file:///FOLDER"),
        ({"bundle_store": "s3://key:secret@bucket/x"}, "do not belong into this URL"),
        ({"bundle_store": "file:///srv/x", "models": "/srv/x"}, "are the same folder"),
        ({"database_url": "postgresql+psycopg://u@h/n", "database_pool_size": 5}, "PostgreSQL needs at least 6"),
        ({"heatmap_format": "gif"}, "heatmap_format"),
        ({"prot": 1}, "prot"),
    ],
)
def test_invalid_setting_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**values)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),  # noqa: S104 - not bound
        ("::", False),
        ("192.0.2.1", False),
        ("line-pc", False),
    ],
)
def test_metrics_are_open_on_loopback_unless_the_setting_decides(host: str, is_loopback: bool) -> None:
    assert Settings(host=host).is_loopback is is_loopback
    assert Settings(host=host).are_metrics_open is is_loopback
    for chosen in (True, False):
        assert Settings(host=host, metrics_open=chosen).are_metrics_open is chosen
    assert Settings(host=host, metrics_open="").metrics_open is None  # type: ignore[arg-type]


def test_settings_do_not_change_while_the_process_runs() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("PLUMBLINE_PROT", "PLUMBLINE_PROT is not a setting (did you mean PLUMBLINE_PORT?)"),
        ("plumbline_qeue_limit", "plumbline_qeue_limit is not a setting (did you mean PLUMBLINE_QUEUE_LIMIT?)"),
        ("PLUMBLINE_XYZZY_12345", "PLUMBLINE_XYZZY_12345 is not a setting"),
    ],
)
def test_variable_that_is_no_setting_is_named_with_the_nearest(name: str, detail: str) -> None:
    known = ["PLUMBLINE_PORT", "plumbline_host", "PLUMBLINE_URL", "PLUMBLINE_TEST_DATA", "PATH"]
    (unknown,) = unknown_variables([*known, name], ["PLUMBLINE_URL"])
    assert (unknown.name, unknown.detail) == (name, detail)

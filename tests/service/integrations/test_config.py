"""The file with the sinks: what it accepts, and clear errors without secrets."""

from __future__ import annotations

import builtins
import ssl
from pathlib import Path
from typing import Any

import pytest

from service.integrations.config import MqttConfig, WebhookConfig, read_sinks
from service.integrations.errors import SinksInvalid
from service.integrations.sinks import make_sink, warnings_of

TLS = Path(__file__).parents[2] / "client" / "tls"
WEBHOOK = '[[sink]]\nname = "mes"\nkind = "webhook"\nurl = "https://mes.example/hook"\n'
MQTT = '[[sink]]\nname = "scada"\nkind = "mqtt"\nhost = "broker.example"\nsite = "plant"\nclient_id = "line3"\n'
# In none of the messages.
PASSWORD = "hunter2-hunter2"


def read(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "sinks.toml"
    file.write_text(text, encoding="utf-8")
    return read_sinks(file)


def test_no_file_is_no_sinks() -> None:
    assert read_sinks(None) == ()


def test_options_have_defaults(tmp_path: Path) -> None:
    webhook, mqtt = read(tmp_path, WEBHOOK + MQTT)

    assert isinstance(webhook, WebhookConfig)
    assert isinstance(mqtt, MqttConfig)
    assert webhook.include == {"regions", "links"}
    assert (mqtt.port, mqtt.topic_prefix, mqtt.retain) == (1883, "plumbline", False)
    assert webhook.subscription.products is None


def test_filters_become_the_subscription(tmp_path: Path) -> None:
    (sink,) = read(tmp_path, WEBHOOK + 'products = ["washer"]\ndecisions = ["fail", "invalid"]\n')

    assert sink.subscription.products == {"washer"}
    assert sink.subscription.decisions == {"fail", "invalid"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x =\n", "is not valid TOML (at line 1, column 4)"),
        (f'password = "{PASSWORD}', "is not valid TOML"),
        ("sinks = []", "sinks: "),
        (WEBHOOK + WEBHOOK, "the name 'mes' is used more than once"),
        (WEBHOOK.replace("mes", "M E S", 1), "sink 'M E S'.name: expected at most 64"),
        (WEBHOOK.replace('name = "mes"\n', ""), "sink 1.name: "),
        (WEBHOOK.replace("webhook", "smtp"), "sink 'mes'"),
        (WEBHOOK + "colour = 1\n", "sink 'mes'.colour: "),
        (WEBHOOK + 'decisions = ["bad"]\n', "sink 'mes'.decisions"),
        (WEBHOOK + "decisions = []\n", "sink 'mes'.decisions"),
        (WEBHOOK + 'include = ["images"]\n', "sink 'mes'.include"),
        (WEBHOOK + f'secret = "{PASSWORD}"\n', "sink 'mes'.secret: a secret must not be written in this file"),
        (WEBHOOK + "secret = {}\n", 'sink \'mes\'.secret: expected either { env = "NAME" }'),
        (WEBHOOK + 'secret = { env = "A", file = "b" }\n', "sink 'mes'.secret: expected either"),
        (WEBHOOK + "timeout_s = 600\n", "sink 'mes'.timeout_s: "),
        (WEBHOOK + "max_attempts = 0\n", "sink 'mes'.max_attempts: "),
        (WEBHOOK.replace("https://mes", f"https://u:{PASSWORD}@mes"), "sink 'mes'.url: must not contain credentials"),
        (WEBHOOK.replace("https", "ftp"), "sink 'mes'.url: expected a URL such as https://host/path"),
        (WEBHOOK.replace("mes.example", "mes.example:99999"), "sink 'mes'.url: expected a URL"),
        (WEBHOOK.replace("mes.example", "mes\u2028.example"), "sink 'mes'.url: expected a URL"),
        (WEBHOOK + 'proxy = "http://mes\u2028.example"\n', "sink 'mes'.proxy: expected a URL"),
        (WEBHOOK.replace("/hook", "/hook#part"), "sink 'mes'.url: must not contain a fragment"),
        (WEBHOOK + '[sink.tls]\nkey_file = "k"\n', "sink 'mes'.tls: key_file needs cert_file"),
        (MQTT + f'password = "{PASSWORD}"\n', "sink 'scada'.password: a secret must not be written"),
        (MQTT + 'password = { env = "P" }\n', "sink 'scada': password needs username"),
        (MQTT + 'topic_prefix = "a/#"\n', "sink 'scada'.topic_prefix: expected levels of a topic"),
        (MQTT.replace('site = "plant"\n', ""), "sink 'scada'.site: "),
    ],
)  # fmt: skip
def test_invalid_file_is_explained_without_what_it_contains(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(SinksInvalid) as caught:
        read(tmp_path, text)

    assert expected in caught.value.detail
    assert PASSWORD not in caught.value.detail
    assert "\n" not in caught.value.detail


def test_file_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SinksInvalid, match="No such file or directory"):
        read_sinks(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(SinksInvalid, match="not a text file in UTF-8"):
        read_sinks(tmp_path / "latin.toml")


def test_secrets_are_read_from_variables_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("from-file\n", encoding="utf-8")
    monkeypatch.setenv("MES_SECRET", "from-variable")
    text = f'secret = {{ env = "MES_SECRET" }}\nbearer_token = {{ file = "{tmp_path / "token"}" }}\n'
    (config,) = read(tmp_path, WEBHOOK + text)

    assert config.secret.read("mes", "secret") == "from-variable"
    assert config.bearer_token.read("mes", "bearer_token") == "from-file"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('{ env = "UNSET_VARIABLE" }', "secret is read from the environment variable UNSET_VARIABLE, which is not set"),
        ('{ file = "/nonexistent/file" }', "secret is read from /nonexistent/file, which cannot be read (No such file"),
        ('{ file = "FOLDER/empty" }', "which is not set or empty"),
        ('{ file = "FOLDER/binary" }', "which is not UTF-8 text"),
    ],
)
def test_secret_that_cannot_be_read_is_explained(source: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (config,) = read(tmp_path, WEBHOOK + f"secret = {source.replace('FOLDER', str(tmp_path))}\n")

    with pytest.raises(SinksInvalid, match="sink 'mes': ") as caught:
        make_sink(config)
    assert expected in caught.value.detail


@pytest.mark.parametrize("token", ["geheim-ü", "two words", "line\nbreak", "nul\0", "del\x7f"])
def test_token_that_no_header_can_contain_is_refused_when_it_is_read(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(token.encode())
    (config,) = read(tmp_path, WEBHOOK + f'bearer_token = {{ file = "{tmp_path / "token"}" }}\n')

    with pytest.raises(SinksInvalid, match="sink 'mes': bearer_token contains") as caught:
        make_sink(config)
    assert token not in caught.value.detail


def test_url_can_be_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = WEBHOOK.replace('"https://mes.example/hook"', '{ env = "MES_URL" }')
    (config,) = read(tmp_path, text)
    monkeypatch.setenv("MES_URL", f"https://chat.example:8443/{PASSWORD}")
    assert make_sink(config).target == "https://chat.example:8443"

    monkeypatch.setenv("MES_URL", PASSWORD)
    with pytest.raises(SinksInvalid, match="sink 'mes': url: expected a URL") as caught:
        make_sink(config)
    assert PASSWORD not in caught.value.detail


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ('ca_file = "/nonexistent/ca.pem"', "tls.ca_file /nonexistent/ca.pem cannot be read (No such file"),
        ('ca_file = "FOLDER/text.pem"', "text.pem does not contain certificates in PEM format"),
        ('cert_file = "FOLDER/text.pem"', "does not contain a certificate and its unencrypted private key"),
        (f'cert_file = "{TLS / "ca.pem"}"\nkey_file = "/nonexistent"', "with tls.key_file /nonexistent cannot be read"),
    ],
)
def test_certificate_that_cannot_be_used_is_explained(tls: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no certificate", encoding="utf-8")
    (config,) = read(tmp_path, WEBHOOK + f"[sink.tls]\n{tls.replace('FOLDER', str(tmp_path))}\n")

    with pytest.raises(SinksInvalid) as caught:
        make_sink(config)
    assert expected in caught.value.detail


def test_certificates_are_always_verified(tmp_path: Path) -> None:
    from service.integrations.tls import client_context

    (config,) = read(tmp_path, WEBHOOK)
    context = client_context(config.tls, "mes")
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_aiomqtt(name: str, *rest: Any) -> Any:
        if name == "aiomqtt":
            raise ImportError(name)
        return original(name, *rest)

    (config,) = read(tmp_path, MQTT)
    monkeypatch.setattr(builtins, "__import__", without_aiomqtt)
    with pytest.raises(SinksInvalid, match=r"pip install ./client '\.\[mqtt\]'"):
        make_sink(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WEBHOOK + 'secret = { env = "S" }\n', []),
        (WEBHOOK, ["no signature"]),
        (WEBHOOK.replace("https://mes.example", "http://10.0.0.5"), ["not encrypted", "no signature"]),
        (WEBHOOK.replace("https://mes.example", "http://127.0.0.1") + 'secret = { env = "S" }\n', []),
        (MQTT, ["not encrypted", "neither a user name nor a client certificate"]),
        (MQTT.replace("broker.example", "localhost") + 'username = { env = "U" }\n', []),
        (MQTT + '[sink.tls]\ncert_file = "c.pem"\n', []),
    ],
)
def test_weak_options_are_worth_a_warning(text: str, expected: list[str], tmp_path: Path) -> None:
    (config,) = read(tmp_path, text)
    found = list(warnings_of(config))

    assert len(found) == len(expected)
    assert all(part in warning for part, warning in zip(expected, found, strict=True))


def test_examples_are_valid() -> None:
    example = Path(__file__).parents[3] / "deploy" / "sinks.example.toml"

    assert {config.kind for config in read_sinks(example)} == {"webhook", "mqtt"}

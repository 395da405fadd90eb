"""The README does not drift from the code: settings, make targets, files and addresses are the real ones."""

import re
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_settings_table_lists_every_setting_with_its_default() -> None:
    rows = dict(re.findall(rf"(?m)^\| `{PREFIX}([A-Z_]+)` \| `?([^`|]*?)`? \|", README))
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        expected[name.upper()] = str(default) if default or default == 0 else "empty"

    assert {name: value.replace("frozenset()", "empty") for name, value in rows.items()} == expected


def test_every_make_command_that_is_named_exists() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", MAKEFILE))
    texts = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`?(?:\$ |`)make ([a-z][a-z-]+)", texts))

    assert len(named) >= 6
    assert named <= targets


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_local_link_leads_to_a_file(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]

    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_address_in_the_tables_is_a_route(tmp_path: Path) -> None:
    application = create_app(Settings(models=tmp_path / "models", data=tmp_path / "data"))
    routes = set(application.openapi()["paths"]) | {"/docs", "/openapi.json"}
    named = set(re.findall(r"(?m)`(?:GET |POST |PUT )?(/(?:v1|health|docs|openapi|metrics)[^`\s?]*)", README))

    assert len(named) >= 8
    assert {re.sub(r"\{id\}", "{inspection_id}", path) for path in named} <= routes


def test_no_document_names_the_place_where_it_was_written() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "constraints.txt", ROOT / "Makefile"]

    for document in documents:
        text = document.read_text(encoding="utf-8")
        assert not re.search(r"(?m)(/(?:home|root)/|file://|--(extra-)?index-url)", text), document

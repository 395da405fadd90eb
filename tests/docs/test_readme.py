"""README and documents name what exists: make targets, files, paths of the API, and the output of `make demo`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.app import create_app
from service.cli.options import CLIENT_VARIABLES
from service.settings import PREFIX, Settings
from tests.docs.blocks import ROOT, blocks_of
from tests.ray_serve import HAPROXY_VARIABLE

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 160


@pytest.mark.slow
def test_the_output_of_the_demo_is_what_the_program_prints(tmp_path: Path) -> None:
    (shown,) = [block.text for block in blocks_of(ROOT / "README.md") if block.language == "text"]
    done = subprocess.run(
        [sys.executable, "-m", "service.cli.demo", "--out", str(tmp_path), "--port", "0"],
        cwd=ROOT,
        env={"COLUMNS": "80", "PATH": "", "PLUMBLINE_PROVIDER": "cpu", "PYTHONPATH": str(ROOT / "client")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert comparable(shown)
    assert comparable(shown) == [line for line in comparable(done.stdout) if line in comparable(shown)]


def comparable(output: str) -> list[str]:
    """Return the lines of the table and its title, without the column of milliseconds."""
    lines = [re.sub(r"│[^│]*│$", "│", line.rstrip()) for line in output.splitlines()]
    return [line for line in lines if line.startswith(("│", " ")) and "Starting" not in line]


def test_every_make_command_that_is_named_exists() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", MAKEFILE))
    texts = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    named = set(re.findall(r"(?:`|^|\$ )make ([a-z][a-z-]+)", texts, re.MULTILINE))

    assert len(named) >= 6
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_local_link_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    # docs/generate.py adds openapi.json to the site.
    local = [link for link in links if not link.startswith("http") and link != "../openapi.json"]

    assert [link for link in local if not (document.parent / link).exists()] == []


def test_every_path_of_the_api_that_is_named_is_a_route(tmp_path: Path) -> None:
    application = create_app(Settings(models=tmp_path / "models", data=tmp_path / "data"))
    routes = {*application.openapi()["paths"], "/docs", "/openapi.json", "/v1/products/{product}/stream"}
    texts = "".join(document.read_text(encoding="utf-8") for document in [ROOT / "README.md", *PAGES])
    named = set(re.findall(r"(?m)[`\s'](?:GET |POST |PUT )?(/(?:v1|health|docs|openapi|metrics)[^`'\s?,;]*)", texts))
    named |= set(re.findall(r"http://127\.0\.0\.1:8000(/[^\s'\"`?>)]*)", texts))
    places = {
        r"\{id\}|(?<=/inspections/)INSPECTION": "{inspection_id}",
        r"/products/(?:my-washer|washer|bracket)": "/products/{product}",
        r"/bundles/VERSION": "/bundles/{version}",
        r"/projects/washer/models/1": "/projects/{product}/models/{model_version}",
    }
    for pattern, place in places.items():
        named = {re.sub(pattern, place, path) for path in named}

    assert len(named) >= 12
    assert named - routes == set()


def test_every_setting_that_is_named_exists() -> None:
    settings = {f"{PREFIX}{setting.upper()}" for setting in Settings.model_fields}
    others = {"PLUMBLINE_URL", "PLUMBLINE_TEST_DATA", "PLUMBLINE_STRICT_SKIPS", "PLUMBLINE_PUBLISHED_PORT"}
    others.add(HAPROXY_VARIABLE)
    proxy = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    others |= set(re.findall(rf"\b{PREFIX}(?:PROXY|REPLICA)[A-Z_]*", proxy))
    for document in DOCUMENTS:
        named = set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", document.read_text(encoding="utf-8")))
        assert named - settings - others - CLIENT_VARIABLES == set(), document


def test_documents_contain_no_local_paths_or_package_indexes() -> None:
    for document in [*DOCUMENTS, ROOT / "constraints.txt", ROOT / "Makefile", ROOT / "mkdocs.yml"]:
        text = document.read_text(encoding="utf-8")
        assert not re.search(r"(?m)(/(?:home|root|work)/|file:///(?!mnt/)|--(extra-)?index-url)", text), document


def test_the_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    rows = re.findall(r"(?m)^\| [^|]+ \| (\d+\.\d+) \| (\d+\.\d+) \| (?:(\d+\.\d+) \| (\d+\.\d+))?", README)
    means = [line for line in (ROOT / "docs/benchmarks.md").read_text().splitlines() if "mean" in line]

    assert len(rows) == 6
    measured = [row[:2] for row in rows] + [row[2:] for row in rows if row[2]]
    assert len(measured) == 7, "one method has figures of int8"
    for image_auroc, aupro in measured:
        assert any(re.search(rf"\| {image_auroc}\b.*\| {aupro}\b", line) for line in means), (image_auroc, aupro)

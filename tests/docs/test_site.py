"""The documentation site builds without warnings, and is read without the internet."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.api.http.problems import catalogue
from tests.docs.blocks import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Without --quiet: it hides warnings from --strict, which then passes.
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_problem_type_is_an_anchor_of_the_page_problems(site: Path) -> None:
    page = (site / "problems" / "index.html").read_text(encoding="utf-8")

    assert {slug for slug in catalogue() if f'<h2 id="{slug}">' not in page} == set()


def test_the_pages_load_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))

    assert len(pages) >= 20
    for page in pages:
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"?(https?:)?//", page.read_text())
        assert loaded == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet


def test_no_marker_and_no_attribute_is_left(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "generated:" not in text, page
        assert ".no-run" not in text, page


def test_the_generator_is_not_published_and_the_openapi_document_is(site: Path) -> None:
    assert list(site.rglob("generate.py")) == []
    assert (site / "openapi.json").is_file()

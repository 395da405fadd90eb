"""The files of the pages: unchanged files of npm packages, sizes, and how they are served."""

from __future__ import annotations

import ast
import hashlib
import re
import tomllib

import pytest

from service.web.assets import STATIC, Assets
from tests.running_service import RunningService

MAX_COMPRESSED_BYTES = 150_000
MAX_FIRST_LOAD_BYTES = 100_000


def test_vendored_files_are_those_of_the_packages() -> None:
    folder = STATIC / "vendor"
    packages = tomllib.loads((folder / "vendor.toml").read_text())["package"]
    listed = {"vendor.toml"}
    for package in packages:
        assert package["version"]
        assert package["license"] in {"0BSD", "MIT"}
        assert (folder / package["license_file"]).read_text().strip()
        listed.add(package["license_file"])
        for file in package["file"]:
            assert hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() == file["sha256"], file["name"]
            listed.add(file["name"])
    assert {path.name for path in folder.iterdir()} == listed


def test_no_file_refers_to_another_host() -> None:
    for path in STATIC.rglob("*"):
        if path.suffix in {".js", ".css", ".svg"} and path.parent.name != "vendor":
            text = path.read_text().replace("http://www.w3.org/", "")
            assert "http://" not in text, path
            assert "https://" not in text, path


def test_files_are_short_enough_to_read() -> None:
    for path in (*STATIC.glob("css/*.css"), *STATIC.glob("js/*.js")):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path.name


def test_every_colour_of_the_palette_is_stated_once_and_again_for_high_contrast() -> None:
    text = (STATIC / "css/palette.css").read_text(encoding="utf-8")
    names = re.findall(r"^  (--[\w-]+):", text, re.MULTILINE)
    assert len(names) > 40
    assert all(names.count(name) == 2 for name in names), "a theme of high contrast needs each of them"
    others = [path for path in (*STATIC.glob("css/*.css"), *STATIC.glob("js/*.js")) if path.name != "palette.css"]
    used = {name for path in others for name in re.findall(r"--[\w-]+", path.read_text(encoding="utf-8"))}
    assert set(names) <= used


def first_load(template: str) -> set[str]:
    """Return the files that a page needs: style sheets, scripts, and what these import."""
    folder = STATIC.parent / "templates"
    text = (folder / "base.html").read_text(encoding="utf-8") + (folder / template).read_text(encoding="utf-8")
    found = set(re.findall(r"asset\('([^' ]+\.(?:js|css|svg))'\)", text))
    (sheets,) = re.findall(r"for name in (\([^)]*\)) %}\n<link", text)
    found |= {f"css/{name}.css" for name in ast.literal_eval(sheets)}
    waiting = list(found)
    while waiting:
        script = (STATIC / waiting.pop()).read_text(encoding="utf-8")
        imported = {f"js/{name}" for name in re.findall(r'^import .*?"\./([\w-]+\.js)";$', script, re.MULTILINE)}
        waiting += imported - found
        found |= imported
    return found


@pytest.mark.parametrize("template", ["live.html", "review.html", "product.html", "product_recipe.html"])
def test_first_load_of_a_page_is_small(template: str) -> None:
    assets = Assets()
    files = {name: assets.find(assets.digest, name) for name in first_load(template)}
    sizes = {name: len(found.compressed or found.content) for name, found in files.items() if found is not None}
    assert sizes.keys() == files.keys() >= {"css/palette.css", "js/page.js", "js/api.js"}
    assert sum(sizes.values()) <= MAX_FIRST_LOAD_BYTES, sizes


def test_all_files_together_are_small() -> None:
    assets = Assets()
    total = 0
    for path in STATIC.rglob("*"):
        if path.suffix in {".js", ".css", ".svg"}:
            found = assets.find(assets.digest, path.relative_to(STATIC).as_posix())
            assert found is not None
            total += len(found.compressed or found.content)
    assert total <= MAX_COMPRESSED_BYTES


def test_browsers_keep_files_for_ever_and_request_those_of_a_new_version(service: RunningService) -> None:
    assets = Assets()
    url = assets.url("css/plumbline.css")
    compressed = service.client.get(url)
    assert (compressed.status_code, compressed.headers["content-encoding"]) == (200, "gzip")
    assert "immutable" in compressed.headers["cache-control"]
    plain = service.client.get(url, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == compressed.content == (STATIC / "css/plumbline.css").read_bytes()
    assert service.client.get(url.replace(assets.digest, "0" * 12)).status_code == 404
    for name in ("", "nothing.js", "../page.py", "..%2fpage.py", "/etc/passwd"):
        assert service.client.get(f"/web/assets/{assets.digest}/{name}").status_code == 404

"""The files of the pages: unchanged files of npm packages, sizes, and how they are served."""

from __future__ import annotations

import hashlib
import tomllib

from service.web.assets import STATIC, Assets
from tests.running_service import RunningService

MAX_COMPRESSED_BYTES = 150_000


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

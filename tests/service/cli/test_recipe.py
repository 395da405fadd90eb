"""`plumbline recipe` against a running service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbline_client import Client
from tests.command_line import run
from tests.running_service import Serve


@pytest.mark.slow
def test_recipes_of_a_running_service_are_shown_compared_changed_and_reverted(serve: Serve, tmp_path: Path) -> None:
    with serve() as service:
        at = ("--url", f"http://127.0.0.1:{service.port}")
        file = tmp_path / "widget.toml"
        assert run("recipe", "export", "widget", "--output", file, *at).exit_code == 0
        edited = file.read_text(encoding="utf-8").replace("min_area_px = 0.0", "min_area_px = 25.0")
        file.write_text(edited, encoding="utf-8")

        imported = run("recipe", "import", "widget", file, "--author", "Ada", "--reason", "dust", "--expect", "1", *at)
        assert (imported.exit_code, imported.stdout) == (0, "Revision 2 is in force.\n")
        stale = run("recipe", "import", "widget", file, "--author", "Ada", "--reason", "dust", "--expect", "1", *at)
        assert stale.exit_code == 1
        assert "is at revision 2" in stale.stderr

        assert "min_area_px = 25.0" in run("recipe", "show", "widget", *at).stdout
        assert "≤ 1 % on average, ≤ 3 % with 95 % confidence (n = 99)" in run("recipe", "show", "widget", *at).stdout
        assert json.loads(run("recipe", "show", "widget", "1", "--json", *at).stdout)["revision"] == 1
        again = run("recipe", "import", "widget", file, "--author", "Ada", "--reason", "once more", *at)
        assert (again.exit_code, again.stdout) == (0, "Nothing changed. Revision 2 is in force.\n")
        assert run("recipe", "import", "widget", file, *at).exit_code == 2, "a reason is required"
        assert run("recipe", "import", "widget", file, "--reason", " ", *at).exit_code == 2
        assert "plumbline recipe import PRODUCT FILE" in edited
        diff = run("recipe", "diff", "widget", "1", *at)
        assert (diff.exit_code, diff.stdout) == (1, "regions.min_area_px: 0.0 → 25.0\n")
        assert run("recipe", "diff", "widget", "2", "2", *at).exit_code == 0

        reverted = run("recipe", "revert", "widget", "1", "--author", "Ada", *at)
        assert (reverted.exit_code, reverted.stdout) == (0, "Revision 3 is in force: Revert to revision 1.\n")
        history = run("recipe", "history", "widget", *at)
        assert [word in history.stdout for word in ("Ada", "dust", "plumbline")] == [True, True, True]
        with Client(at[1]) as client:
            versions = {item.version for item in client.bundles("widget").items}
        assert any(version in history.stdout for version in versions), "not cut at 80 columns"
        assert [item["revision"] for item in json.loads(run("recipe", "history", "widget", "--json", *at).stdout)] == [
            3,
            2,
            1,
        ]


def test_recipe_command_reports_refusals_and_an_unreachable_service(serve: Serve, tmp_path: Path) -> None:
    with serve() as service:
        unknown = run("recipe", "show", "gadget", "--url", f"http://127.0.0.1:{service.port}")
    assert unknown.exit_code == 1
    assert "There is no product 'gadget' in the model repository" in unknown.stderr
    unreachable = run("recipe", "show", "widget", "--url", f"http://127.0.0.1:{service.port}")
    assert (unreachable.exit_code, "Check that the service is running" in unreachable.stderr) == (1, True)
    missing = run("recipe", "import", "widget", tmp_path / "none.toml", "--reason", "dust")
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (1, True)
    wrong = run("recipe", "show", "widget", "--url", "localhost:8000")
    assert (wrong.exit_code, "must begin with http:// or https://" in wrong.stderr) == (1, True)

"""CI's rule that a skipped test is a failure, tried on a small suite of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUITE = """
import pytest

def test_passes(): pass

def test_skips_inside(): pytest.skip("no browser: run make system-deps")

@pytest.mark.skipif(True, reason="no database server")
def test_skips_by_mark(): pass

@pytest.fixture
def camera(): pytest.skip("no camera")

def test_skips_in_a_fixture(camera): pass

@pytest.mark.may_skip(reason="no CI machine has a GPU")
def test_is_excused(): pytest.skip("no GPU")

@pytest.mark.xfail(strict=True)
def test_is_expected_to_fail(): assert False
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strict", "closing_line", "named"),
    [
        ("0", "1 passed, 4 skipped, 1 xfailed", []),
        (
            "1",
            "1 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors",
            ["run make system-deps", "no database server", "no camera"],
        ),
    ],
)
def test_skips_become_failures_that_still_name_the_remedy(
    strict: str, closing_line: str, named: list[str], tmp_path: Path
) -> None:
    done = run_suite(SUITE, strict, tmp_path)
    counts = done.stdout.strip().splitlines()[-1].strip("= ").split(" in ")[0]

    assert counts == closing_line, done.stdout
    assert all(reason in done.stdout for reason in named), done.stdout


@pytest.mark.slow
def test_a_file_that_skips_itself_is_a_failure_too(tmp_path: Path) -> None:
    suite = 'import pytest\npytest.importorskip("no_such_module")\n'
    done = run_suite(suite, "1", tmp_path)

    assert done.returncode != 0
    assert "could not import 'no_such_module'" in done.stdout


def run_suite(suite: str, strict: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "test_suite.py").write_text(suite)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.strict_skips", "--strict-markers", "-p", "no:cacheprovider"],
        cwd=folder,
        env=os.environ | {"PLUMBLINE_STRICT_SKIPS": strict, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

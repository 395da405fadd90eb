"""The last release beside the present one: its programs, unpacked from the history of this repository."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).parent / "last_release.toml"
_FOLDERS = ("service", "client/plumbline_client")


@dataclass(frozen=True)
class LastRelease:
    """What `last_release.toml` states.

    Attributes:
        version: The version, or what it is if it is no release.
        commit: A commit or a tag.
        revision: Its newest migration.
    """

    version: str
    commit: str
    revision: str

    @classmethod
    def read(cls) -> LastRelease:
        """Read the file."""
        return cls(**tomllib.loads(RECORD.read_text(encoding="utf-8")))

    def unpack(self, folder: Path, root: Path = ROOT) -> Path:
        """Unpack what its distributions contain, and skip the test if the history lacks the commit.

        The programs run with the libraries of the present environment. A wheel would contain the same files; to build
        one needs a build backend, which the environment of the tests does not have.

        Args:
            folder: A folder, which is created.
            root: The checkout.

        Returns:
            The folder.
        """
        command = ["git", "-C", str(root), "archive", "--format=tar", self.commit, *_FOLDERS]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip("git is not installed. It reads the last release from the history of this repository.")
        if done.returncode != 0:
            pytest.skip(
                f"The last release, {self.version}, cannot be read from the history: "
                f"{done.stderr.decode(errors='replace').strip()}. The test needs a checkout with the commit "
                f"{self.commit}: `git fetch --unshallow` after a shallow clone, or a clone instead of an archive."
            )
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        return folder

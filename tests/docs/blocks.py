"""Fenced code blocks of a document, and how they are run.

A block of bash or Python runs unless its info string says otherwise: ```` ```bash {.no-run reason="..."} ````.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
URL_IN_DOCUMENTS = "http://127.0.0.1:8000"
_FENCE = re.compile(r"^```(?P<info>[^`\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NO_RUN = re.compile(r'\{\.no-run reason="([^"]+)"\}$')


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        document: Name of the file that it is in.
        line: Line of its opening fence, 1-based.
        language: First word of the info string.
        reason: Why it does not run; None if it does.
        text: Its content.
    """

    document: str
    line: int
    language: str
    reason: str | None
    text: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown file in their order."""
    document = path.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(document):
        info = match["info"].strip()
        reason = _NO_RUN.search(info)
        assert reason or "{" not in info, f"{path.name}: unknown attributes in the info string {info!r}"
        line = document.count("\n", 0, match.start()) + 1
        language = info.partition(" ")[0]
        found.append(Block(path.name, line, language, reason[1] if reason else None, match["text"]))
    return found


def run(block: Block, folder: Path, url: str) -> str:
    """Run a block of bash or Python in a folder against a service and return its standard output.

    Args:
        block: The block; the URL in it is replaced by `url`, nothing else.
        folder: Working directory. `folder/bin`, if it exists, is searched first for programs.
        url: Base URL of the running service.
    """
    text = block.text.replace(URL_IN_DOCUMENTS, url)
    commands = {
        # curl fails if the service refuses: without --fail an error response would pass unnoticed.
        "bash": ["bash", "-euo", "pipefail", "-c", f'curl() {{ command curl --fail-with-body -sS "$@"; }}\n{text}'],
        "python": [sys.executable, "-c", text],
    }
    programs = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_")}
    environment = inherited | {
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client")]),
        "PLUMBLINE_URL": url,
        "PLUMBLINE_PROVIDER": "cpu",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
    }
    done = subprocess.run(
        commands[block.language],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{block.place} failed:\n{block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout

"""The commands in the README and in the tutorial work as they are printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, URL_IN_DOCUMENTS, Block, blocks_of, run
from tests.serving import service_process

README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
OPENAPI = json.loads((ROOT / "openapi.json").read_text(encoding="utf-8"))
SERVE = "plumbline serve\n"
RUNNABLE = ("bash", "python")
# What is output, data, or checked by a test of its own (C#).
OTHER = ("text", "csharp")

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not installed; install it with `make system-deps`"
)


def walk_through(document: Path, folder: Path) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a document in order; the block `plumbline serve` starts the service in the background."""
    with ExitStack() as stack:
        url = URL_IN_DOCUMENTS
        for block in blocks_of(document):
            if block.reason is not None or block.language not in RUNNABLE:
                continue
            text = block.text
            if text.endswith(SERVE):
                if before := text.removesuffix(SERVE):
                    yield block, run(Block(block.document, block.line, block.language, None, before), folder, url)
                settings = {"provider": "cpu"}
                service = stack.enter_context(service_process(folder / "models", folder / "data", settings))
                service.wait_until(200)
                url = service.url
                continue
            yield block, run(block, folder, url)


@pytest.mark.parametrize("document", [README, TUTORIAL], ids=lambda path: path.name)
def test_every_block_runs_or_says_why_not(document: Path) -> None:
    blocks = blocks_of(document)

    assert {block.language for block in blocks} <= {*RUNNABLE, *OTHER}
    for block in blocks:
        if block.reason is not None:
            assert block.language in RUNNABLE, block.place
            assert len(block.reason.split()) >= 5, block.place
            named = re.findall(r"\btests/[\w/]+\.py\b", block.reason)
            assert all((ROOT / name).is_file() for name in named), block.place
    assert sum(block.reason is None and block.language in RUNNABLE for block in blocks) >= 3


@needs_curl
@pytest.mark.slow
def test_the_commands_of_the_readme_work(tmp_path: Path) -> None:
    # What a reader has: the checkout with the shipped product and samples, and a data set of their own.
    shutil.copytree(ROOT / "models" / "washer", tmp_path / "models" / "washer")
    shutil.copytree(ROOT / "docs" / "samples", tmp_path / "docs" / "samples")
    draw_parts(tmp_path / "bracket", train=20, test=1)
    # The README trains with the default settings, which takes minutes; the program is replaced by one that trains a
    # small network. The tutorial trains a real one.
    wrap(
        tmp_path / "bin" / "plumbline-train",
        'if [ "$1" = fit ]; then set -- "$@" --method small --iterations 4 --input-size 64 --allow-weak; fi\n'
        f'exec "{sys.executable}" -m tests.training.small_cli "$@"',
    )

    outputs = [output for _, output in walk_through(README, tmp_path)]

    assert json.loads(outputs[-2])["decision"] == "fail"
    assert outputs[-1].startswith("fail ")
    assert (tmp_path / "heatmap.jpg").read_bytes().startswith(b"\xff\xd8")
    assert len(list((tmp_path / "models" / "bracket").iterdir())) == 1


@needs_curl
@pytest.mark.slow
def test_the_commands_of_the_tutorial_work(tmp_path: Path) -> None:
    outputs = {block.line: output for block, output in walk_through(TUTORIAL, tmp_path)}

    everything = "\n".join(outputs.values())
    assert '"part_id":"4711"' in everything.replace(" ", "")
    assert "x-plumbline-decision:" in everything.lower()
    assert "find smaller defects" in everything
    before, after = re.findall(r"(?m)^(?:\w+\.)?fail_threshold: ([\d.]+) → ([\d.]+)", everything)[0]
    assert float(after) < float(before)
    assert (tmp_path / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "results.csv").read_text().count("\n") == 1 + len(list((tmp_path / "washers/test").glob("*/*")))


def test_the_csharp_example_uses_what_the_service_offers(tmp_path: Path) -> None:
    (block,) = [block for block in blocks_of(README) if block.language == "csharp"]
    (url,) = re.findall(r'PostAsync\("([^"?]+)\?([^"]+)"', block.text)
    path, query = url
    operation = OPENAPI["paths"][path.replace("/washer/", "/{product}/")]["post"]
    fields = schema_of(operation["responses"]["201"]["content"]["application/json"]["schema"])["properties"]

    assert {pair.partition("=")[0] for pair in query.split("&")} <= {item["name"] for item in operation["parameters"]}
    assert set(re.findall(r'MediaTypeHeaderValue\("([^"]+)"\)', block.text)) <= set(operation["requestBody"]["content"])
    named = re.findall(r'GetProperty\("([^"]+)"\)', block.text)
    assert named
    assert set(named) <= set(fields)
    assert all((ROOT / name).is_file() for name in re.findall(r'ReadAllBytesAsync\("([^"]+)"\)', block.text))
    if dotnet := shutil.which("dotnet"):
        compile_csharp(dotnet, block.text, tmp_path)


def schema_of(schema: dict[str, Any]) -> dict[str, Any]:
    found: Any = OPENAPI
    for key in schema["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    resolved: dict[str, Any] = found
    return resolved


def compile_csharp(dotnet: str, text: str, folder: Path) -> None:
    version = subprocess.run([dotnet, "--version"], capture_output=True, text=True, check=True).stdout
    framework = f"net{version.split('.')[0]}.0"
    (folder / "Program.cs").write_text(text, encoding="utf-8")
    (folder / "example.csproj").write_text(
        '<Project Sdk="Microsoft.NET.Sdk"><PropertyGroup><OutputType>Exe</OutputType>'
        f"<TargetFramework>{framework}</TargetFramework><ImplicitUsings>enable</ImplicitUsings>"
        "</PropertyGroup></Project>",
        encoding="utf-8",
    )
    done = subprocess.run([dotnet, "build"], cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout


def draw_parts(folder: Path, *, train: int, test: int) -> None:
    sizes = ("--train", str(train), "--test", str(test), "--size", "128", "--seed", "1")
    program = [sys.executable, "-m", "training.demo.part", str(folder), *sizes]
    subprocess.run(program, cwd=ROOT, check=True, capture_output=True, timeout=120)


def wrap(program: Path, script: str) -> None:
    """Write a program that a block of a document starts instead of the installed one."""
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)

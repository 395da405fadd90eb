"""Write generated tables into a document, between two comments that name the section."""

from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def with_section(document: str, name: str, content: str) -> str:
    """Return the document with this content between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: The document does not have the section exactly once.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(end) < document.index(begin):
        raise ValueError(f"the document does not have one section {name!r}")
    head, rest = document.split(begin)
    return f"{head}{begin}\n\n{content.strip()}\n\n{end}{rest.split(end)[1]}"


def write_section(name: str, content: str, path: Path = BENCHMARKS) -> None:
    """Write this content into the section of a document."""
    path.write_text(with_section(path.read_text(encoding="utf-8"), name, content), encoding="utf-8")

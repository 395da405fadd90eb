"""A report, parsed: its sections, tables and tags. Tags must be nested properly."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"meta", "img", "br"})


@dataclass
class Table:
    """A table: its caption, and the cells of every row with the tag and the attributes of each."""

    caption: str = ""
    rows: list[list[str]] = field(default_factory=list)
    cells: list[list[tuple[str, dict[str, str | None]]]] = field(default_factory=list)

    def body(self) -> dict[str, list[str]]:
        """Return the rows below the head by the text of their first cell."""
        return {row[0]: row[1:] for row in self.rows[1:]}


class Page(HTMLParser):
    """The content of an HTML file."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self.headings: list[tuple[int, str]] = []
        self.tables: list[Table] = []
        self.style = ""
        self._open: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag in VOID:
            return
        self._open.append((tag, found.get("id")))
        if tag == "section" and (anchor := found.get("id")) is not None:
            assert anchor not in self.sections, anchor
            self.sections[anchor] = ""
        elif tag in {"h1", "h2", "h3", "h4"}:
            self.headings.append((int(tag[1]), ""))
        elif tag == "table":
            self.tables.append(Table())
        elif tag == "tr":
            self.tables[-1].rows.append([])
            self.tables[-1].cells.append([])
        elif tag in {"th", "td"}:
            self.tables[-1].rows[-1].append("")
            self.tables[-1].cells[-1].append((tag, found))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for tag, anchor in self._open:
            if tag == "section" and anchor is not None:
                self.sections[anchor] += data
        opened = [tag for tag, _ in self._open]
        if "style" in opened:
            self.style += data
        if self.headings and opened and opened[-1] in {"h1", "h2", "h3", "h4"}:
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)
        if "caption" in opened:
            self.tables[-1].caption = " ".join((self.tables[-1].caption + data).split())
        elif "th" in opened or "td" in opened:
            self.tables[-1].rows[-1][-1] = " ".join((self.tables[-1].rows[-1][-1] + data).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every tag of a name."""
        return [attrs for name, attrs in self.tags if name == tag]

    def table(self, caption: str) -> Table:
        """Return the table whose caption begins with a text."""
        (found,) = [table for table in self.tables if table.caption.startswith(caption)]
        return found

    def section(self, anchor: str) -> str:
        """Return the text of a section in one line."""
        return " ".join(self.sections[anchor].split())

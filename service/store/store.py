"""The store as one thing: database, files and group commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from service.store.database import open_engine
from service.store.errors import StoreUnavailable
from service.store.files import ArtefactFiles
from service.store.writer import GroupWriter


@dataclass(frozen=True)
class Store:
    """Everything that is remembered.

    Attributes:
        engine: For reading, and for recipes.
        files: Images and maps.
        writer: For inspections.
    """

    engine: Engine
    files: ArtefactFiles
    writer: GroupWriter

    @classmethod
    def open(cls, url: str, data: Path) -> Store:
        """Open or create the store.

        Args:
            url: SQLAlchemy URL of the database.
            data: The data folder.

        Raises:
            StoreUnavailable: The folder cannot be written or the database cannot be opened.
        """
        files = ArtefactFiles(data / "inspections")
        try:
            files.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"{files.root} cannot be made ({error.strerror})") from error
        engine = open_engine(url)
        return cls(engine, files, GroupWriter(engine))

    def close(self) -> None:
        """Let the database go."""
        self.engine.dispose()

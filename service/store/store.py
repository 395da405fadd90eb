"""The store: database, artefact files and group commit."""

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
    """The database and the artefact files.

    Attributes:
        engine: The database.
        files: Images and anomaly maps.
        writer: Commits inspections.
    """

    engine: Engine
    files: ArtefactFiles
    writer: GroupWriter

    @classmethod
    def open(cls, url: str, data: Path) -> Store:
        """Open the store, and create it if it does not exist.

        Args:
            url: SQLAlchemy URL of the database.
            data: The data folder.

        Raises:
            StoreUnavailable: The folder is not writable, or the database cannot be opened.
        """
        files = ArtefactFiles(data / "inspections")
        try:
            files.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"{files.root} cannot be created ({error.strerror})") from error
        engine = open_engine(url)
        return cls(engine, files, GroupWriter(engine))

    def close(self) -> None:
        """Close all database connections."""
        self.engine.dispose()

"""What the service would use for a product, read from its data folder and model repository without a server.

Commands that use this module only read: they create nothing and migrate nothing, whether the service is running or not.
Where it has never run, defaults apply.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from service.bundle.bundle import Bundle
from service.deployment.reference_scores import ReferenceScores
from service.deployment.replay import newest_since
from service.deployment.sources.opening import open_source
from service.deployment.sources.source import BundleSource
from service.errors import PlumblineError
from service.recipes.recipe import Recipe
from service.settings import Settings
from service.store.artefacts.opening import open_files
from service.store.choices import BundleChoices
from service.store.database import open_read_only_engine, sqlite_path
from service.store.errors import StoreUnavailable, UnknownInspection
from service.store.ids import parse_id
from service.store.inspections import get_inspection
from service.store.options import StoreOptions
from service.store.recipes import current_recipe
from service.store.records import InspectionRecord
from service.store.store import Store


@contextmanager
def open_bundles(settings: Settings) -> Iterator[BundleSource]:
    """Open the bundles that the service would serve: those of the model repository, or of the bundle store.

    Raises:
        StoreUnavailable: There is a bundle store, and the database that lists its bundles cannot be read.
        OSError: There is a bundle store, and the folder of its cache cannot be created.
    """
    if not settings.bundle_store:
        yield open_source(settings, None)
        return
    with open_deployed(settings) as deployed:
        yield deployed.source


def known_products(settings: Settings) -> list[str]:
    """Return the names of all products, sorted.

    Raises:
        StoreUnavailable, OSError: As for `open_bundles`.
    """
    with open_bundles(settings) as source:
        return sorted(source.products())


@dataclass(frozen=True)
class Deployed:
    """What the service would use for its products.

    Attributes:
        source: The bundles.
        engine: The database; None if there is none.
    """

    source: BundleSource
    engine: Engine | None

    def products(self) -> list[str]:
        """Return the names of all products, sorted.

        Raises:
            StoreUnavailable, OSError: As for `open_bundles`.
        """
        return sorted(self.source.products())

    def version(self, product: str) -> str:
        """Return the version of the bundle that the service would serve: the activated one, otherwise the default.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        choice = None if self.engine is None else BundleChoices(self.engine).current(product, "active")
        chosen = None if choice is None else choice.version
        return chosen or self.source.defaults(product)[0]

    def recipe(self, bundle: Bundle) -> tuple[Recipe, Sequence[float]]:
        """Return the recipe that the service would use: the stored one for this bundle, otherwise the default.

        Returns:
            The recipe, and the scores of good images from which p-values are computed, ascending.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        engine = self.engine
        current = None if engine is None else current_recipe(engine, bundle.manifest.product)
        if engine is not None and current is not None and current.bundle_digest == bundle.digest:
            return current.recipe, ReferenceScores(engine).scores(bundle, current.recipe)
        return Recipe.default(bundle.card.scores), bundle.card.scores


@contextmanager
def open_deployed(settings: Settings) -> Iterator[Deployed]:
    """Open the bundles and the database once, for any number of products.

    Raises:
        StoreUnavailable: The database cannot be read.
        OSError: There is a bundle store, and the folder of its cache cannot be created.
    """
    with open_engine_if_exists(settings) as engine:
        source = open_source(settings, engine)
        try:
            yield Deployed(source, engine)
        finally:
            source.close()


@contextmanager
def open_engine_if_exists(settings: Settings) -> Iterator[Engine | None]:
    """Open the database of the service for reading; None if there is none.

    Raises:
        StoreUnavailable: It cannot be read, or it has the schema of another version.
    """
    path = sqlite_path(settings.database)
    if path is not None and not path.exists():
        yield None
        return
    engine = open_read_only_engine(settings.database, StoreOptions.of(settings).database)
    try:
        yield engine
    finally:
        engine.dispose()


class InvalidTime(ValueError):
    """A text is not a time in ISO 8601. The message states what is expected."""


def parse_time(text: str) -> datetime:
    """Return a time in ISO 8601, in local time if it has no zone.

    Raises:
        InvalidTime: It is not a time.
    """
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError) as error:  # the latter for years that the system cannot convert
        raise InvalidTime(
            f"{text!r} is not a time in ISO 8601, for example 2026-01-31, 2026-01-31T14:30 or 2026-01-31T14:30+01:00."
        ) from error


@contextmanager
def open_store(settings: Settings) -> Iterator[Store]:
    """Open the store of the service, whether the service is running or not.

    Raises:
        StoreUnavailable: There is no database, or it cannot be read.
    """
    with open_engine_if_exists(settings) as engine:
        if engine is None:
            raise StoreUnavailable(
                f"there is no database {sqlite_path(settings.database)}",
                remedy="Give the data folder of the service with --data or PLUMBLINE_DATA, or its database with "
                "PLUMBLINE_DATABASE_URL.",
            )
        store = Store(engine, open_files(StoreOptions.of(settings).artefacts, settings.data), settings.data)
        try:
            yield store
        finally:
            store.files.close()


def stored_inspections(
    store: Store, ids: Sequence[str], product: str | None, since: str | None, limit: int
) -> Iterator[tuple[str, InspectionRecord | PlumblineError]]:
    """Iterate over inspections that are selected by ids, or by product and time.

    Args:
        store: The store of the service.
        ids: Ids of inspections; if empty, the other arguments select.
        product: Only inspections of this product.
        since: Only inspections from this time on, in ISO 8601; local time if it has no zone.
        limit: Largest number of inspections, the newest.

    Yields:
        The id, and the inspection or the reason why it cannot be returned.

    Raises:
        InvalidTime: `since` is not a time in ISO 8601.
        StoreUnavailable: The database cannot be read.
    """
    if not ids:
        start = None if since is None else parse_time(since)
        yield from ((record.id, record) for record in newest_since(store.engine, product, start, limit))
        return
    for inspection_id in ids:
        try:
            yield inspection_id, get_inspection(store.engine, parse_id(inspection_id))
        except UnknownInspection as error:
            yield inspection_id, error

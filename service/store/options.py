"""Options of the store, taken from the settings of the service."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from service.settings import Settings
from service.store.artefacts.options import ArtefactOptions
from service.store.postgres import DatabaseOptions


@dataclass(frozen=True)
class StoreOptions:
    """Options of the store.

    Attributes:
        database: Limits of the connections to a database server.
        artefacts: Where images and anomaly maps are stored.
    """

    database: DatabaseOptions = field(default_factory=DatabaseOptions)
    artefacts: ArtefactOptions = field(default_factory=ArtefactOptions)

    @classmethod
    def of(cls, settings: Settings) -> StoreOptions:
        """Return the options that the settings give."""
        return cls(
            database=DatabaseOptions(
                pool_size=settings.database_pool_size,
                connect_timeout_s=settings.database_connect_timeout_s,
                statement_timeout_s=settings.database_statement_timeout_s,
                lock_timeout_s=settings.database_lock_timeout_s,
            ),
            artefacts=ArtefactOptions(
                url=settings.artefacts_url,
                s3_endpoint_url=settings.s3_endpoint_url,
                connect_timeout_s=settings.artefacts_connect_timeout_s,
                read_timeout_s=settings.artefacts_read_timeout_s,
                attempts=settings.artefacts_attempts,
            ),
        )


def bundle_store_options(settings: Settings) -> ArtefactOptions:
    """Return where the bundle store is, and the limits of requests to it."""
    return replace(StoreOptions.of(settings).artefacts, url=settings.bundle_store)

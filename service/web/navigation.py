"""The pages that a person may open, in the order of the navigation bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.access.principal import Principal, Scope
from service.languages import mark as _


@dataclass(frozen=True)
class Entry:
    """A page in the navigation bar.

    Attributes:
        path: Its path.
        title: Its title in English, a message of the catalogue.
        scope: The scope that it needs.
    """

    path: str
    title: str
    scope: Scope


ENTRIES: tuple[Entry, ...] = (
    Entry("/", _("Live"), "inspect"),
    Entry("/review", _("Review"), "review"),
    Entry("/products", _("Products"), "engineer"),
    Entry("/inspections", _("Inspections"), "engineer"),
    Entry("/try", _("Try it"), "engineer"),
    Entry("/system", _("System"), "engineer"),
)


def entries_for(principal: Principal) -> Sequence[Entry]:
    """Return the pages that a principal may open."""
    return [entry for entry in ENTRIES if entry.scope in principal.scopes]

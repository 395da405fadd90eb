"""Restrictions of a principal to certain products and stations."""

from __future__ import annotations

from service.access.errors import NotPermitted
from service.access.principal import Principal


def require_product(principal: Principal, product: str) -> None:
    """Check that a principal may use a product. Whether the product exists does not matter.

    Raises:
        NotPermitted: It may not.
    """
    if principal.products is not None and product not in principal.products:
        raise NotPermitted.product(product, principal.products)


def require_all_stations(principal: Principal) -> None:
    """Check that a principal may use all stations, for what was computed from the parts of all of them.

    Raises:
        NotPermitted: It is restricted to certain stations.
    """
    if principal.stations is not None:
        raise NotPermitted.everything()


def stations_of(principal: Principal) -> tuple[str, ...] | None:
    """Return the stations that a principal may use, ascending; None for all."""
    return None if principal.stations is None else tuple(sorted(principal.stations))


def station_of(principal: Principal, stated: str | None) -> str | None:
    """Return the station of a part that a principal sends: the stated one, or the only one that it may use.

    Raises:
        NotPermitted: The principal may not use the station, or has to state one of several.
    """
    permitted = principal.stations
    if permitted is None:
        return stated
    if stated is None and len(permitted) == 1:
        return next(iter(permitted))
    if stated is None or stated not in permitted:
        raise NotPermitted.station(stated, permitted)
    return stated

"""The check of `plumbline doctor` for the removal of old records."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine

from service.cli.findings import Finding, Health
from service.cli.offline import known_products, open_engine_if_exists
from service.errors import PlumblineError
from service.record_days import RecordDays, parse_record_days
from service.settings import Settings
from service.store.errors import RecipeUnreadable, StoreUnavailable
from service.store.recipes import current_recipe
from service.store.record_removal.pieces import oldest_record, stored_products
from service.store.record_removal.state import record_removals


def check_records(settings: Settings) -> Iterator[Finding]:
    """Report how long records of inspections are kept, and what prevents their removal."""
    days = parse_record_days(settings.record_days)
    try:
        with open_engine_if_exists(settings) as engine:
            products = [] if engine is None else stored_products(engine)
            text = "kept for ever" if not days.removes else f"kept for PLUMBLINE_RECORD_DAYS={days.text}"
            if engine is not None:
                text += _stored(engine, products)
            yield Finding("records", Health.OK, text)
            if engine is not None:
                yield from _without_effect(engine, days, products)
    except StoreUnavailable:
        return  # the check of the database reports it
    unknown = days.of_products.keys() - set(products) - _known(settings)
    if unknown:
        text = f"PLUMBLINE_RECORD_DAYS names products without inspections and bundles: {', '.join(sorted(unknown))}"
        yield Finding("records", Health.WARNING, text, "Check their spelling.")


def _stored(engine: Engine, products: list[str]) -> str:
    oldest = min((moment for name in products if (moment := oldest_record(engine, name)) is not None), default=None)
    text = "; none is stored" if oldest is None else f"; the oldest is of {oldest:%Y-%m-%d}"
    removals = record_removals(engine)
    if removals:
        number, until = sum(one.removed for one in removals), max(one.removed_until for one in removals)
        text += f"; {number:,} up to {until:%Y-%m-%d} were removed"
    return text


def _without_effect(engine: Engine, days: RecordDays, products: list[str]) -> Iterator[Finding]:
    """Report products of which no record is removed, because the recipe keeps the images of good parts for ever."""
    kept = []
    for product in products:
        if days.of_products.get(product, days.days) is None:
            continue
        try:
            revision = current_recipe(engine, product)
        except RecipeUnreadable:
            continue
        if revision is None or ("pass" not in revision.recipe.retention and revision.recipe.storage.max_bytes is None):
            kept.append(product)
    if kept:
        text = f"images of good parts are kept for ever, and their records with them: {', '.join(kept)}"
        remedy = "Limit `retention` or `storage` in the recipes; a record is removed only after its image."
        yield Finding("records", Health.WARNING, text, remedy)


def _known(settings: Settings) -> set[str]:
    try:
        return set(known_products(settings))
    except (PlumblineError, OSError):
        return set()  # other checks report it

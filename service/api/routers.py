"""The routers of the API, in the order in which they are tried."""

from __future__ import annotations

from service.api.routes import (
    access,
    accounts,
    alarms,
    audit,
    batches,
    bundles,
    drift,
    events,
    health,
    inspections,
    lookout,
    open_inference,
    outbox,
    previews,
    products,
    proposals,
    recipe_previews,
    recipes,
    records,
    replays,
    reports,
    reviews,
    shadows,
    stream,
    system,
    trials,
)

ROUTERS = tuple(
    module.router
    for module in (
        inspections,
        trials,
        previews,
        records,
        events,
        batches,
        replays,
        reviews,
        reports,
        products,
        recipes,
        recipe_previews,
        proposals,
        bundles,
        drift,
        shadows,
        audit,
        access,
        accounts,
        open_inference,
        lookout,
        outbox,
        alarms,
        health,
        system,
        stream,
    )
)

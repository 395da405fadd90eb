"""The routers of the pages, in the order in which they are tried."""

from __future__ import annotations

from service.web.routes import (
    inspections,
    live,
    log_in,
    product,
    product_drift,
    product_history,
    product_recipe,
    product_report,
    product_versions,
    products,
    review,
    system,
    training,
    trials,
)

PAGE_ROUTERS = tuple(
    module.router
    for module in (
        log_in,
        live,
        review,
        products,
        product,
        product_recipe,
        product_history,
        product_versions,
        product_drift,
        product_report,
        inspections,
        trials,
        training,
        system,
    )
)

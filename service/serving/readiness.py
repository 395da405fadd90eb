"""Readiness: whether this instance should receive images, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.deployment.failures import BrokenBundle
from service.deployment.registry import Registry
from service.inspection.errors import ProviderUnavailable
from service.serving.admission import Admission
from service.store.health import StoreHealth

_MOST_NAMED = 5
ReadinessStatus = Literal["ready", "degraded", "loading", "draining", "not-ready"]


@dataclass(frozen=True)
class ReadinessReport:
    """The state of the service.

    Attributes:
        status: "ready" and "degraded" accept images.
        reasons: What is wrong, one sentence each.
        products: Names of the products that are served, sorted.
        broken_bundles: Bundles that should be served and are not.
    """

    status: ReadinessStatus
    reasons: tuple[str, ...]
    products: Sequence[str]
    broken_bundles: Sequence[BrokenBundle]

    @property
    def is_ready(self) -> bool:
        """Whether images should be sent to this instance."""
        return self.status in {"ready", "degraded"}


@dataclass(frozen=True)
class ReadinessCheck:
    """Determines the readiness of the service.

    A broken bundle makes the service degraded, not unready: otherwise a load balancer would take the working products
    out of service together with the broken one. Products that must be served are named in the settings.

    Attributes:
        registry: Products and the bundles that serve them.
        admission: Admission of inspections; while it drains, the service is not ready.
        store_health: What prevents verdicts from being stored; while anything does, the service is not ready.
        required_products: Products without which the service is not ready.
    """

    registry: Registry
    admission: Admission
    store_health: StoreHealth
    required_products: frozenset[str]

    def __call__(self) -> ReadinessReport:
        """Return the state of the service now."""
        status, reasons = self._status()
        return ReadinessReport(status, reasons, sorted(self.registry.active), self.registry.broken)

    def _status(self) -> tuple[ReadinessStatus, tuple[str, ...]]:
        if self.admission.is_draining:
            return "draining", ("The service is stopping.",)
        registry, store_problems = self.registry, self.store_health.problems
        if registry.loading:
            return "loading", ("Bundles are being loaded.", *store_problems)
        reasons = [broken.reason for broken in registry.broken]
        if registry.delayed:
            reasons.append(f"Bundles are still being loaded: {', '.join(sorted(registry.delayed))}.")
        missing = sorted(self.required_products - registry.active.keys())
        if missing:
            reasons.insert(0, f"Required products are not served: {', '.join(missing)}.")
        if not registry.known:
            reasons.insert(0, registry.source.empty_reason)
        elif not reasons and not registry.active:
            # The first upload of a product stores the choice that none of its bundles is active.
            reasons.append(_none_active(sorted(registry.known)))
        # If a GPU was requested explicitly, the CPU would be too slow for the expected load.
        provider_unavailable = any(broken.slug == ProviderUnavailable.slug for broken in registry.broken)
        if store_problems or missing or provider_unavailable or not registry.active:
            reasons[:0] = store_problems
            return "not-ready", tuple(reasons)
        return "degraded" if reasons else "ready", tuple(reasons)


def _none_active(products: Sequence[str]) -> str:
    others = len(products) - _MOST_NAMED
    names = ", ".join(products[:_MOST_NAMED]) + (f" and {others} others" if others > 0 else "")
    return f"None of the bundles is active. Activate one of {names}."

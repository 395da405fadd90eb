"""Is this the right place to send images to, and if not, why?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.deployment.registry import Registry
from service.inspection.errors import ProviderUnavailable
from service.serving.admission import Admission
from service.settings import Settings

ReadinessStatus = Literal["ready", "degraded", "loading", "draining", "not-ready"]


@dataclass(frozen=True)
class ReadinessVerdict:
    """The answer. "ready" and "degraded" take images; the reasons say what is amiss."""

    status: ReadinessStatus
    reasons: tuple[str, ...]

    @property
    def is_ready(self) -> bool:
        return self.status in {"ready", "degraded"}


@dataclass(frozen=True)
class ReadinessCheck:
    """Judges the state of the service.

    A broken bundle makes the service degraded, not unready: a load balancer would take the products that
    work out of service with the one that does not. Products that must not be missing are named in the
    settings.
    """

    settings: Settings
    registry: Registry
    admission: Admission

    def __call__(self) -> ReadinessVerdict:
        if self.admission.draining:
            return ReadinessVerdict("draining", ("The service is stopping.",))
        registry = self.registry
        if registry.loading:
            return ReadinessVerdict("loading", ("Bundles are being loaded.",))
        reasons = [broken.reason for broken in registry.broken]
        missing = sorted(self.settings.required_products - registry.active.keys())
        if missing:
            reasons.insert(0, f"Required products are not served: {', '.join(missing)}.")
        if not registry.known:
            reasons.insert(0, f"The model repository {registry.models} holds no bundle.")
        # Whoever demanded a GPU sized the line for it; on the CPU it would be late with every verdict.
        refused = any(broken.slug == ProviderUnavailable.slug for broken in registry.broken)
        if missing or refused or not registry.active:
            return ReadinessVerdict("not-ready", tuple(reasons))
        return ReadinessVerdict("degraded" if reasons else "ready", tuple(reasons))

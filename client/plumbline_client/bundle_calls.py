"""What the Python client can do with models in operation, in its sync and its async form."""

from __future__ import annotations

from plumbline_client.calls import Call
from plumbline_client.schemas.bundle import (
    Activation,
    BundleList,
    BundleRecord,
    ChoiceRecord,
    ComparisonRecord,
    ReplayRecord,
)


class BundleCalls:
    """The part of `Client` that is about bundles."""

    def _send(self, call: Call) -> bytes:
        raise NotImplementedError

    def bundles(self, product: str) -> BundleList:
        """A product's bundles, newest first, and what they are doing."""
        return BundleList.model_validate_json(self._send(_list(product)))

    def upload_bundle(self, product: str, archive: bytes) -> BundleRecord:
        """Put a bundle into the model repository; it decides nothing until it is activated.

        Args:
            product: Whose bundle.
            archive: A zip file as `plumbline bundle export` writes it.
        """
        return BundleRecord.model_validate_json(self._send(_upload(product, archive)))

    def activate_bundle(self, product: str, version: str, *, author: str, reason: str) -> Activation:
        """Let a bundle decide; it serves when this returns.

        Raises:
            ServiceProblem: It would not be served, or somebody else changes bundles now. The old one stays.
        """
        return Activation.model_validate_json(self._send(_decide(product, f"/{version}:activate", author, reason)))

    def roll_back_bundle(self, product: str, *, author: str, reason: str) -> Activation:
        """Return to the bundle that was active before."""
        return Activation.model_validate_json(self._send(_decide(product, ":rollback", author, reason)))

    def shadow_bundle(self, product: str, version: str, *, author: str, reason: str) -> ChoiceRecord:
        """Let a bundle judge what the active one decided."""
        return ChoiceRecord.model_validate_json(self._send(_decide(product, f"/{version}:shadow", author, reason)))

    def stop_shadow(self, product: str, *, author: str, reason: str) -> ChoiceRecord:
        """Let nobody watch any more."""
        return ChoiceRecord.model_validate_json(self._send(_decide(product, ":stop-shadow", author, reason)))

    def compare_bundles(
        self, product: str, *, active: str | None = None, shadow: str | None = None, limit: int = 1000
    ) -> ComparisonRecord:
        """What two bundles said about the same images; by default the active one and the latest shadow."""
        return ComparisonRecord.model_validate_json(self._send(_compare(product, active, shadow, limit)))

    def replay(self, inspection_id: str) -> ReplayRecord:
        """Have a stored image decided again, with the bundle and the recipe that its inspection names."""
        return ReplayRecord.model_validate_json(self._send(_replay(inspection_id)))


class AsyncBundleCalls:
    """The part of `AsyncClient` that is about bundles."""

    async def _send(self, call: Call) -> bytes:
        raise NotImplementedError

    async def bundles(self, product: str) -> BundleList:
        """As `Client.bundles`."""
        return BundleList.model_validate_json(await self._send(_list(product)))

    async def upload_bundle(self, product: str, archive: bytes) -> BundleRecord:
        """As `Client.upload_bundle`."""
        return BundleRecord.model_validate_json(await self._send(_upload(product, archive)))

    async def activate_bundle(self, product: str, version: str, *, author: str, reason: str) -> Activation:
        """As `Client.activate_bundle`."""
        call = _decide(product, f"/{version}:activate", author, reason)
        return Activation.model_validate_json(await self._send(call))

    async def roll_back_bundle(self, product: str, *, author: str, reason: str) -> Activation:
        """As `Client.roll_back_bundle`."""
        return Activation.model_validate_json(await self._send(_decide(product, ":rollback", author, reason)))

    async def shadow_bundle(self, product: str, version: str, *, author: str, reason: str) -> ChoiceRecord:
        """As `Client.shadow_bundle`."""
        call = _decide(product, f"/{version}:shadow", author, reason)
        return ChoiceRecord.model_validate_json(await self._send(call))

    async def stop_shadow(self, product: str, *, author: str, reason: str) -> ChoiceRecord:
        """As `Client.stop_shadow`."""
        return ChoiceRecord.model_validate_json(await self._send(_decide(product, ":stop-shadow", author, reason)))

    async def compare_bundles(
        self, product: str, *, active: str | None = None, shadow: str | None = None, limit: int = 1000
    ) -> ComparisonRecord:
        """As `Client.compare_bundles`."""
        return ComparisonRecord.model_validate_json(await self._send(_compare(product, active, shadow, limit)))

    async def replay(self, inspection_id: str) -> ReplayRecord:
        """As `Client.replay`."""
        return ReplayRecord.model_validate_json(await self._send(_replay(inspection_id)))


def _list(product: str) -> Call:
    return Call("GET", f"/v1/products/{product}/bundles")


def _upload(product: str, archive: bytes) -> Call:
    headers = {"content-type": "application/zip"}
    return Call("POST", f"/v1/products/{product}/bundles", content=archive, headers=headers)


def _decide(product: str, what: str, author: str, reason: str) -> Call:
    return Call("POST", f"/v1/products/{product}/bundles{what}", json={"author": author, "reason": reason})


def _compare(product: str, active: str | None, shadow: str | None, limit: int) -> Call:
    params: dict[str, str | int] = {"limit": limit}
    params |= {name: version for name, version in (("active", active), ("shadow", shadow)) if version}
    return Call("GET", f"/v1/products/{product}/bundles:compare", params)


def _replay(inspection_id: str) -> Call:
    return Call("POST", f"/v1/inspections/{inspection_id}:replay")

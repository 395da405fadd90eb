"""Bundles: upload, activation, shadow deployment, comparison."""

from __future__ import annotations

from urllib.parse import quote

from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import Call, given, inspection_path, product_path
from plumbline_client.schemas.bundle import Activation, BundleList, BundleRecord, ChoiceRecord, ComparisonRecord


class AsyncBundleCalls(AsyncConnection):
    """The part of `AsyncClient` that deals with bundles."""

    async def bundles(self, product: str) -> BundleList:
        """Return the bundles of a product, newest first, with their state."""
        return await self._load(BundleList, Call("GET", f"{product_path(product)}/bundles"))

    async def upload_bundle(self, product: str, archive: bytes, *, create_product: bool = False) -> BundleRecord:
        """Add a bundle to the model repository. It is not used until it is activated or deployed as shadow.

        Args:
            product: Name of the product.
            archive: A zip file as `plumbline bundle export` writes it.
            create_product: Create the product if the service does not know it.

        Raises:
            ServiceProblem: The archive is not a valid bundle of this product, or the product is unknown.
        """
        headers = {"content-type": "application/zip"}
        params = {"create_product": "true"} if create_product else {}
        call = Call("POST", f"{product_path(product)}/bundles", params, content=archive, headers=headers)
        return await self._load(BundleRecord, call)

    async def activate_bundle(
        self,
        product: str,
        version: str,
        *,
        author: str | None = None,
        reason: str,
        confirm_removal: int | None = None,
    ) -> Activation:
        """Activate a bundle. It serves when this method returns.

        Args:
            product: Name of the product.
            version: Version of the bundle.
            author: Person who activates it. With authentication, the service records the authenticated name.
            reason: Reason, for the history.
            confirm_removal: Accept that the images and maps of this number of inspections are removed.

        Raises:
            ServiceProblem: The bundle cannot be served, or another change of bundles is in progress. The active bundle
                stays active.
        """
        action = f"/{quote(version, safe='')}:activate"
        return await self._load(Activation, _change(product, action, author, reason, confirm_removal))

    async def roll_back_bundle(
        self, product: str, *, author: str | None = None, reason: str, confirm_removal: int | None = None
    ) -> Activation:
        """Activate the bundle that was active before the current one."""
        return await self._load(Activation, _change(product, ":rollback", author, reason, confirm_removal))

    async def shadow_bundle(
        self, product: str, version: str, *, author: str | None = None, reason: str
    ) -> ChoiceRecord:
        """Deploy a bundle as shadow: it inspects the same images as the active bundle, without effect on decisions."""
        return await self._load(ChoiceRecord, _change(product, f"/{quote(version, safe='')}:shadow", author, reason))

    async def stop_shadow(self, product: str, *, author: str | None = None, reason: str) -> ChoiceRecord:
        """End the shadow deployment of a product."""
        return await self._load(ChoiceRecord, _change(product, ":stop-shadow", author, reason))

    async def shadow_heatmap(
        self, inspection_id: str, *, version: str | None = None, max_side: int | None = None
    ) -> bytes:
        """Return the heatmap alone of an inspection's image by the shadow bundle, as a PNG with transparency.

        Args:
            inspection_id: Id of the inspection.
            version: Version of the bundle; None for the shadow that is loaded.
            max_side: Longest side in pixels; None for the default of the service.

        Raises:
            ServiceProblem: The bundle is not the shadow now, or the image is no longer stored.
        """
        params = given({"version": version, "max_side": max_side})
        return await self._send(Call("GET", f"{inspection_path(inspection_id)}/shadow-heatmap", params))

    async def compare_bundles(
        self, product: str, *, active: str | None = None, shadow: str | None = None, limit: int = 1000
    ) -> ComparisonRecord:
        """Compare the decisions of two bundles on the same images.

        Args:
            product: Name of the product.
            active: Version of the first bundle; the active one by default.
            shadow: Version of the second bundle; the latest shadow by default.
            limit: Largest number of inspections that are compared, the newest.
        """
        params = {"limit": limit, **given({"active": active or None, "shadow": shadow or None})}
        return await self._load(ComparisonRecord, Call("GET", f"{product_path(product)}/bundles:compare", params))


def _change(product: str, action: str, author: str | None, reason: str, confirm_removal: int | None = None) -> Call:
    body = given({"author": author, "reason": reason, "confirm_removal": confirm_removal})
    return Call("POST", f"{product_path(product)}/bundles{action}", json=body)

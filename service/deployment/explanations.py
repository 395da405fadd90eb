"""Explain stored decisions: why a spot of an image is unusual, and which normal spot is nearest to it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from service.bundle.arrays import Float32Map, UInt8Image
from service.bundle.errors import BundleIntegrity
from service.bundle.origins import OriginImage, Origins, OriginView
from service.deployment.repository import BundleLoader
from service.deployment.sources.source import BundleSource
from service.deployment.stored_image import decode_stored, prepare_stored
from service.errors import InvalidRequest
from service.inspection.area import judged_cells
from service.inspection.decoding import decoder
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.explanation.explainer import Box, CellExplanation, Explainer, NearestCell
from service.inspection.explanation.patches import Patch, cut_patch
from service.inspection.runtime.freed_memory import return_freed_memory
from service.store.errors import NotJudged
from service.store.recipes import get_recipe
from service.store.records import InspectionRecord
from service.store.store import Store

MAX_OPEN = 2
"""Most bundles that are kept open for further explanations."""
_MAX_COPY = ImageLimits(max_bytes=2 * 2**20, max_pixels=1024 * 1024)


@dataclass(frozen=True)
class NormalPatch:
    """The normal cell in a memory bank that is nearest to a spot, beside that spot.

    Attributes:
        nearest: The memory bank, the distance and the prototype.
        spot: The spot in its surroundings.
        patch: The normal cell in its surroundings, at the same scale; None if no copy of it is stored.
        image: The image that it comes from; None if the bundle does not state it.
        cell: Its place in that image; None as well.
        is_augmented: Whether training had rotated, moved or brightened what the patch shows.
    """

    nearest: NearestCell
    spot: Patch
    patch: Patch | None
    image: OriginImage | None
    cell: Box | None
    is_augmented: bool


@dataclass(frozen=True)
class Why:
    """Why a spot of a stored inspection has its value in the anomaly map.

    Attributes:
        record: The inspection.
        map_hw: Rows and columns of the map.
        is_peak: Whether the spot is the one with the highest value of the judged area.
        explanation: The cell of the map and what its value consists of.
        spot: The spot in its surroundings.
        normal: The nearest normal cell of each memory bank, the bank that contributes most first.
        has_origins: Whether the bundle states where its prototypes come from.
    """

    record: InspectionRecord
    map_hw: tuple[int, int]
    is_peak: bool
    explanation: CellExplanation
    spot: Patch
    normal: tuple[NormalPatch, ...]
    has_origins: bool

    @property
    def missing(self) -> str | None:
        """Why there is no normal patch beside the spot, and what to do; None if there is one."""
        record = self.record
        if not self.normal:
            return f"The method {record.method} has no memory bank, so there is no normal patch to compare with."
        if not self.has_origins:
            return (
                f"Bundle {record.bundle_version} was trained before the origins of prototypes were stored, so the "
                f"nearest normal patch is not known. Train {record.product!r} again with `plumbline-train fit` to see "
                "it for new inspections."
            )
        if all(one.patch is None for one in self.normal):
            return "The bundle has no copy of this normal image, because its training images are too many."
        return None


class Explanations:
    """Explains stored inspections with the bundles that decided them. Not thread-safe.

    Graphs that explain are opened when they are needed, in addition to those that inspect, and the ones used last stay
    open until `release` is called.

    Args:
        source: Where the bundles come from.
        store: The stored inspections.
        loader: Verifies bundles.
        in_background: Run self-tests at low priority.
    """

    def __init__(
        self,
        source: BundleSource,
        store: Store,
        loader: BundleLoader,
        *,
        in_background: bool = False,
    ) -> None:
        self._source = source
        self._store = store
        self._loader = loader
        self._in_background = in_background
        self._open: OrderedDict[str, Explainer] = OrderedDict()

    def explain(
        self,
        record: InspectionRecord,
        point: tuple[int, int] | None = None,
        check_deadline: Callable[[], None] = lambda: None,
    ) -> Why:
        """Explain a spot of a stored inspection.

        Args:
            record: The inspection.
            point: Column and row of a pixel of the image. None: the highest value of the judged area.
            check_deadline: Called between the steps; raises an exception to give up.

        Raises:
            NotJudged: The quality check rejected the image.
            ArtefactGone, StoredImageUnreadable: The image or the map is no longer stored, or cannot be decoded.
            InvalidRequest: The point lies outside the image.
            NoExplanation: The bundle has no explanation.
            ExplanationDiffers: The map cannot be reproduced.
            UnknownBundle, UnknownRevision: The bundle or the recipe is no longer available.
            BundleInvalid, ProviderUnavailable, BundleStoreUnavailable: The bundle cannot be used.
            StoreUnavailable: The database cannot be read.
        """
        if record.objections:
            raise NotJudged(record.id)
        stored_map = self._store.files.map_of(record)
        peak = self._peak(record, stored_map)
        cell = peak if point is None else _cell_at(point, record, stored_map.shape)
        data = self._store.files.image_of(record)
        check_deadline()
        rgb = decode_stored(record, data)
        check_deadline()
        explainer = self._explainer(record)
        check_deadline()
        prepared = prepare_stored(record, data, explainer.bundle.manifest.input)
        explanation = explainer.explain(prepared, (rgb.shape[0], rgb.shape[1]), stored_map, cell)
        origins = self._source.use(record.product, record.bundle_version, lambda _: explainer.bundle.read_origins())
        normal = tuple(_normal_patch(one, rgb, origins) for one in explanation.nearest)
        spot = normal[0].spot if normal else cut_patch(rgb, _enlarged(explanation.box))
        return Why(
            record,
            (stored_map.shape[0], stored_map.shape[1]),
            cell == peak,
            explanation,
            spot,
            normal,
            origins is not None,
        )

    def release(self) -> None:
        """Close the graphs that are kept open, and return their memory."""
        if self._open:
            while self._open:
                self._open.popitem()[1].close()
            return_freed_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _peak(self, record: InspectionRecord, stored_map: Float32Map) -> tuple[int, int]:
        recipe = get_recipe(self._store.engine, record.product, record.recipe_revision).recipe
        height, width = stored_map.shape
        judged = judged_cells(recipe.area, (height, width), (record.image_width, record.image_height))
        values = stored_map if judged is None else np.where(judged, stored_map, -np.inf)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        return int(row), int(column)

    def _explainer(self, record: InspectionRecord) -> Explainer:
        digest = record.bundle_digest
        if digest not in self._open:
            self._open[digest] = self._opened(record)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(digest)
        return self._open[digest]

    def _opened(self, record: InspectionRecord) -> Explainer:
        self._source.require(record.product, record.bundle_version)

        def work(path: Path) -> Explainer:
            bundle = self._loader.verify(path, record.product, in_background=self._in_background)
            if bundle.digest != record.bundle_digest:
                raise BundleIntegrity(path, "its digest is not that of the bundle that decided the inspection.")
            return Explainer(bundle)

        return self._source.use(record.product, record.bundle_version, work)


def _cell_at(point: tuple[int, int], record: InspectionRecord, map_hw: tuple[int, ...]) -> tuple[int, int]:
    (x, y), (width, height) = point, (record.image_width, record.image_height)
    if not (0 <= x < width and 0 <= y < height):
        raise InvalidRequest(
            f"The point ({x}, {y}) lies outside the image, which has {width} x {height} pixels. Give x from 0 to "
            f"{width - 1} and y from 0 to {height - 1}."
        )
    return y * map_hw[0] // height, x * map_hw[1] // width


def _normal_patch(nearest: NearestCell, rgb: UInt8Image, origins: Origins | None) -> NormalPatch:
    spot = cut_patch(rgb, nearest.box)
    if origins is None:
        return NormalPatch(nearest, spot, None, None, None, is_augmented=False)
    number, row, column = (int(value) for value in origins.banks[nearest.bank.name][nearest.prototype])
    view = origins.index.views[number]
    place = Box(*view.box)
    cell = place.part(row, column, nearest.bank.rows, nearest.bank.columns)
    copy = _copy_of(origins, view)
    patch = None if copy is None else cut_patch(copy, cell, place)
    return NormalPatch(nearest, spot, patch, origins.index.images[view.image], cell, is_augmented=view.augmented)


def _copy_of(origins: Origins, view: OriginView) -> UInt8Image | None:
    jpeg = origins.jpeg_of(view)
    return None if jpeg is None else decoder.decode(jpeg, _MAX_COPY)


def _enlarged(box: Box) -> Box:
    """Return a cell of at least a fortieth of the image, so that a patch around it shows something."""
    width, height = max(box.width, 1 / 40), max(box.height, 1 / 40)
    return Box(box.left + (box.width - width) / 2, box.top + (box.height - height) / 2, width, height)

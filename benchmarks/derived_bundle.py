"""Write a bundle with the graph of another one and another way to prepare images, to measure its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from service.bundle.bundle import Bundle
from service.bundle.card import ImageSizes
from service.bundle.manifest import ManifestDraft, graph_metadata
from service.bundle.writer import write_bundle


def with_input(
    bundle: Bundle, models: Path, *, is_checked: bool = True, sent_wh: tuple[int, int] | None = None, **changes: Any
) -> Bundle:
    """Write a bundle with the same graph, card and golden samples. Its thresholds are meaningless.

    Args:
        bundle: The bundle.
        models: Model repository to write to.
        is_checked: Keep the statistics of image quality and size. Without them synthetic images are judged.
        sent_wh: Width and height that the card states as those of all good images, so that the quality check accepts
            images of this size and still checks everything else. None keeps the sizes of the card.
        changes: Changed fields of the input geometry.
    """
    geometry = bundle.manifest.input.model_copy(update=changes)
    values = bundle.manifest.model_dump(exclude={"files"}) | {"input": geometry.model_dump()}
    draft = ManifestDraft.model_validate(values)
    graph = onnx.load_model_from_string(bundle.read_model())
    onnx.helper.set_model_props(graph, dict(graph_metadata(draft)))
    model = bytes(graph.SerializeToString(deterministic=True))
    card = bundle.card if is_checked else bundle.card.model_copy(update={"quality": None, "image_size": None})
    if sent_wh is not None:
        card = card.model_copy(update={"image_size": _sizes(*sent_wh)})
    return write_bundle(models, draft=draft, model=model, card=card, golden=bundle.golden)


def _sizes(width: int, height: int) -> ImageSizes:
    aspect = width / height
    return ImageSizes(
        min_width=width, max_width=width, min_height=height, max_height=height, min_aspect=aspect, max_aspect=aspect
    )

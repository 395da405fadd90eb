"""`origins.npz` of a bundle: read as it was written, refused where it does not match the manifest, and optional."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from service.bundle import bundle as bundle_module
from service.bundle.archive import import_archive, write_archive
from service.bundle.bundle import Bundle
from service.bundle.errors import BundleIntegrity, BundleSchema
from service.bundle.manifest import BankTensors, Explanation
from service.bundle.origins import MAX_ORIGINS_BYTES, OriginImage, Origins, OriginView
from tests.bundles import write_tiny_bundle
from tests.explained_bundles import EXPLANATION, GRAYS, PLACES, gray_origins, write_explained_bundle

BANKS = EXPLANATION.banks


def same(first: Origins, second: Origins) -> bool:
    same_banks = all(np.array_equal(first.banks[name], second.banks[name]) for name in first.banks)
    return first.index == second.index and first.jpegs == second.jpegs and same_banks


def npz(**arrays: npt.NDArray[Any]) -> bytes:
    """Return a file with the arrays of valid origins, some of them replaced."""
    origins = gray_origins()
    values: dict[str, npt.NDArray[Any]] = {
        "index": np.frombuffer(origins.index.model_dump_json().encode(), np.uint8),
        "jpegs": np.frombuffer(origins.jpegs, np.uint8),
        "bank_bank": origins.banks["bank"],
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **(values | arrays))
    return buffer.getvalue()


def test_origins_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = gray_origins()
    assert same(Origins.from_bytes(written.to_bytes(), BANKS), written)
    bundle = write_explained_bundle(tmp_path, origins=written)
    read = Bundle.load(bundle.path).read_origins()
    assert read is not None
    assert same(read, written)
    for view, gray in zip(read.index.views, GRAYS, strict=True):
        assert read.index.images[view.image].name == f"good/{gray}.png"
        jpeg = read.jpeg_of(view)
        assert jpeg is not None
        assert jpeg.startswith(b"\xff\xd8")
    assert read.banks["bank"][:, 1:].tolist() == [list(place) for place in PLACES]


def test_bundle_with_origins_passes_through_an_archive(tmp_path: Path) -> None:
    bundle = write_explained_bundle(tmp_path / "models", origins=gray_origins())
    archive = io.BytesIO()
    write_archive(bundle, archive)
    imported, is_new = import_archive(tmp_path / "other", "widget", archive, 2**24)
    assert is_new
    assert imported.digest == bundle.digest
    assert imported.read_origins() is not None


def test_origins_and_explanation_are_optional(tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path)
    assert plain.manifest.explanation is None
    assert plain.read_origins() is None
    explained = write_explained_bundle(tmp_path, "gadget")
    assert explained.manifest.explanation == EXPLANATION
    assert explained.read_origins() is None


INDEX = gray_origins().index


def index(**changes: Any) -> npt.NDArray[np.uint8]:
    # model_construct and model_copy do not validate, so that the file can be wrong.
    return np.frombuffer(INDEX.model_copy(update=changes).model_dump_json().encode(), np.uint8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (npz(more=np.zeros(1, np.uint8)), "unknown or repeated"),
        (npz(index=np.frombuffer(b"{", np.uint8)), "index: the document"),
        (npz(index=np.frombuffer(b"{}", np.uint8)), "index: images"),
        (npz(index=index(schema_version=2)), "index: schema_version"),
        (npz(index=index(views=[view.model_copy(update={"image": 4}) for view in INDEX.views])), "not listed"),
        (npz(index=index(views=INDEX.views[:3])), "a view or a cell that does not exist"),
        (npz(jpegs=np.zeros(10, np.uint8)), "beyond the end of jpegs"),
        (npz(jpegs=np.zeros(10, np.int16)), "expected uint8"),
        (npz(jpegs=np.zeros((10, 1), np.uint8)), "expected uint8"),
        (npz(bank_bank=np.zeros((3, 3), np.int32)), r"expected int32 \[4, 3\]"),
        (npz(bank_bank=np.full((4, 3), 8, np.int32)), "a view or a cell that does not exist"),
        (npz(bank_bank=np.full((4, 3), -1, np.int32)), "a view or a cell that does not exist"),
    ],
)
def test_content_that_does_not_match_the_manifest_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Origins.from_bytes(content, BANKS)


def test_origins_without_the_array_of_a_bank_are_refused() -> None:
    with pytest.raises(ValueError, match="contains no bank_other"):
        Origins.from_bytes(npz(), [*BANKS, BANKS[0].model_copy(update={"name": "other"})])


def test_arrays_are_not_unpacked_beyond_their_limit() -> None:
    bomb = npz(jpegs=np.zeros(MAX_ORIGINS_BYTES + 2**16, np.uint8))
    assert len(bomb) < 2**16
    with pytest.raises(ValueError, match=r"jpegs\.npy is larger than"):
        Origins.from_bytes(bomb, BANKS)


def test_damaged_and_oversized_origins_keep_a_bundle_from_being_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleSchema, match=r"origins\.npz is not valid: bank_bank"):
        write_explained_bundle(tmp_path, origins=replace(gray_origins(), banks={"bank": np.full((4, 3), 9, np.int32)}))
    assert not list(tmp_path.rglob("model.onnx")), "nothing was written"
    bundle = write_explained_bundle(tmp_path, origins=gray_origins())
    path = bundle.path / "origins.npz"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleIntegrity, match=r"origins\.npz is not the file"):
        Bundle.load(bundle.path)
    with pytest.raises(BundleIntegrity, match=r"origins\.npz"):
        bundle.read_origins()
    path.write_bytes(data)
    monkeypatch.setitem(bundle_module._MAX_BYTES, "origins.npz", 10)
    with pytest.raises(BundleSchema, match=r"origins\.npz has .* at most 10 are allowed"):
        Bundle.load(bundle.path)


def test_explanation_names_only_tensors_that_the_graph_computes(tmp_path: Path) -> None:
    other = EXPLANATION.model_copy(update={"total": "explain_sum"})
    with pytest.raises(BundleSchema, match="computes no tensor 'explain_sum'"):
        write_explained_bundle(tmp_path, explanation=other)


def test_explanation_and_origins_state_consistent_facts() -> None:
    values = EXPLANATION.model_dump()
    with pytest.raises(ValidationError, match="is not one of the sources"):
        Explanation.model_validate(values | {"sources": values["sources"][:1]})
    with pytest.raises(ValidationError, match="the same name"):
        Explanation.model_validate(values | {"sources": values["sources"] * 2})
    with pytest.raises(ValidationError):
        BankTensors.model_validate(BANKS[0].model_dump() | {"nearest": "middle"})
    image = INDEX.images[0].model_dump()
    with pytest.raises(ValidationError, match="belong together"):
        OriginImage.model_validate(image | {"captured_on": None})
    with pytest.raises(ValidationError):
        OriginView.model_validate(INDEX.views[0].model_dump() | {"box": (0, 0, float("nan"), 1)})

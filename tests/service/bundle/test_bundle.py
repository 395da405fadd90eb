import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from service.bundle.archive import import_archive, write_archive
from service.bundle.bundle import Bundle, newest_bundle
from service.bundle.card import CalibrationCard
from service.bundle.errors import BundleIntegrity, BundleInvalid, BundleSchema, ExternalData
from service.bundle.golden import parity_difference
from service.bundle.images import ImageHashes
from service.bundle.writer import write_bundle
from tests.bundles import SCORES, tiny_card, tiny_draft, tiny_golden, tiny_model, write_tiny_bundle


def rehash(bundle: Bundle) -> Path:
    """Make the hashes of a changed bundle consistent again, as a deliberate edit would."""
    import hashlib

    manifest = json.loads((bundle.path / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        data = (bundle.path / name).read_bytes()
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    text = json.dumps(manifest).encode()
    (bundle.path / "manifest.json").write_bytes(text)
    return bundle.path.rename(bundle.path.with_name(hashlib.sha256(text).hexdigest()[:12]))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_description_of_a_bundle_needs_neither_graph_nor_golden_samples(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    described = Bundle.describe(bundle.path)
    assert described == bundle
    (bundle.path / "model.onnx").write_bytes(b"bit rot")
    (bundle.path / "golden/01.npz").write_bytes(b"bit rot")
    assert Bundle.describe(bundle.path) == bundle
    with pytest.raises(BundleIntegrity, match="not the file that the manifest lists"):
        described.read_model()
    with pytest.raises(BundleIntegrity, match="not the file that the manifest lists"):
        assert described.golden
    (bundle.path / "calibration.json").write_bytes(b"{}")
    with pytest.raises(BundleIntegrity, match="calibration"):
        Bundle.describe(bundle.path)


def test_written_bundle_loads_with_everything_in_it(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path, gain=True)

    loaded = Bundle.load(bundle.path)

    assert loaded.path == tmp_path / "widget" / loaded.version
    assert loaded.card.scores == SCORES
    assert loaded.golden[1].score_gain == pytest.approx(1 + loaded.golden[1].anomaly_map.max())
    assert onnx.load_model_from_string(loaded.read_model()).graph.name == "gray-distance"
    assert [path.name for path in (tmp_path / "widget").iterdir()] == [loaded.version], (
        "the staging folder was not removed"
    )


def test_writing_the_same_content_again_gives_the_same_bundle(tmp_path: Path) -> None:
    assert write_tiny_bundle(tmp_path).digest == write_tiny_bundle(tmp_path).digest


def flip_model_byte(bundle: Bundle) -> None:
    data = bytearray((bundle.path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / "model.onnx").write_bytes(data)


def edit_threshold_in_card(bundle: Bundle) -> None:
    change_json(bundle.path / "calibration.json", map_median=0.5)


def edit_manifest(bundle: Bundle) -> None:
    change_json(bundle.path / "manifest.json", method="another")


def remove_golden(bundle: Bundle) -> None:
    (bundle.path / "golden/01.npz").unlink()


def add_file(bundle: Bundle) -> None:
    (bundle.path / "notes.txt").write_text("tuned by hand")


def replace_by_link(bundle: Bundle) -> None:
    outside = bundle.path.parent / ".model"
    (bundle.path / "model.onnx").rename(outside)
    (bundle.path / "model.onnx").symlink_to(outside)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (flip_model_byte, "model.onnx is not the file"),
        (edit_threshold_in_card, "calibration.json is not the file"),
        (edit_manifest, "manifest was changed"),
        (remove_golden, "golden/01.npz is missing"),
        (add_file, "notes.txt is not listed"),
        (replace_by_link, "model.onnx is a symbolic link"),
    ],
)
def test_changed_bundle_is_refused_with_the_file_named(
    tmp_path: Path, tamper: Callable[[Bundle], None], message: str
) -> None:
    bundle = write_tiny_bundle(tmp_path)
    tamper(bundle)

    with pytest.raises(BundleIntegrity, match=message):
        Bundle.load(bundle.path)


def test_model_changed_after_loading_is_detected_when_it_is_read(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    flip_model_byte(bundle)

    with pytest.raises(BundleIntegrity, match=r"model\.onnx"):
        bundle.read_model()


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("manifest.json", {"schema_version": 2}, "schema_version"),
        ("manifest.json", {"surprise": 1}, "surprise"),
        ("manifest.json", {"product": "../etc"}, "product"),
        ("calibration.json", {"scores": [2.0, 1.0]}, "ascending"),
        ("calibration.json", {"scores": []}, "scores"),
    ],
)
def test_unsupported_schema_is_refused_even_with_correct_hashes(
    tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    bundle = write_tiny_bundle(tmp_path)
    change_json(bundle.path / file, **changes)

    with pytest.raises(BundleSchema, match=message):
        Bundle.load(rehash(bundle))


def test_manifest_cannot_name_files_outside_the_bundle(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["files"]["../../secret"] = manifest["files"]["model.onnx"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(BundleSchema, match="secret"):
        Bundle.load(rehash(bundle))


def as_external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def as_external_in_a_branch(model: onnx.ModelProto) -> None:
    hidden = onnx.TensorProto(name="hidden", data_location=onnx.TensorProto.EXTERNAL)
    branch = onnx.helper.make_graph([], "branch", [], [], [hidden])
    model.graph.node.append(onnx.helper.make_node("If", ["half"], [], then_branch=branch, else_branch=branch))


@pytest.mark.parametrize("hide", [as_external, as_external_in_a_branch])
def test_external_data_is_refused_in_graph_and_subgraphs(
    tmp_path: Path, hide: Callable[[onnx.ModelProto], None]
) -> None:
    draft = tiny_draft()
    model = tiny_model(draft)
    hide(model)

    with pytest.raises(ExternalData):
        write_bundle(tmp_path, draft=draft, model=model.SerializeToString(), card=tiny_card(), golden=tiny_golden())
    assert list(tmp_path.iterdir()) == [], "files of a refused bundle must be removed"


def fix_the_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "heat"


def claim_another_method(model: onnx.ModelProto) -> None:
    onnx.helper.set_model_props(model, {"plumbline.method": '"other"'})


@pytest.mark.parametrize("change", [fix_the_batch, rename_output, claim_another_method])
def test_graph_that_breaks_the_contract_is_refused(tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    draft = tiny_draft()
    model = tiny_model(draft)
    change(model)

    with pytest.raises(BundleSchema, match=r"model\.onnx"):
        write_bundle(tmp_path, draft=draft, model=model.SerializeToString(), card=tiny_card(), golden=tiny_golden())


def test_model_that_is_not_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid):
        write_bundle(tmp_path, draft=tiny_draft(), model=b"\xff\xff", card=tiny_card(), golden=tiny_golden())


def test_newest_bundle_is_the_one_created_last(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    write_tiny_bundle(tmp_path, created_at=datetime(2026, 3, 1, tzinfo=UTC))
    newest = write_tiny_bundle(tmp_path, created_at=datetime(2026, 5, 1, tzinfo=UTC))
    write_tiny_bundle(tmp_path, created_at=datetime(2026, 4, 1, tzinfo=UTC))
    (tmp_path / "widget" / "zzz-unreadable").mkdir()

    assert newest_bundle(tmp_path / "widget") == newest.path
    (tmp_path / "empty").mkdir()
    assert newest_bundle(tmp_path / "empty") is None


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.0, 2.0], [0.1, 2.0], 0.05),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0, 2.0], [1.0, np.nan], np.inf),
        ([1.0, 2.0], [1.0], np.inf),
    ],
)
def test_parity_difference(expected: list[float], actual: list[float], difference: float) -> None:
    assert parity_difference(expected, actual) == pytest.approx(difference)


def test_card_refuses_scores_that_are_not_finite() -> None:
    with pytest.raises(ValidationError):
        CalibrationCard.model_validate(tiny_card().model_dump() | {"scores": [float("nan")]})


HASHES = ImageHashes.of(["b" * 64, "a" * 64], ["c" * 64])


def test_images_that_the_bundle_was_made_from_are_listed_in_a_file_of_its_own(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path, images=HASHES)

    loaded = Bundle.load(bundle.path)

    assert loaded.images == HASHES
    assert "images.json" in loaded.manifest.files
    assert [HASHES.role_of(letter * 64) for letter in "abcd"] == ["training", "training", "calibration", None]
    assert write_tiny_bundle(tmp_path, "older").images is None


def test_list_of_thousands_of_images_stays_outside_the_manifest(tmp_path: Path) -> None:
    many = ImageHashes.of((f"{number:064x}" for number in range(20_000)), ["f" * 64])

    bundle = write_tiny_bundle(tmp_path, images=many)

    assert (bundle.path / "manifest.json").stat().st_size < 10_000
    assert bundle.images == many


def test_list_of_images_is_verified_like_every_other_file(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path, images=HASHES)
    change_json(bundle.path / "images.json", training=[])

    with pytest.raises(BundleIntegrity, match=r"images\.json"):
        Bundle.load(bundle.path)

    change_json(bundle.path / "images.json", training=["not a hash"])
    with pytest.raises(BundleSchema, match=r"images\.json: training"):
        Bundle.load(rehash(bundle))


def test_list_of_images_survives_export_and_import(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "here", images=HASHES)
    with (tmp_path / "bundle.zip").open("w+b") as file:
        write_archive(bundle, file)
        imported, is_new = import_archive(tmp_path / "there", "widget", file, 2**24)

    assert is_new
    assert imported.images == HASHES

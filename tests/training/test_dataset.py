"""Which images are found, which are held out, and the errors."""

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from service.bundle.manifest import InputGeometry
from service.inspection.decoding.decoder import ImageLimits, decode
from service.inspection.preparation import prepare
from training import errors
from training.dataset import DataSet, load_prepared, scan, scan_test


def draw(path: Path, seed: int, size_wh: tuple[int, int] = (40, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size_wh
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))
    return path


def folder_of(root: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        draw(root / name, seed)
    return root


def names(paths: tuple[Path, ...]) -> set[str]:
    return {path.name for path in paths}


def test_plain_folder_is_searched_through_its_sub_folders(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"a/{i}.png" for i in range(15)] + [f"a/b/{i}x.JPG" for i in range(9)])
    (tmp_path / "notes.txt").write_text("not an image")
    draw(tmp_path / ".thumbnails" / "1.png", 99)

    data = scan(tmp_path)

    assert len(data.train) + len(data.held_out) == 24
    assert not set(data.train) & set(data.held_out)
    assert data.test == ()


def test_mvtec_layout_trains_on_train_good_only(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"train/good/{i:03d}.png" for i in range(30)])
    folder_of(tmp_path, ["test/good/000.png", "test/scratch/000.png", "test/dent/000.png"])
    draw(tmp_path / "ground_truth/scratch/000_mask.png", 0)

    data = scan(tmp_path)

    assert all(path.parent.name == "good" and path.parent.parent.name == "train" for path in data.train)
    assert [(image.defect, image.defective, image.mask is not None) for image in data.test] == [
        ("dent", True, False),
        ("good", False, False),
        ("scratch", True, True),
    ]


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [(100, 0.2, 20), (100, 0.35, 35), (30, 0.2, 10), (20, 0.2, 10)],
    ids=["share", "another-share", "minimum", "smallest-set"],
)
def test_held_out_share_and_minimum(tmp_path: Path, count: int, fraction: float, expected: int) -> None:
    folder_of(tmp_path, [f"{i}.png" for i in range(count)])

    data = scan(tmp_path, held_out_fraction=fraction)

    assert len(data.held_out) == expected
    assert len(data.train) == count - expected
    assert (data.grouped_by, dict(data.groups)) == ("none", {"all": expected})


@pytest.mark.parametrize(("count", "expected"), [(8, 4), (13, 6), (20, 10), (60, 12)])
def test_few_images_are_enough_for_a_first_bundle(tmp_path: Path, count: int, expected: int) -> None:
    folder_of(tmp_path, [f"{i}.png" for i in range(count)])

    data = scan(tmp_path, few=True)

    assert len(data.held_out) == expected
    assert len(data.fitted) >= 2
    assert data.reference


def test_fewer_than_eight_images_are_too_few_for_a_first_bundle(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{i}.png" for i in range(7)])

    with pytest.raises(errors.TooFewGoodImages, match="at least 8"):
        scan(tmp_path, few=True)


def test_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{i}.png" for i in range(40)])

    assert scan(tmp_path, seed=3) == scan(tmp_path, seed=3)
    assert scan(tmp_path, seed=3).held_out != scan(tmp_path, seed=4).held_out


@pytest.mark.parametrize(
    "pattern",
    [
        "2026-11-{day:02d}/{i}.png",
        "202611{day:02d}_{i}.png",
        "cam1_2026_11_{day:02d}_{i:04d}.png",
        "202611{day:02d}1405{i:02d}.png",
    ],
    ids=["folder", "compact", "underscores", "timestamp"],
)
def test_whole_days_are_held_out(tmp_path: Path, pattern: str) -> None:
    folder_of(tmp_path, [pattern.format(day=day, i=i) for day in range(1, 9) for i in range(6)])

    data = scan(tmp_path)

    assert data.grouped_by == "date-in-name"
    assert dict(data.groups) == dict.fromkeys(data.groups, 6)
    assert len(data.groups) == 2  # 20 % of 48 are 10: two days of 6
    for path, session in zip(data.held_out, data.sessions, strict=True):
        assert session.replace("-", "") in str(path.relative_to(tmp_path)).replace("-", "").replace("_", "")
    held_out_days = {name.replace("-", "") for name in data.groups}
    left = {str(path.relative_to(tmp_path)).replace("-", "").replace("_", "") for path in data.train}
    assert not [name for name in left for day in held_out_days if day in name]


def test_whole_sub_folders_are_held_out(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"batch{batch}/{i}.png" for batch in "abcdef" for i in range(10)])

    data = scan(tmp_path)

    assert data.grouped_by == "folder"
    assert {path.parent.name for path in data.held_out} == set(data.groups)
    assert not {path.parent.name for path in data.train} & set(data.groups)


@pytest.mark.parametrize("sizes", [(40,), (36, 4)], ids=["one-folder", "one-folder-holds-nearly-all"])
def test_single_images_are_held_out_where_sessions_are_too_coarse(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    folder_of(tmp_path, [f"batch{n}/{n}-{i}.png" for n, size in enumerate(sizes) for i in range(size)])

    data = scan(tmp_path)

    assert (data.grouped_by, len(data.held_out)) == ("none", 10)


def test_serial_numbers_are_not_dates(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"20269{i:03d}.png" for i in range(10)] + [f"12026112{i}.png" for i in range(10)])

    assert scan(tmp_path).grouped_by == "none"


def test_copies_of_an_image_count_once(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{i}.png" for i in range(25)])
    (tmp_path / "copy.png").write_bytes((tmp_path / "3.png").read_bytes())

    data = scan(tmp_path)

    assert len(data.train) + len(data.held_out) == 25
    assert len(data.duplicates) == 1


def test_fingerprint_follows_contents_not_names(tmp_path: Path) -> None:
    first, second, third = (folder_of(tmp_path / name, [f"{i}.png" for i in range(20)]) for name in "abc")
    (second / "0.png").rename(second / "renamed.png")
    draw(third / "0.png", 1234)

    prints: list[DataSet] = [scan(folder) for folder in (first, second, third)]

    assert prints[0].fingerprint == prints[1].fingerprint
    assert prints[0].fingerprint != prints[2].fingerprint


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(errors.DataFolderMissing, match="nowhere is not a folder"):
        scan(tmp_path / "nowhere")


def test_error_for_an_empty_folder_names_folder_and_suffixes(tmp_path: Path) -> None:
    with pytest.raises(errors.NoImagesFound) as caught:
        scan(tmp_path)

    assert str(tmp_path) in str(caught.value)
    assert ".png" in str(caught.value)


def test_train_without_good(tmp_path: Path) -> None:
    draw(tmp_path / "train/ok/1.png", 0)

    with pytest.raises(errors.NoImagesFound, match="train/good"):
        scan(tmp_path)


def test_too_few_images_names_the_minimum(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{i}.png" for i in range(17)])

    with pytest.raises(errors.TooFewGoodImages, match=r"17 different good images.*at least 20.*3 more"):
        scan(tmp_path)


@pytest.mark.parametrize("name", ["bad", "NG", "defective", "ground_truth", "test"])
def test_defective_sub_folders_are_refused(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path, [f"good/{i}.png" for i in range(30)] + [f"{name}/1.png"])

    with pytest.raises(errors.LooksDefective, match=name):
        scan(tmp_path)


@pytest.mark.parametrize("fraction", [0.0, 0.6, -1.0])
def test_held_out_share_is_checked(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(errors.InvalidOption, match="held-out share"):
        scan(tmp_path, held_out_fraction=fraction)


@pytest.mark.parametrize("missing", ["good", "defect"])
def test_test_split_needs_good_and_defective(tmp_path: Path, missing: str) -> None:
    draw(tmp_path / ("test/scratch/1.png" if missing == "good" else "test/good/1.png"), 0)

    with pytest.raises(errors.NoImagesFound, match="good and defective"):
        scan_test(tmp_path)


def test_images_are_prepared_as_the_service_does(tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{i}.png", i, (70 + i, 50)) for i in range(5)]
    geometry = InputGeometry(height=48, width=64)
    seen: list[int] = []

    images = load_prepared(paths, geometry, seen.append)

    assert (images.shape, images.dtype) == ((5, 48, 64, 3), np.dtype(np.uint8))
    for path, image in zip(paths, images, strict=True):
        np.testing.assert_array_equal(image, prepare(decode(path.read_bytes(), ImageLimits()), geometry))
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_unreadable_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = draw(tmp_path / "part.png", 0)
    path.write_bytes(path.read_bytes()[:900] if content is None else content)

    with pytest.raises(errors.UnreadableImage, match=r"part\.png.*Repair the file or remove it"):
        load_prepared([path], InputGeometry(height=32, width=32))


def test_sixteen_bit_tiff_is_read_as_the_service_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "part.tiff"
    samples = np.random.default_rng(0).integers(0, 65536, (48, 64, 3), np.uint16)
    tifffile.imwrite(path, samples, photometric="rgb", compression="zlib")
    geometry = InputGeometry(height=48, width=64)

    np.testing.assert_array_equal(load_prepared([path], geometry)[0], samples >> 8)


def prefixed(root: Path, groups: int = 8, each: int = 6) -> Path:
    return folder_of(root, [f"part{group}_{i:02d}.png" for group in range(groups) for i in range(each)])


def test_images_with_a_common_prefix_are_held_out_as_a_whole(tmp_path: Path) -> None:
    data = scan(prefixed(tmp_path))

    assert data.grouped_by == "prefix"
    assert dict(data.groups) == dict.fromkeys(data.groups, 6)
    assert len(data.groups) == 2
    assert not {path.name.split("_")[0] for path in data.train} & set(data.groups)
    assert {path.name.split("_")[0] for path in data.held_out} == set(data.groups)


@pytest.mark.parametrize(
    ("pattern", "by"),
    [("part{g}_{i:02d}.png", "prefix"), ("lot{g}/{i}-{g}.png", "folder"), ("2026-11-0{g}_{i}.png", "date-in-name")],
    ids=["prefix", "folder", "date"],
)
def test_reference_of_the_map_is_made_of_whole_groups(tmp_path: Path, pattern: str, by: str) -> None:
    folder_of(tmp_path, [pattern.format(g=g, i=i) for g in range(1, 9) for i in range(6)])

    data = scan(tmp_path)
    group_of = dict(zip((*data.train, *data.held_out), data.grouping.names, strict=True))

    assert data.grouping.grouped_by == data.grouped_by == by
    assert set(data.reference) < set(data.train)
    assert set(data.fitted) == set(data.train) - set(data.reference)
    assert len(data.reference) == 6  # a tenth of 36, as one whole group
    reference, fitted, held_out = ({group_of[p] for p in part} for part in (data.reference, data.fitted, data.held_out))
    assert not reference & fitted
    assert not (reference | fitted) & held_out


def test_reference_is_of_single_images_where_groups_are_unknown_or_too_large(tmp_path: Path) -> None:
    plain = scan(folder_of(tmp_path / "plain", [f"{i}.png" for i in range(40)]))
    large = scan(prefixed(tmp_path / "large", groups=3, each=20))

    assert len(plain.reference) == 3
    assert (large.grouped_by, len(large.reference)) == ("prefix", 4)


def test_groups_can_be_chosen(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{'xy'[group % 2]}/part{group}_{i:02d}.png" for group in range(8) for i in range(6)])

    assert scan(tmp_path).grouped_by == "folder"
    assert scan(tmp_path, groups="prefix").grouped_by == "prefix"
    assert scan(tmp_path, groups="none").grouped_by == "none"
    with pytest.raises(errors.InvalidOption, match="--groups is date"):
        scan(tmp_path, groups="date")


def test_two_groups_are_held_out_where_one_would_be_enough(tmp_path: Path) -> None:
    data = scan(prefixed(tmp_path, groups=10, each=12))

    assert set(data.groups.values()) == {12}
    assert len(data.groups) == 2


@pytest.mark.parametrize("seed", range(6))
def test_second_group_is_held_out_of_a_handful_of_unequal_ones(tmp_path: Path, seed: int) -> None:
    sizes = (10, 12, 14, 14, 16)
    folder_of(tmp_path, [f"lot{lot}_{i:02d}.png" for lot, size in enumerate(sizes) for i in range(size)])

    data = scan(tmp_path, seed=seed)

    assert len(data.groups) == 2, "one group does not show how groups differ"
    assert len(data.train) >= sum(sizes) / 2


def test_groups_are_known_even_if_they_are_too_large_to_be_held_out(tmp_path: Path) -> None:
    data = scan(folder_of(tmp_path, [f"a/{i}.png" for i in range(36)] + [f"b/{i}b.png" for i in range(4)]))

    assert (data.grouped_by, set(data.sessions)) == ("none", {"all"})
    assert data.grouping.grouped_by == "folder"
    assert len(data.grouping.names) == 40


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    data = scan(folder_of(tmp_path, [f"{i}.png" for i in range(25)]))

    for role, paths in (("training", data.train), ("calibration", data.held_out)):
        assert {data.hashes.role_of(hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths} == {role}
    assert len(data.hashes.training) + len(data.hashes.calibration) == 25


def test_linked_folders_are_used_with_a_guard_against_loops(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    folder_of(data, [f"2026-11-0{day}/{i}.png" for day in (1, 2) for i in range(14)])
    folder_of(elsewhere, [f"{100 + i}.png" for i in range(14)])
    (data / "2026-11-03").symlink_to(elsewhere)
    (data / "2026-11-02" / "loop").symlink_to(data)

    found = scan(data)

    assert len(found.train) + len(found.held_out) + len(found.duplicates) == 42


def test_linked_defect_folder_is_noticed(tmp_path: Path) -> None:
    folder_of(tmp_path / "data", [f"{i}.png" for i in range(30)])
    folder_of(tmp_path / "elsewhere", [f"{100 + i}.png" for i in range(3)])
    (tmp_path / "data" / "scratch").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(errors.LooksDefective, match="scratch"):
        scan(tmp_path / "data")


def test_broken_link_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{i}.png" for i in range(30)])
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")

    with pytest.raises(OSError, match=r"gone\.png"):
        scan(tmp_path)


def test_names_that_are_not_utf_8_are_read_and_their_groups_are_text(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{batch}/{i}.png" for batch in "abc" for i in range(12)])
    for batch in "abc":
        # OpenCV, which writes the images, crashes on such a path.
        (tmp_path / batch).rename(tmp_path / os.fsdecode(b"tr\xfc" + batch.encode()))

    data = scan(tmp_path, held_out_fraction=0.3)

    assert data.groups
    assert all(name.encode() and name.startswith(r"tr\xfc") for name in data.groups)
    load_prepared(data.train, InputGeometry(height=32, width=32))


def test_excluded_images_have_no_part_in_anything(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"train/good/{i:03d}.png" for i in range(30)])

    data = scan(tmp_path, exclude=["004.png", str(tmp_path / "train/good/009.png")])

    assert names(data.excluded) == {"004.png", "009.png"}
    assert len(data.train) + len(data.held_out) == 28
    assert not names(data.excluded) & names((*data.train, *data.held_out))
    assert data.folder == tmp_path / "train/good"
    assert data.fingerprint != scan(tmp_path).fingerprint
    with pytest.raises(errors.TooFewGoodImages, match="18"):
        scan(tmp_path, exclude=[f"{i:03d}.png" for i in range(12)])

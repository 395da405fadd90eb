"""The images of a bundle are found again by their content, with the capture groups of its card."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from service.bundle.bundle import Bundle
from service.bundle.card import CalibrationGroup
from tests.training.small_product import build_bundle, write_plates
from training.dataset import scan
from training.errors import DataFolderMissing, SourceImagesMissing
from training.source_images import find_source_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plates(tmp_path_factory.mktemp("plates"))


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(data, tmp_path_factory.mktemp("models"))


def in_groups(data: Path, folder: Path) -> Path:
    """Copy the good images into three sub-folders."""
    for number, path in enumerate(sorted((data / "train" / "good").iterdir())):
        target = folder / f"lot{number % 5}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def test_images_have_the_roles_that_training_gave_them(bundle: Bundle, data: Path) -> None:
    found = find_source_images(bundle, data)
    scanned = scan(data)

    assert found.training == tuple(sorted(scanned.train))
    assert found.held_out.paths == scanned.held_out
    assert found.held_out.sessions == ("all",) * len(scanned.held_out)
    assert found.held_out.grouped_by == "none"


def test_renamed_images_are_found_and_others_are_not_used(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted((data / "train" / "good").iterdir())):
        shutil.copy(path, tmp_path / f"copy-{number}.png")
    for number, path in enumerate(sorted((data / "test" / "good").iterdir())):
        shutil.copy(path, tmp_path / f"new-{number}.png")

    found = find_source_images(bundle, tmp_path)

    assert (len(found.training), len(found.held_out.paths)) == (30, 10)
    assert all(path.name.startswith("copy") for path in (*found.training, *found.held_out.paths))


def test_groups_of_the_card_are_found_again(data: Path, tmp_path: Path) -> None:
    folder = in_groups(data, tmp_path / "data")
    grouped = build_bundle(folder, tmp_path / "models")
    assert grouped.card.grouped_by == "folder"

    found = find_source_images(grouped, folder)

    assert found.held_out.grouped_by == "folder"
    assert all(
        path.parent.name == name for path, name in zip(found.held_out.paths, found.held_out.sessions, strict=True)
    )


def test_missing_images_are_counted(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    scanned = scan(data)
    for number, path in enumerate(scanned.held_out[1:]):
        shutil.copy(path, tmp_path / f"{number}.png")
    with pytest.raises(SourceImagesMissing, match="1 of 10 held-out images are not there"):
        find_source_images(bundle, tmp_path)

    shutil.copy(scanned.held_out[0], tmp_path / "first.png")
    with pytest.raises(SourceImagesMissing, match="none of the 30 training images"):
        find_source_images(bundle, tmp_path)


def test_bundle_without_a_list_of_images_is_refused(bundle: Bundle, data: Path) -> None:
    with pytest.raises(SourceImagesMissing, match="does not list its images"):
        find_source_images(replace(bundle, images=None), data)


def test_missing_folder_is_named(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataFolderMissing, match="nowhere"):
        find_source_images(bundle, tmp_path / "nowhere")


def test_other_groups_are_refused(data: Path, tmp_path: Path) -> None:
    folder = in_groups(data, tmp_path / "data")
    grouped = build_bundle(folder, tmp_path / "models")
    groups = [CalibrationGroup(name=f"other{group.name}", count=group.count) for group in grouped.card.groups]
    renamed = replace(grouped, card=grouped.card.model_copy(update={"groups": groups}))

    with pytest.raises(SourceImagesMissing, match="other capture groups"):
        find_source_images(renamed, folder)

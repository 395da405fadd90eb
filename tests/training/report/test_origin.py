"""The origin of a bundle: what is recorded is shown, what is gone is counted, nothing is guessed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from service.bundle.bundle import Bundle
from tests.training.report.hostile_plates import CURVE
from training.dataset import scan
from training.report.origin import gather_origin
from training.run_record import record_run


def test_images_that_are_gone_are_counted(bundle: Bundle, data: Path, run_dir: Path, tmp_path: Path) -> None:
    found = scan(data)
    copy = tmp_path / "good"
    copy.mkdir()
    for number, path in enumerate([*found.train[:15], *found.held_out[:19]]):
        shutil.copy(path, copy / f"{number}.png")
    calls: list[tuple[int, int]] = []

    origin = gather_origin(bundle, run_dir, copy, lambda done, total: calls.append((done, total)))

    assert origin.found is not None
    assert (origin.found.files, origin.found.training, origin.found.held_out) == (34, 15, 19)
    assert origin.missing == [
        f"Not in {copy}, or changed since the training: 5 of 20 training images and 1 of 20 held-out images."
    ]
    assert calls[-1] == (34, 34)


@pytest.mark.parametrize("made", ["test", "train"])
def test_folder_without_good_images_is_named(bundle: Bundle, run_dir: Path, tmp_path: Path, made: str) -> None:
    (tmp_path / made).mkdir()

    origin = gather_origin(bundle, run_dir, tmp_path)

    assert origin.found is None
    assert origin.missing == [f"There is no {tmp_path / 'train/good'}, so the images of the bundle were not looked up."]


def test_bundle_without_a_list_of_images_is_said(bundle: Bundle, run_dir: Path, data: Path) -> None:
    origin = gather_origin(replace(bundle, images=None), run_dir, data)

    assert origin.missing == ["The bundle does not list its images, so they were not looked up."]


def test_many_groups_are_cut_and_counted(
    bundle: Bundle, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scan(data)
    names = tuple(f"lot{number:03d}" for number in range(len(found.grouping.names)))
    record_run(tmp_path, bundle, replace(found, grouping=replace(found.grouping, names=names)), CURVE)
    monkeypatch.setattr("training.report.origin.MAX_GROUPS", 5)

    origin = gather_origin(bundle, tmp_path)

    assert [group.name for group in origin.groups] == list(names[:5])
    assert origin.more_groups == 35

"""Uploads of bundles: bounded in number and disk space."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from service.bundle.archive import check_space
from service.bundle.errors import BundleTooLarge, NotEnoughSpace, RepositoryNotWritable
from service.deployment.errors import UploadsBusy
from service.deployment.uploads import BundleUploads, UploadLimits

LIMITS = UploadLimits(max_bytes=1000, max_uploads=2, reserve_bytes=100)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the free space of the disk."""

    def set_free(size: int) -> None:
        monkeypatch.setattr("service.bundle.archive.shutil.disk_usage", lambda _: Usage(10**6, 0, size))

    set_free(10**6)
    return set_free


def test_number_of_uploads_is_limited(tmp_path: Path, free: Callable[[int], None]) -> None:
    async def run() -> None:
        uploads = BundleUploads(tmp_path, LIMITS)
        async with uploads.admit(10), uploads.admit(10):
            with pytest.raises(UploadsBusy, match="PLUMBLINE_MAX_UPLOADS"):
                async with uploads.admit(10):
                    pass
        async with uploads.admit(10):
            pass

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


def test_stated_size_is_limited(tmp_path: Path, free: Callable[[int], None]) -> None:
    async def run() -> None:
        with pytest.raises(BundleTooLarge):
            async with BundleUploads(tmp_path, LIMITS).admit(1001):
                pass

    asyncio.run(run())


@pytest.mark.parametrize(("stated", "needed"), [(300, 600), (None, 2000), (0, 0)])
def test_space_is_reserved_before_anything_is_received(
    tmp_path: Path, free: Callable[[int], None], stated: int | None, needed: int
) -> None:
    async def admitted() -> bool:
        try:
            async with BundleUploads(tmp_path, LIMITS).admit(stated):
                return True
        except NotEnoughSpace:
            return False

    free(needed + 100)
    assert asyncio.run(admitted())
    free(needed + 99)
    assert not asyncio.run(admitted())


def test_space_of_other_uploads_is_not_given_twice(tmp_path: Path, free: Callable[[int], None]) -> None:
    async def run() -> None:
        uploads = BundleUploads(tmp_path, LIMITS)
        free(1500)
        async with uploads.admit(400) as first:  # needs 800 of 1400
            with pytest.raises(NotEnoughSpace):
                async with uploads.admit(400):
                    pass
            first.file.write(bytes(300))
            first.file.flush()
            free(1200)  # 300 of the 800 are on the disk already
            async with uploads.admit(300):
                pass
            with pytest.raises(NotEnoughSpace):
                async with uploads.admit(301):
                    pass
        async with uploads.admit(500):
            pass

    asyncio.run(run())


def test_unpacked_bundle_needs_space_too(tmp_path: Path, free: Callable[[int], None]) -> None:
    free(500)
    check_space(tmp_path, 400, 100)
    with pytest.raises(NotEnoughSpace, match="PLUMBLINE_MIN_FREE_BYTES"):
        check_space(tmp_path, 401, 100)


def test_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the repository should be")

    async def run() -> None:
        with pytest.raises(RepositoryNotWritable):
            async with BundleUploads(tmp_path / "models", LIMITS).admit(10):
                pass

    asyncio.run(run())


def test_error_while_receiving_is_raised_and_frees_the_place(tmp_path: Path, free: Callable[[int], None]) -> None:
    async def fail() -> None:
        raise OSError(28, "No space left on device")

    async def run() -> None:
        uploads = BundleUploads(tmp_path, UploadLimits(1000, 1, 0))
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                async with uploads.admit(10):
                    await fail()

    asyncio.run(run())


def test_archives_are_unpacked_one_at_a_time(tmp_path: Path, free: Callable[[int], None]) -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def install() -> str:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        return "done"

    async def run() -> None:
        uploads = BundleUploads(tmp_path, LIMITS)
        async with uploads.admit(1) as first, uploads.admit(1) as second:
            assert list(await asyncio.gather(first.unpack(install), second.unpack(install))) == ["done"] * 2

    asyncio.run(run())
    assert most == [1]

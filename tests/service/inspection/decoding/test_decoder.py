import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.errors import BodyTooLarge
from service.inspection.decoding import formats
from service.inspection.decoding.decoder import ImageLimits, decode, read_header
from service.inspection.errors import CorruptImage, NotAnImage, TooManyPixels, UnsupportedImage

LIMITS = ImageLimits()
MEDIA_TYPES = {
    "JPEG": formats.JPEG,
    "PNG": formats.PNG,
    "BMP": formats.BMP,
    "WEBP": formats.WEBP,
    "TIFF": formats.TIFF,
}


def pattern(height: int = 30, width: int = 40) -> npt.NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5, columns * 5, rows + columns], axis=2).astype(np.uint8)


def encoded(image: npt.NDArray[np.generic], kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_header_has_the_detected_type_and_size(kind: str) -> None:
    header = read_header(encoded(pattern(), kind))

    assert (header.media_type, header.width, header.height) == (MEDIA_TYPES[kind], 40, 30)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_decode_to_the_same_rgb_pixels(kind: str, options: dict[str, object]) -> None:
    np.testing.assert_array_equal(decode(encoded(pattern(), kind, **options), LIMITS), pattern())


def test_jpeg_is_rgb_not_bgr() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250

    decoded = decode(encoded(red, "JPEG", quality=95), LIMITS)

    assert decoded[8, 8, 0] > 240
    assert decoded[8, 8, 2] < 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_gray_becomes_rgb_by_repetition(kind: str) -> None:
    decoded = decode(encoded(np.full((16, 16), 77, np.uint8), kind), LIMITS)

    assert decoded.shape == (16, 16, 3)
    assert (decoded == 77).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_reduced_over_their_full_range(kind: str) -> None:
    dim = np.full((8, 8), 0x1234, np.uint16)  # from a 12-bit camera: stretching to the data would make it white

    assert (decode(encoded(dim, kind), LIMITS) == 0x12).all()


def test_cmyk_jpeg_is_converted() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 0, 0, 0)).save(buffer, "JPEG")

    assert decode(buffer.getvalue(), LIMITS).min() > 250


def test_transparency_and_palette_are_flattened() -> None:
    buffer = io.BytesIO()
    Image.fromarray(pattern()).convert("P").save(buffer, "PNG")

    assert decode(buffer.getvalue(), LIMITS).shape == (30, 40, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_ignored(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    buffer = io.BytesIO()
    Image.fromarray(pattern()).save(buffer, kind, exif=exif)
    assert Image.open(buffer).getexif()[0x0112] == 6, "the tag is in the file"

    assert decode(buffer.getvalue(), LIMITS).shape == (30, 40, 3)


@pytest.mark.parametrize("data", [b"", b"hello, world", b"%PDF-1.7", b"GIF89a\x01\x00\x01\x00\x00\x00\x00"])
def test_data_that_is_not_an_image_is_refused_with_the_supported_formats(data: bytes) -> None:
    with pytest.raises(NotAnImage, match="image/png"):
        decode(data, LIMITS)


@pytest.mark.parametrize("kind", MEDIA_TYPES)
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9])
def test_truncated_image_is_refused(kind: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(noise, kind)

    with pytest.raises(CorruptImage, match="truncated or corrupt"):
        decode(data[: max(20, int(len(data) * keep))], LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damage_in_the_middle_is_detected(kind: str) -> None:
    data = bytearray(encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), kind))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)

    with pytest.raises(CorruptImage):
        decode(bytes(data), LIMITS)


def test_float_tiff_is_refused_because_its_range_is_unknown() -> None:
    with pytest.raises(UnsupportedImage, match="32 bits"):
        decode(encoded(np.ones((8, 8), np.float32), "TIFF"), LIMITS)


@pytest.mark.slow
def test_pixel_limit_is_enforced_before_decoding() -> None:
    # 20,000 x 20,000 black pixels would take 1.2 GB once decoded.
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")

    with pytest.raises(TooManyPixels) as caught:
        decode(bomb.getvalue(), ImageLimits(max_pixels=10_000_000))

    assert caught.value.extensions == {"width": 20_000, "height": 20_000, "limit_pixels": 10_000_000}


def test_byte_limit() -> None:
    with pytest.raises(BodyTooLarge):
        decode(encoded(pattern(), "BMP"), ImageLimits(max_bytes=100))


def test_png_without_its_last_bytes_is_truncated() -> None:
    data = encoded(pattern(), "PNG")

    with pytest.raises(CorruptImage, match="last bytes"):
        decode(data[:-6], LIMITS)

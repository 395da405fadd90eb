"""Camera buffers: each format against images with known samples and colours."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BodyTooLarge, InvalidRequest
from service.inspection.decoding.decoder import ImageLimits, decode, read_header
from service.inspection.decoding.pixel_formats import PIXEL_FORMATS, PixelRules, RawLayout
from service.inspection.decoding.samples import read_buffer, to_8_bit
from service.inspection.errors import BufferSizeMismatch, PixelMismatch, TooManyPixels
from service.inspection.errors import UnknownPixelFormat as Unknown
from tests.service.inspection.decoding.test_decoder import encoded
from tests.service.inspection.decoding.test_tiff import tiff

LIMITS = ImageLimits()
WIDTH, HEIGHT = 8, 6
RNG = np.random.default_rng(0)


def pack_p(samples: npt.NDArray[np.uint16], bits: int) -> bytes:
    """Pack samples as PFNC's stream of bits: the least significant bit of the first sample first."""
    stream = [int(sample) >> bit & 1 for sample in samples.ravel() for bit in range(bits)]
    stream += [0] * (-len(stream) % 8)
    return bytes(sum(bit << place for place, bit in enumerate(stream[at : at + 8])) for at in range(0, len(stream), 8))


def pack_gige(samples: npt.NDArray[np.uint16], bits: int) -> bytes:
    """Pack two samples in three bytes as GigE Vision does: upper bits, lower bits of both, upper bits of the second."""
    low = bits - 8
    packed = bytearray()
    for first, second in samples.reshape(-1, 2).tolist():
        lows = (first & (1 << low) - 1) | (second & (1 << low) - 1) << 4
        packed += bytes([first >> low, lows, second >> low])
    return bytes(packed)


def pack_words(samples: npt.NDArray[np.uint16], bits: int) -> bytes:
    return samples.astype("<u2").tobytes()


PACKINGS: list[tuple[str, int, Callable[[npt.NDArray[np.uint16], int], bytes]]] = [
    ("Mono10", 10, pack_words),
    ("Mono12", 12, pack_words),
    ("Mono16", 16, pack_words),
    ("Mono10p", 10, pack_p),
    ("Mono12p", 12, pack_p),
    ("Mono10Packed", 10, pack_gige),
    ("Mono12Packed", 12, pack_gige),
]


@pytest.mark.parametrize(("name", "bits", "pack"), PACKINGS)
def test_packed_samples_are_unpacked_exactly(
    name: str, bits: int, pack: Callable[[npt.NDArray[np.uint16], int], bytes]
) -> None:
    samples = RNG.integers(0, 2**bits, (HEIGHT, WIDTH), np.uint16)
    samples[0, :4] = (0, 1, 2**bits - 1, 2 ** (bits - 1))

    np.testing.assert_array_equal(read_buffer(pack(samples, bits), RawLayout(name, WIDTH, HEIGHT)), samples)
    decoded = decode(pack(samples, bits), LIMITS, PixelRules(RawLayout(name, WIDTH, HEIGHT)))
    np.testing.assert_array_equal(decoded, np.repeat((samples >> (bits - 8)).astype(np.uint8)[..., None], 3, axis=2))


def test_packed_formats_follow_the_standards() -> None:
    # 0xABC and 0x123 of 12 bits; 0x2AB and 0x0CD of 10 bits.
    assert read_buffer(bytes.fromhex("bc3a12"), RawLayout("Mono12p", 2, 1)).tolist() == [[0xABC, 0x123]]
    assert read_buffer(bytes.fromhex("ab3c12"), RawLayout("Mono12Packed", 2, 1)).tolist() == [[0xABC, 0x123]]
    assert read_buffer(bytes.fromhex("aa1333"), RawLayout("Mono10Packed", 2, 1)).tolist() == [[0x2AB, 0x0CD]]
    four = read_buffer(bytes.fromhex("ab36030000"), RawLayout("Mono10p", 4, 1))
    assert four.tolist() == [[0x2AB, 0x0CD, 0, 0]]


def test_eight_bit_formats() -> None:
    gray = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    rgb = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    for name, sent, expected in (
        ("Mono8", gray, np.repeat(gray[..., None], 3, axis=2)),
        ("RGB8", rgb, rgb),
        ("BGR8", rgb[..., ::-1], rgb),
    ):
        decoded = decode(sent.tobytes(), LIMITS, PixelRules(RawLayout(name, WIDTH, HEIGHT)))
        np.testing.assert_array_equal(decoded, expected)
        assert decoded.flags.c_contiguous


def mosaic(phase: str, colour: tuple[int, int, int], dtype: npt.DTypeLike, size: int = 12) -> npt.NDArray[np.generic]:
    """Return the Bayer mosaic of a surface of one colour. The phase names the first two samples."""
    first_two = {"RG": "RGGB", "GR": "GRBG", "GB": "GBRG", "BG": "BGGR"}[phase]
    values = ["RGB".index(letter) for letter in first_two]
    tile = np.array([[colour[values[0]], colour[values[1]]], [colour[values[2]], colour[values[3]]]], dtype)
    return np.tile(tile, (size // 2, size // 2))


@pytest.mark.parametrize("phase", ["RG", "GR", "GB", "BG"])
@pytest.mark.parametrize(
    ("depth", "pack"),
    [("8", None), ("10", pack_words), ("12", pack_words), ("16", pack_words), ("12p", pack_p), ("10Packed", pack_gige)],
)
def test_bayer_phase_gives_the_colours_of_the_surface(
    phase: str, depth: str, pack: Callable[[npt.NDArray[np.uint16], int], bytes] | None
) -> None:
    # OpenCV's names for the phases differ from PFNC's: the wrong phase swaps red and blue, or green and red.
    colour = (200, 90, 10)
    bits = int("".join(letter for letter in depth if letter.isdigit()))
    if pack is None:
        data = mosaic(phase, colour, np.uint8).tobytes()
    else:
        scaled = (colour[0] << bits - 8, colour[1] << bits - 8, colour[2] << bits - 8)
        data = pack(mosaic(phase, scaled, np.uint16).astype(np.uint16), bits)

    decoded = decode(data, LIMITS, PixelRules(RawLayout(f"Bayer{phase}{depth}", 12, 12)))

    assert np.unique(decoded.reshape(-1, 3), axis=0).tolist() == [list(colour)]


def test_lines_may_have_padding() -> None:
    samples = RNG.integers(0, 2**12, (HEIGHT, WIDTH), np.uint16)
    lines = [pack_p(line[None], 12) + b"\xff" * 4 for line in samples]
    layout = RawLayout("Mono12p", WIDTH, HEIGHT, stride=len(lines[0]))
    np.testing.assert_array_equal(read_buffer(b"".join(lines), layout), samples)


def test_line_that_ends_within_a_byte_needs_a_stride() -> None:
    with pytest.raises(InvalidRequest, match="X-Stride"):
        RawLayout("Mono10p", 5, 2)
    samples = RNG.integers(0, 2**10, (2, 5), np.uint16)
    data = b"".join(pack_p(line[None], 10) for line in samples)
    np.testing.assert_array_equal(read_buffer(data, RawLayout("Mono10p", 5, 2, stride=7)), samples)


@pytest.mark.parametrize("change", [-1, 1])
def test_buffer_of_the_wrong_size_is_refused_with_the_expected_size(change: int) -> None:
    layout = RawLayout("Mono12", WIDTH, HEIGHT)
    with pytest.raises(BufferSizeMismatch, match="expected 96") as caught:
        decode(bytes(96 + change), LIMITS, PixelRules(layout))
    assert caught.value.extensions == {"expected_bytes": 96, "got_bytes": 96 + change, "stride": 16}


@pytest.mark.parametrize(
    ("layout", "error", "message"),
    [
        (lambda: RawLayout("Mono14", 8, 6), Unknown, "Mono12"),
        (lambda: RawLayout("mono8", 8, 6), Unknown, "Mono8"),
        (lambda: RawLayout("Mono16", 8, 6, stride=15), InvalidRequest, "take 16 bytes"),
        (lambda: RawLayout("BayerRG8", 2, 6), InvalidRequest, "too small"),
    ],
)
def test_impossible_layout_is_refused(layout: Callable[[], RawLayout], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        layout()


def test_limits_hold_for_buffers() -> None:
    rules = PixelRules(RawLayout("Mono8", 1000, 1000))
    with pytest.raises(TooManyPixels):
        decode(bytes(10), ImageLimits(max_pixels=999_999), rules)
    with pytest.raises(BodyTooLarge):
        decode(bytes(10**6), ImageLimits(max_bytes=1000), rules)
    header = read_header(b"", rules)
    assert (header.media_type, header.width, header.height) == ("application/octet-stream", 1000, 1000)


def test_buffer_that_starts_like_an_image_file_is_read_as_a_buffer() -> None:
    data = b"\x89PNG\r\n\x1a\n" + bytes(8)
    assert decode(data, LIMITS, PixelRules(RawLayout("Mono8", 4, 4)))[0, 0, 0] == 0x89


@pytest.mark.parametrize(
    ("rules", "sample", "expected"),
    [
        (PixelRules(), 0xABCD, 0xAB),
        (PixelRules(bit_depth=12), 0x800, 128),
        (PixelRules(bit_depth=12), 0xFFFF, 255),  # values above the declared range are white
        (PixelRules(bit_depth=12, black_level=64), 64, 0),
        (PixelRules(bit_depth=12, black_level=64), 63, 0),
        (PixelRules(bit_depth=12, black_level=64, white_level=3000), 3000, 255),
        (PixelRules(bit_depth=12, black_level=0, white_level=1023), 512, 128),
        (PixelRules(bit_depth=10), 1023, 255),
    ],
)
def test_declared_levels_are_applied(rules: PixelRules, sample: int, expected: int) -> None:
    assert to_8_bit(np.array([sample], np.uint16), 16, rules).tolist() == [expected]
    # The result is the same for files and buffers, gray and colour.
    for image in (np.full((8, 8), sample, np.uint16), np.full((8, 8, 3), sample, np.uint16)):
        options = {"photometric": "rgb"} if image.ndim == 3 else {}
        assert (decode(tiff(image, **options), LIMITS, rules) == expected).all()


def test_sixteen_bit_colour_png_keeps_its_lower_bits() -> None:
    rgb = np.zeros((8, 8, 3), np.uint16)
    rgb[...] = (0x0100, 0x0FF0, 0x0800)
    data = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    assert decode(data, LIMITS)[0, 0].tolist() == [0x01, 0x0F, 0x08]
    assert decode(data, LIMITS, PixelRules(bit_depth=12))[0, 0].tolist() == [0x10, 0xFF, 0x80]
    gray = encoded(np.full((8, 8), 0x0FF0, np.uint16), "PNG")
    assert (decode(gray, LIMITS, PixelRules(bit_depth=12)) == 0xFF).all()


def test_levels_of_eight_bit_images() -> None:
    rules = PixelRules(bit_depth=8, black_level=16, white_level=235)
    image = np.array([[0, 16, 125, 235, 255]], np.uint8)
    expected = [0, 0, 126, 255, 255]
    assert decode(encoded(image, "PNG"), LIMITS, rules)[0, :, 0].tolist() == expected


def test_image_with_fewer_bits_than_declared_is_refused() -> None:
    with pytest.raises(PixelMismatch, match="have 8 bits"):
        decode(encoded(np.zeros((8, 8), np.uint8), "PNG"), LIMITS, PixelRules(bit_depth=12))


@given(
    black=st.integers(0, 4000),
    width=st.integers(1, 4095),
    samples=st.lists(st.integers(0, 65535), min_size=2, max_size=50),
)
def test_levels_keep_order_and_range(black: int, width: int, samples: list[int]) -> None:
    white = min(black + width, 4095)
    white = max(white, black + 1)
    rules = PixelRules(bit_depth=12, black_level=black, white_level=white)
    ordered = np.array(sorted([*samples, black, white]), np.uint16)
    reduced = to_8_bit(ordered, 16, rules).tolist()
    assert reduced == sorted(reduced)
    assert all(value == 0 for value, sample in zip(reduced, ordered, strict=True) if sample <= black)
    assert all(value == 255 for value, sample in zip(reduced, ordered, strict=True) if sample >= white)


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_rules_are_restored_from_the_store(name: str) -> None:
    rules = PixelRules(RawLayout(name, 8, 6, 64), bit_depth=8, black_level=3, white_level=200)
    assert PixelRules.from_stored(rules.to_stored()) == rules
    assert PixelRules.from_stored(PixelRules().to_stored()) == PixelRules()

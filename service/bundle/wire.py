"""Measure a serialised ONNX graph without parsing it.

A parsed message takes far more memory than its bytes: an empty node takes two bytes in the file and about a hundred in
memory. So the bytes that are not weights are counted, on the encoded data, before the graph is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator

# Field numbers in onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class StructureTooLarge(Exception):
    """The graph has more structure than allowed."""


def check_structure(model: bytes, limit_bytes: int) -> None:
    """Check the size of a serialised graph without the raw data of its initialisers.

    Args:
        model: The serialised graph.
        limit_bytes: Most bytes to accept. The time of the check is proportional to it, not to the size of the graph.

    Raises:
        StructureTooLarge: The graph has more bytes than that beside its weights.
        ValueError: The data is not a protobuf message.
    """
    view = memoryview(model)
    structure, seen = len(view), 0
    for graph in _fields(view, (0, len(view))):
        seen += 1
        for tensor in _fields(view, graph[1:]) if graph[0] == _GRAPH else ():
            seen += 1
            for number, first, last in _fields(view, tensor[1:]) if tensor[0] == _INITIALIZER else ():
                seen += 1
                structure -= last - first if number == _RAW_DATA else 0
                _check_count(seen, limit_bytes)
            _check_count(seen, limit_bytes)
        _check_count(seen, limit_bytes)
    if structure > limit_bytes:
        raise StructureTooLarge


def _check_count(fields: int, limit_bytes: int) -> None:
    if 2 * fields > limit_bytes:  # a field takes at least two bytes
        raise StructureTooLarge


def _fields(view: memoryview, bounds: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of every field of a message; start and end are equal unless it holds bytes."""
    position, end = bounds
    while position < end:
        key, position = _varint(view, position, end)
        number, kind = key >> 3, key & 7
        first = position
        if kind == _VARINT:
            _, position = _varint(view, position, end)
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        elif kind == _BYTES:
            size, first = _varint(view, position, end)
            position = first + size
        else:
            raise ValueError(f"field {number} has the wire type {kind}")
        if position > end:
            raise ValueError(f"field {number} is longer than its message")
        yield number, (first if kind == _BYTES else position), position


def _varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number is longer than its message")

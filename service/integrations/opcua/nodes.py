"""The address space: the objects Plumbline and Plumbline/Stations/<station> with their variables and methods."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from asyncua import Node, Server, ua

from service.integrations.opcua.state import ReadState
from service.integrations.opcua.stations import Snapshot, StationBoard
from service.version import VERSION

NAMESPACE = "urn:plumbline"
DECISION_CODES = {"": 0, "pass": 1, "review": 2, "fail": 3, "invalid": 4}
"""Values of `DecisionCode`; 0 while the last inspection is not the result of the last trigger, and after a reset."""
MAX_TEXT = 128
"""Most characters of a part id or product."""
_NAMES = ("none", "pass", "review", "fail", "invalid")
_Type = ua.VariantType
_Bad = ua.StatusCodes
# The order in which they are written: what a client waits for comes last.
_OF_THE_INSPECTION = {
    "LastInspectionId": _Type.String,
    "Product": _Type.String,
    "PartId": _Type.String,
    "Decision": _Type.String,
    "DecisionCode": _Type.Int32,
    "Score": _Type.Double,
    "PValue": _Type.Double,
    "ReviewThreshold": _Type.Double,
    "FailThreshold": _Type.Double,
    "Timestamp": _Type.DateTime,
}
_OF_THE_STATION = {
    "Inspected": _Type.UInt32,
    "Pass": _Type.UInt32,
    "Review": _Type.UInt32,
    "Fail": _Type.UInt32,
    "Invalid": _Type.UInt32,
    "Busy": _Type.Boolean,
    "Sequence": _Type.UInt32,
    "ResultReady": _Type.Boolean,
}
# The dot in a name of a station after which it ends like the node id of a variable or method.
_MEMBER = re.compile(
    r"\.(?=(?:" + "|".join([*_OF_THE_INSPECTION, *_OF_THE_STATION, "Trigger", "Reset", "EnumStrings"]) + r")\Z)"
)
_INITIAL: Mapping[ua.VariantType, Any] = {
    _Type.String: "",
    _Type.Int32: 0,
    _Type.UInt32: 0,
    _Type.Double: 0.0,
    _Type.Boolean: False,
    _Type.DateTime: datetime(1970, 1, 1, tzinfo=UTC),
}


class AddressSpace:
    """The nodes of the server. All methods run in its event loop.

    Args:
        server: The server.
        board: The stations.
        read_state: Returns the state of the service; fast.
    """

    def __init__(self, server: Server, board: StationBoard, read_state: ReadState) -> None:
        self._server = server
        self._board = board
        self._read_state = read_state
        self._namespace = 0
        self._stations: dict[str, Snapshot] = {}
        self._folder: Node | None = None
        self._state = read_state()

    async def create(self) -> None:
        """Create the nodes that do not belong to a station."""
        self._namespace = await self._server.register_namespace(NAMESPACE)
        objects = self._server.get_objects_node()
        root = await objects.add_object(self._id("Plumbline"), self._name("Plumbline"))
        for name, kind in (("Ready", _Type.Boolean), ("Version", _Type.String), ("ProductCount", _Type.UInt32)):
            await root.add_variable(self._id(f"Plumbline.{name}"), self._name(name), _INITIAL[kind], kind)
        self._folder = await root.add_folder(self._id("Plumbline.Stations"), self._name("Stations"))
        await self._write("Plumbline.Version", _good(VERSION, _Type.String, datetime.now(UTC)))
        await self._write_state()

    async def refresh(self) -> None:
        """Read the state of the service, and write it and all stations if it changed."""
        state, previous = self._read_state(), self._state
        self._state = state
        if state != previous:
            await self._write_state()
        if state.is_usable != previous.is_usable:
            for name, snapshot in self._stations.items():
                await self._write_station(name, snapshot)

    async def update(self, name: str, snapshot: Snapshot) -> None:
        """Write the values of a station. Its nodes are created the first time."""
        if name not in self._stations:
            await self._create_station(name)
        self._stations[name] = snapshot
        await self._write_station(name, snapshot)

    async def _create_station(self, name: str) -> None:
        assert self._folder is not None, "create was not called"
        prefix = _prefix(name)
        station = await self._folder.add_object(self._id(prefix), self._name(name))
        for variable, kind in {**_OF_THE_INSPECTION, **_OF_THE_STATION}.items():
            node = await station.add_variable(
                self._id(f"{prefix}.{variable}"), self._name(variable), _INITIAL[kind], kind
            )
            if variable == "DecisionCode":
                await node.add_property(
                    self._id(f"{prefix}.{variable}.EnumStrings"),
                    ua.QualifiedName("EnumStrings"),
                    [ua.LocalizedText(text) for text in _NAMES],
                )

        async def trigger(_parent: ua.NodeId, *arguments: ua.Variant) -> list[ua.Variant] | ua.StatusCode:
            return self._trigger(name, arguments)

        async def reset(_parent: ua.NodeId, *arguments: ua.Variant) -> list[ua.Variant] | ua.StatusCode:
            if arguments:
                return ua.StatusCode(ua.UInt32(_Bad.BadTooManyArguments))
            self._board.reset(name)
            return []

        await station.add_method(
            self._id(f"{prefix}.Trigger"),
            self._name("Trigger"),
            trigger,
            [
                _argument("PartId", _Type.String, "Part id of the next image, if it has none. Empty: none."),
                _argument("Product", _Type.String, "Product that the next image must be of. Empty: any."),
            ],
            [_argument("Sequence", _Type.UInt32, "Sequence number before the result.")],
        )
        await station.add_method(self._id(f"{prefix}.Reset"), self._name("Reset"), reset, [], [])

    def _trigger(self, name: str, arguments: tuple[ua.Variant, ...]) -> list[ua.Variant] | ua.StatusCode:
        """Arm a station. Arguments may be left out or null, because some clients cannot send empty strings."""
        if len(arguments) > 2:
            return ua.StatusCode(ua.UInt32(_Bad.BadTooManyArguments))
        values = ["" if argument.Value is None else argument.Value for argument in arguments]
        if not all(isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable() for value in values):
            return ua.StatusCode(ua.UInt32(_Bad.BadInvalidArgument))
        part_id, product = (*values, "", "")[:2]
        state = self._read_state()
        if not state.is_ready:
            return ua.StatusCode(ua.UInt32(_Bad.BadInvalidState))
        if product and product not in state.products:
            return ua.StatusCode(ua.UInt32(_Bad.BadNotFound))
        return [ua.Variant(self._board.arm(name, part_id, product), _Type.UInt32)]

    async def _write_state(self) -> None:
        now = datetime.now(UTC)
        await self._write("Plumbline.Ready", _good(self._state.is_ready, _Type.Boolean, now))
        await self._write("Plumbline.ProductCount", _good(len(self._state.products), _Type.UInt32, now))

    async def _write_station(self, name: str, snapshot: Snapshot) -> None:
        """Write all variables of a station with the same source timestamp."""
        prefix, kinds = _prefix(name), {**_OF_THE_INSPECTION, **_OF_THE_STATION}
        values = _values(snapshot)
        for variable, kind in kinds.items():
            value = values.get(variable)
            if not self._state.is_usable:
                # Its time is now: the values became invalid, although the station did not change.
                data = _bad(_Bad.BadOutOfService, datetime.now(UTC))
            elif value is None:
                missing = _Bad.BadWaitingForInitialData if snapshot.record is None else _Bad.BadNoData
                data = _bad(missing, snapshot.changed_at)
            else:
                data = _good(value, kind, snapshot.changed_at)
            await self._write(f"{prefix}.{variable}", data)

    async def _write(self, name: str, data: ua.DataValue) -> None:
        await self._server.write_attribute_value(self._id(name), data)

    def _id(self, name: str) -> ua.NodeId:
        return ua.NodeId(name, self._namespace)  # type: ignore[arg-type]  # takes texts and numbers

    def _name(self, name: str) -> ua.QualifiedName:
        return ua.QualifiedName(name, self._namespace)


def _values(snapshot: Snapshot) -> dict[str, Any]:
    """Return the value of each variable; variables without a value are absent or None."""
    values: dict[str, Any] = {
        "Inspected": sum(snapshot.counts.values()) % 2**32,
        **{decision.capitalize(): count for decision, count in snapshot.counts.items()},
        "Busy": snapshot.is_busy,
        "Sequence": snapshot.sequence,
        "ResultReady": snapshot.is_result_ready,
    }
    record = snapshot.record
    if record is None:
        return values
    # A PLC that reads only the decision must not take that of an earlier image, or of another part, for its result.
    decision = record.decision if snapshot.is_result_ready else ""
    return values | {
        "LastInspectionId": record.id,
        "Product": record.product,
        "PartId": record.part_id or "",
        "Decision": decision,
        "DecisionCode": DECISION_CODES[decision],
        "Score": record.score,
        "PValue": record.p_value,
        "ReviewThreshold": record.review_threshold,
        "FailThreshold": record.fail_threshold,
        "Timestamp": record.created_at,
    }


def _good(value: Any, kind: ua.VariantType, at: datetime) -> ua.DataValue:
    return ua.DataValue(ua.Variant(value, kind), ua.StatusCode(ua.UInt32(_Bad.Good)), SourceTimestamp=at)  # type: ignore[arg-type]


def _bad(code: int, at: datetime) -> ua.DataValue:
    return ua.DataValue(ua.Variant(None), ua.StatusCode(ua.UInt32(code)), SourceTimestamp=at)  # type: ignore[arg-type]


def _prefix(station: str) -> str:
    """Return the text of a station's node id, to which a dot and the name of a variable are appended.

    A station whose name ends like a variable of another station, such as `line1.Pass`, would have its node id. The dot
    before the variable's name, and `%`, are percent-encoded.
    """
    return "Plumbline.Stations." + _MEMBER.sub("%2E", station.replace("%", "%25"))


def _argument(name: str, kind: ua.VariantType, description: str) -> ua.Argument:
    return ua.Argument(
        Name=name, DataType=ua.NodeId(ua.Int32(kind.value)), ValueRank=-1, Description=ua.LocalizedText(description)
    )

"""Which guarantees are suspended now. Read with every inspection, without a lock and without the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from service.schemas.common import Guarantee
from service.schemas.drift import Suspension
from service.serving.drift.explanations import explain
from service.serving.drift.reference import ReferenceKeys
from service.store.drift.records import AlarmRecord
from service.store.records import RecipeRevision


class Guarantees:
    """The open alarms by product, and the guarantees that they suspend.

    An alarm belongs to a reference, so it has no effect from the moment on at which another recipe or bundle replaces
    the reference.
    """

    def __init__(self) -> None:
        self.keys = ReferenceKeys()
        self._alarms: Mapping[str, Sequence[AlarmRecord]] = MappingProxyType({})

    def replace(self, alarms: Sequence[AlarmRecord]) -> None:
        """Replace the open alarms.

        Args:
            alarms: All open alarms, oldest first.
        """
        found: dict[str, list[AlarmRecord]] = {}
        for alarm in alarms:
            found.setdefault(alarm.product, []).append(alarm)
        self._alarms = MappingProxyType(found)

    def of(self, revision: RecipeRevision) -> Guarantee:
        """Return the guarantee of the recipe in force of a product: suspended if any of its stations is."""
        if not revision.recipe.certified:
            return "none"
        return "suspended" if self._suspending(revision) else "certified"

    def is_suspended(self, revision: RecipeRevision, station: str | None) -> bool:
        """Return whether the guarantee is suspended for the inspections of a station.

        Args:
            revision: The recipe in force.
            station: The station, or None.
        """
        if not self._alarms or not revision.recipe.certified:
            return False
        return any(alarm.station in {"", station} for alarm in self._suspending(revision))

    def suspension(self, revision: RecipeRevision) -> Suspension | None:
        """Return why the guarantee of a recipe in force is suspended; None if it is not."""
        alarms = self._suspending(revision) if revision.recipe.certified else []
        if not alarms:
            return None
        onsets = [alarm.onset_at for alarm in alarms if alarm.onset_at is not None]
        return Suspension(
            since=min(alarm.raised_at for alarm in alarms),
            onset=min(onsets, default=None),
            kinds=list(dict.fromkeys(alarm.kind for alarm in alarms)),
            stations=sorted({alarm.station for alarm in alarms if alarm.station}),
            explanation=explain([(alarm.kind, alarm.direction) for alarm in alarms]),
        )

    def alarms(self, revision: RecipeRevision) -> list[AlarmRecord]:
        """Return the open alarms of a product under its recipe in force, oldest first."""
        alarms = self._alarms.get(revision.product, ())
        if not alarms:
            return []
        key = self.keys.of(revision)
        return [alarm for alarm in alarms if alarm.reference == key]

    def _suspending(self, revision: RecipeRevision) -> list[AlarmRecord]:
        return [alarm for alarm in self.alarms(revision) if alarm.suspends]

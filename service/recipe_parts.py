"""The parts of a recipe beside its thresholds: each a value of its own, with a default that changes nothing.

A new part is a model here, a field of `RecipeParts` and one of `RecipeChange` in `service/api/schemas.py`. The client
uses these classes too, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Part(BaseModel):
    """Base of every part: immutable, and what it does not know it refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HeatmapSetting(Part):
    """The ends of the heatmap's scale, as values of the anomaly map. They change colours, never verdicts."""

    low: float | None = Field(default=None, description="No colour up to here; null: the median of good maps.")
    high: float | None = Field(default=None, description="Yellow here, red beyond; null: the fail threshold.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"heatmap.low {self.low:g} is not below heatmap.high {self.high:g}")
        return self


class RecipeParts(Part):
    """Everything in a recipe that is not a threshold."""

    heatmap: HeatmapSetting = Field(default=HeatmapSetting(), description="The heatmap's scale.")


def levels(parts: RecipeParts) -> dict[str, Any]:
    """The values that are levels on one bundle's scale of scores and maps, and mean nothing on another's."""
    return {"heatmap": parts.heatmap.model_dump()}


def merge(current: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a change over current values, as JSON Merge Patch does (RFC 7396).

    Args:
        current: The values of a recipe.
        change: What is to change. What it does not name keeps its value, at every depth; None takes a value back to its
            default; a list replaces a list.
    """
    merged = dict(current)
    for name, value in change.items():
        before = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[name] = merge(before, value)
        else:
            merged[name] = value
    return merged

"""What a training selected for a product, in words."""

from __future__ import annotations

from service.bundle.manifest import Selected


def describe_selected(selected: Selected | None) -> dict[str, str]:
    """Return the selections by their names, in words; empty if nothing was selected or it is not recorded."""
    if selected is None:
        return {}
    rows = {"energy floor": f"{selected.energy_floor:g}"}
    if (bank := selected.memory_bank) is not None:
        rows["position of the part"] = (
            f"{'the same' if bank.aligned else 'not the same'} in every image: {bank.same_place:.0%} of the hardest "
            f"cells of good images have their nearest training cell at the same place, {bank.near_place:.0%} of all "
            "cells near it"
        )
        rows["weight of the position"] = f"{bank.place_weight if bank.aligned else 0:g}"
        rows["prototypes"] = f"{bank.prototypes}" + (
            ", moved half-way to the means of their cells" if bank.half_lloyd else ""
        )
    return rows

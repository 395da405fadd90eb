"""Heatmaps: an anomaly map drawn over its image, with an optional legend."""

from service.inspection.heatmap.colormap import COLORMAPS, DEFAULT_COLORMAP
from service.inspection.heatmap.encoding import HEATMAP_MEDIA_TYPES, encode
from service.inspection.heatmap.layer import draw_layer, empty_layer
from service.inspection.heatmap.legend import Legend, draw_legend
from service.inspection.heatmap.mask import AnomalyMask, draw_mask
from service.inspection.heatmap.overlay import render
from service.inspection.heatmap.scale import FULL_SCALE, HeatmapScale

__all__ = [
    "COLORMAPS",
    "DEFAULT_COLORMAP",
    "FULL_SCALE",
    "HEATMAP_MEDIA_TYPES",
    "AnomalyMask",
    "HeatmapScale",
    "Legend",
    "draw_layer",
    "draw_legend",
    "draw_mask",
    "empty_layer",
    "encode",
    "render",
]

"""Plumbline's inspection service: images of parts in, verdicts and heatmaps out."""

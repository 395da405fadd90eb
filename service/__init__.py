"""Plumbline's inspection service: pictures of parts in, verdicts and heatmaps out."""

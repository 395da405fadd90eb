"""Training of many products side by side, on one machine or on a Ray cluster."""

"""Other methods with the same teacher, images and metrics as Plumbline's, for comparison.

`python -m benchmarks.peers --help` shows the options; `docs/benchmarks.md` has the results.
"""

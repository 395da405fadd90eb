"""Time and accuracy of Plumbline beside other inferencers, from the bytes of an image to a verdict and a map.

`python -m benchmarks.inferencers --help` shows the options; `docs/benchmarks.md` has the results.
"""

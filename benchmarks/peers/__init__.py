"""Other people's methods on our teacher, our pictures and our metrics, so that our table has peers in it.

`python -m benchmarks.peers --help` says how; `docs/benchmarks.md` holds what came out.
"""

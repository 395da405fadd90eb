"""Other people's methods on our teacher, our images and our metrics, so that our table has peers in it.

`python -m benchmarks.peers --help` says how; `docs/benchmarks.md` holds what came out.
"""

"""One side of the client. `_async` is written by hand; `client/generate.py` derives `_sync` from it."""

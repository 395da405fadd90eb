"""Faults and attacks, each a script that repeats it against a service of its own and prints one line with a figure.

    python -m benchmarks.faults.NAME

Every script listens on the loopback only and is limited in time, memory and number of requests.
"""

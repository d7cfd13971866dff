"""What one call costs: natsmesh beside its floor and its peers, measured in one interleaved run.

`python -m benchmarks` is the entry point (`make bench` calls it); `benchmarks/README.md` says how to read its results.
"""

"""Measurements that ``tools/benchmark.py`` makes: of the non-local block, of a training step, of reading video."""

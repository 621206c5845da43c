"""What is kept of a run: the least recently used goes first, and keys tell values apart."""

from __future__ import annotations

import numpy

from pipelines.georemover import Cache


def test_the_cache_forgets_what_was_used_least_recently():
    cache = Cache(entries=2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert "b" not in cache and "a" in cache and "c" in cache and len(cache) == 2
    small = Cache(most_bytes=1000)
    small.put("a", numpy.zeros(900, numpy.uint8))
    small.put("b", (numpy.zeros(900, numpy.uint8), 1.0))
    assert "a" not in small and "b" in small
    small.clear()
    assert len(small) == 0 and small.get("b") is None


def test_keys_tell_values_shapes_and_types_apart():
    one = numpy.zeros((2, 3), numpy.float32)
    keys = {Cache.key(x) for x in (one, one.T, one.astype(numpy.float64), one + 1, "x", 1, 1.0, None, True)}
    assert len(keys) == 9 and Cache.key(one, 1) == Cache.key(one.copy(), 1) != Cache.key(1, one)

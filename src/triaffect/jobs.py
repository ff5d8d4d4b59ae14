"""Parallel work: a few items ahead by threads here; many independent pieces in processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, depth: int | None = None
) -> Generator[Result]:
    """Yields `function(item)` for each item in order, computed ahead by threads.

    Args:
        function: Called in a thread; its errors are raised where the result is due.
        items: Read lazily, at most `depth` items ahead.
        workers: Number of threads; 0 calls the function in this thread, when the result is asked for.
        depth: Number of items in flight; twice the number of workers by default.
    """
    if not workers:
        yield from map(function, items)
        return
    source = iter(items)
    with ThreadPoolExecutor(workers, "prefetch") as pool:
        futures = deque(pool.submit(function, item) for item in islice(source, depth or 2 * workers))
        try:
            while futures:
                result = futures.popleft().result()
                futures.extend(pool.submit(function, item) for item in islice(source, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)

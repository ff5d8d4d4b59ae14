"""Parallel work: a few items ahead by threads; independent pieces in this process, in local ones, or on a cluster."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import re
import secrets
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, ClassVar, Generic, TypeVar

from triaffect.io import InputError

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
        futures = deque(pool.submit(function, item) for item in itertools.islice(source, depth or 2 * workers))
        try:
            while futures:
                result = futures.popleft().result()
                futures.extend(pool.submit(function, item) for item in itertools.islice(source, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


def read_ahead(source: Generator[Item], depth: int = 2) -> Generator[Item]:
    """Yield the same items, made by a thread that is at most `depth` of them ahead; errors keep their place."""
    end = object()
    items = prefetch(lambda _: next(source, end), itertools.repeat(None), workers=1, depth=depth)
    try:
        for item in items:
            if item is end:
                return
            yield item  # type: ignore[misc]
    finally:
        items.close()  # waits for the thread, which may still be in `source`
        source.close()


def read_shard(text: str) -> tuple[int, int]:
    """Return the number of a part and of all parts from words such as `2/10`.

    Raises:
        InputError: They are something else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--shard {text}: give the number of the part and of all parts, such as 2/10")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """How the work on one item ended: with a result, or with the error that stopped it."""

    item: Item
    result: Result | None = None
    error: Exception | None = None


def run_all(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = 1,
    gpus: Sequence[str] | None = None,
    threads: int | None = None,
    ray: str | None = None,
) -> Generator[Outcome[Item, Result]]:
    """Run independent pieces of work here, in processes or on a cluster; yield each outcome as soon as it is known.

    One failure does not stop the others. An item whose process died (killed, or out of memory) is tried once more, on a
    cluster three times. The processes end at once when this process ends, is killed, or stops reading the outcomes
    (Ctrl-C). They write to the same terminal. A script that asks for several workers calls this below
    `if __name__ == "__main__":`, because each process imports the script.

    Args:
        function: A function of a module (with several workers it is imported in each process).
        items: What to call it with; read as workers become free.
        workers: Number of processes; with 1, and at most one GPU, the work runs in this process.
        gpus: CUDA names of the GPUs to share out, one to a process; None if the function uses none.
        threads: Number of threads per process; if given, one worker has its own process too. By default, the threads of
            the machine are shared out; on a cluster, one.
        ray: Run on the Ray cluster with this address instead: `auto` for the one that this machine is part of, `local`
            to start one here. An item takes `threads` processors and, unless `gpus` is None, one of the cluster's GPUs,
            if it has any. `workers` has no effect.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    if ray is not None:
        yield from _run_on_ray(function, items, ray, threads or 1, gpus is not None)
        return
    if workers <= 1 and len(gpus or ()) <= 1 and threads is None:
        for item in items:
            yield run_one(function, item)
        return
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    pool = [_Worker(threads, gpus[i % len(gpus)] if gpus else None) for i in range(workers)]
    idle, running = pool.copy(), dict[Future[Result], tuple[_Worker, Item, bool]]()
    waiting: Iterator[tuple[Item, bool]] = ((item, True) for item in items)
    try:
        while True:
            while idle and (start := next(waiting, None)):
                worker, (item, may_retry) = idle.pop(), start
                running[worker.submit(function, item)] = worker, item, may_retry
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, item, may_retry = running.pop(future)
                idle.append(worker)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    worker.stop()
                    if may_retry:
                        waiting = itertools.chain([(item, False)], waiting)
                        continue
                    error = ChildProcessError(LOST)
                yield Outcome(item, error=error) if isinstance(error, Exception) else Outcome(item, future.result())
    finally:
        busy = [worker for worker, _, _ in running.values()]
        for worker in pool:
            worker.stop(now=worker in busy)


def threads_each(jobs: int, ray: str | None) -> int:
    """Threads of each process of `run_all`; 0, all of the machine, if there is only this one."""
    return 1 if ray is not None else 0 if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)


class PerProcess(Generic[Result]):
    """A value that every process opens once; what travels is the function that opens it.

    Args:
        new: Opens the value.
        value: That of this process, if it is open.
    """

    _values: ClassVar[dict[str, Any]] = {}

    def __init__(self, new: Callable[[], Result], value: Result | None = None) -> None:
        self.new, self.key = new, secrets.token_hex(8)
        if value is not None:
            self._values[self.key] = value

    def get(self) -> Result:
        """The value of this process; one of an earlier call is dropped."""
        if self.key not in self._values:
            self._values.clear()
            self._values[self.key] = self.new()
        return self._values[self.key]


LOST = "its process died (killed, or out of memory)"


def run_one(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    """Call the function and return how it ended."""
    try:
        return Outcome(item, function(item))
    except Exception as error:
        return Outcome(item, error=error)


def _run_there(folder: str, function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    """`run_one` on another machine, where relative paths mean the same if it has the folder."""
    with contextlib.suppress(OSError):
        os.chdir(folder)
    return run_one(function, item)


def _run_on_ray(
    function: Callable[[Item], Result], items: Iterable[Item], address: str, threads: int, uses_gpu: bool
) -> Generator[Outcome[Item, Result]]:
    """`run_all` on a Ray cluster, at most two items per place waiting, so that neither side fills its memory."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports home
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # on a busy machine
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError("--ray needs Ray: pip install 'triaffect[ray]'") from None
    connected = ray.is_initialized()
    try:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        options |= {"include_dashboard": False} if address == "local" else {"address": address}
        ray.init(ignore_reinit_error=True, **options)
    except (ConnectionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--ray {address}: {reason}; start a cluster: ray start --head, or use --ray local") from None
    source, running = iter(items), dict[Any, Item]()
    try:
        gpus = int(uses_gpu and ray.cluster_resources().get("GPU", 0) >= 1)
        work: Any = ray.remote(_run_there).options(num_cpus=threads, num_gpus=gpus, max_retries=3)
        shared = ray.put(function)
        while True:
            resources = ray.cluster_resources()  # machines come and go
            places = max(1, int(resources.get("GPU", 0) if gpus else resources.get("CPU", 0) / threads))
            for item in itertools.islice(source, max(0, 2 * places - len(running))):
                running[work.remote(os.getcwd(), shared, item)] = item
            if not running:
                return
            for future in ray.wait([*running], timeout=5)[0]:
                item = running.pop(future)
                try:
                    yield ray.get(future)
                except ray.exceptions.RayTaskError as error:  # its result or its error cannot be sent
                    yield Outcome(item, error=RuntimeError(str(error.cause)))
                except ray.exceptions.RayError:
                    yield Outcome(item, error=ChildProcessError(LOST))
    finally:
        for future in running:
            ray.cancel(future, force=True)
        if not connected:
            ray.shutdown()


class _Worker:
    """A process that works on one item at a time; it is started when it is first needed, and again after `stop`."""

    def __init__(self, threads: int, gpu: str | None) -> None:
        self.settings = threads, gpu
        self.executor: ProcessPoolExecutor | None = None

    def submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        if self.executor is None:
            context = multiprocessing.get_context("spawn")
            self.read_end, self.write_end = context.Pipe(duplex=False)
            self.executor = ProcessPoolExecutor(1, context, _start_worker, (self.read_end, *self.settings))
        return self.executor.submit(function, item)

    def stop(self, now: bool = False) -> None:
        """End the process: `now` in the middle of its work, else it cleans up first."""
        if self.executor is not None:
            if now:
                self.write_end.close()
            self.executor.shutdown()
            self.write_end.close()
            self.read_end.close()
            self.executor = None


def _start_worker(read_end: Connection, threads: int, gpu: str | None) -> None:
    """Prepare a worker process: its threads, its GPU, and its end when the other side of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = str(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu

    def end_with_parent() -> None:
        read_end.poll(None)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()

"""Processes side by side: the workers of one run, which end with it, and other runs, which keep out of its folder.

Not here: what workers do, and how a run that was stopped goes on (running.py, check.py, overlap.py, inspecting.py).
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock, Timeout

from audiollm.files import made

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def workers(num_proc: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for jobs, which end with what is done here: at once, within a job, where that fails or is stopped.

    A job leaves nothing under its final name before it is done. ValueError where a process dies.
    """
    others = set(multiprocessing.active_children())
    pool = _Pool(num_proc, multiprocessing.get_context("spawn"), _begin_worker)
    try:
        yield pool
    except BaseException as error:
        with interruption_held_back():
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            cause = "a process was ended while it worked; there may be too little memory: take fewer with num_proc"
            raise ValueError(cause) from None
        raise
    pool.shutdown()


class _Pool(ProcessPoolExecutor):
    """Starts its processes, which it does at the first job, so that Ctrl-C does not meet them as they import."""

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with interruption_held_back():
            return super().submit(function, *args, **kwargs)


def _begin_worker() -> None:
    """Ctrl-C reaches all processes, and the first one ends the others; where that is killed, they see it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    first = multiprocessing.parent_process()
    assert first is not None  # we are a worker
    first.join()
    os._exit(1)


@contextmanager
def interruption_held_back() -> Iterator[None]:
    """Ctrl-C waits until the end of this; a process that is started in it never gets one, not even while it imports."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def alone_in(folder: Path, name: str = "run") -> Iterator[None]:
    """Make a folder, in which one run of this name works at a time; ValueError for a second one, and for a file.

    Neither its lock nor a folder that is new and stays empty is left behind.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file, and a folder is asked for; give another name")
    with made(folder):
        file = folder / f".{name}.lock"
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{folder}: another run writes there; wait for it, or name another --out") from None
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no file that is open
                file.unlink()
            lock.release()

"""Processes side by side: workers end with their run, and a second run keeps out of a folder."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from audiollm.curation.processes import alone_in, workers


def test_workers_end_within_a_job_where_the_run_is_stopped():
    with pytest.raises(KeyboardInterrupt), workers(2) as pool:
        endless = [pool.submit(time.sleep, 120) for _ in range(5)]
        assert len(multiprocessing.active_children()) == 2
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()
    assert all(job.done() for job in endless)


def test_a_worker_that_dies_is_told_with_the_way_out():
    with pytest.raises(ValueError, match="too little memory: take fewer with num_proc"), workers(1) as pool:
        pool.submit(os._exit, 1).result()


def test_one_run_at_a_time_writes_into_a_folder_and_its_lock_goes_with_it(tmp_path: Path):
    with alone_in(tmp_path / "out", "a"):
        refused = pytest.raises(ValueError, match="out: another run writes there; wait for it, or name another --out")
        with refused, alone_in(tmp_path / "out", "a"):
            raise AssertionError("let in")
        with alone_in(tmp_path / "out", "b"):
            (tmp_path / "out" / "rows.jsonl").touch()
    with alone_in(tmp_path / "out", "a"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rows.jsonl"]


def test_a_new_folder_that_stays_empty_is_not_left_behind(tmp_path: Path):
    with alone_in(tmp_path / "new" / "deep"):
        pass
    assert not any(tmp_path.iterdir())


def test_no_run_writes_into_a_file(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file, and a folder is asked for"), alone_in(tmp_path / "file"):
        raise AssertionError("let in")

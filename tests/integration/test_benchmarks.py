"""The benchmarks run, and what they switch off changes the cost of a step and not its loss."""

import json
import sys
from dataclasses import replace

import curation
import pytest
import throughput
from sides import SAVINGS, build_ours, build_peer
from transformers import TrainerCallback
from workload import Work, write_work

from audiollm.curation.prepare import prepare
from audiollm.training import stages

WORK = Work(clips=8, questions=5, seconds=1.0, epochs=1, steps=2, seed=0, folder="", size="tiny")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Eight recordings with five questions each, all in one step."""
    found = replace(WORK, folder=str(tmp_path_factory.mktemp("work")))
    write_work(found)
    return found


def losses(trainer):
    """Of each step."""
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("saving", SAVINGS)
def test_a_saving_that_is_off_leaves_the_loss_as_it_is(saving, work, monkeypatch):
    monkeypatch.setattr(stages, "Recordings", stages.Recordings)  # one saving puts another there
    expected = losses(build_ours(work, TrainerCallback(), []))
    assert len(expected) == 2
    heard_besides = saving == "real clip length"  # the silence that fills a window is heard
    found = losses(build_ours(work, TrainerCallback(), [], saving))
    assert found == pytest.approx(expected, rel=1e-3 if heard_besides else 1e-4)


def test_the_peer_learns_the_same_rows(work):
    """Other random weights, but before it has learned anything each side is as surprised as by any of 500 words."""
    peer = losses(build_peer(work, TrainerCallback()))
    assert len(peer) == 2 and peer[0] / 5 == pytest.approx(losses(build_ours(work, TrainerCallback(), []))[0], rel=0.05)


@pytest.mark.slow
def test_sides_take_turns_and_the_figures_are_written(tmp_path, monkeypatch):
    written = tmp_path / "throughput.json"
    options = ["--size=tiny", "--clips=8", "--seconds=1", "--steps=2", "--cached-features", "--threads=1"]
    monkeypatch.setattr(sys, "argv", ["throughput.py", *options, f"--json={written}"])
    throughput.main()
    found = json.loads(written.read_text())
    assert found["ratio_rows_per_second"] > 0 and found["ratio_kept_features"] > 0
    for side in ("peer", "ours", "kept"):
        assert found[side]["steps"] == 2 and found[side]["peak_gib_above_model"] > 0
    for side in ("ours", "kept"):
        assert 0 < found[side]["utilisation_whole_step"] < 1 and 0 < found[side]["utilisation_language_model"] < 1


@pytest.mark.parametrize("name", curation.SETS)
def test_a_made_up_archive_gives_the_rows_asked_for_in_all_splits(name, tmp_path):
    curation.SETS[name](tmp_path / "archive", 240)
    prepare(name, tmp_path / "rows", {"source": str(tmp_path / "archive")})
    made = json.loads((tmp_path / "rows" / "prepared.json").read_text())
    assert curation.rows_written(tmp_path / "rows") == 240
    assert min(made["rows"].values()) > 0 and len(made["rows"]) > 1
    assert not any(made["dropped"].values())

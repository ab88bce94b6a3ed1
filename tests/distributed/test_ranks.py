"""Two processes train exactly what one trains, under every way to share the work; killed, they go on exactly too.

The rows hear audio or none, mixed, so that again and again one rank has audio in a micro-batch and the other none.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from integration.test_training import recipe_of, rows_of, stage, weights, write_jsonl
from safetensors.torch import load_file

from audiollm.models.freezing import part_of
from audiollm.training import run_recipe

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
ENGINES = {
    "ddp": [],
    "zero1": ["--deepspeed", "zero1"],
    "zero2": ["--deepspeed", "zero2"],
    "zero3": ["--deepspeed", "zero3"],
    "fsdp2": ["--fsdp"],
}
STEPS = 20
STOPPED = ("align", 13)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Sixteen recordings, and as many groups of questions without one."""
    folder = tmp_path_factory.mktemp("mixed")
    heard = [rows_of(number, folder) for number in range(20)]
    for number, rows in enumerate(heard[:16]):
        heard[number] = rows + [without_audio(one, number) for one in rows]
    for name, chosen in (("train", heard[:16]), ("validation", heard[16:])):
        write_jsonl(folder / f"{name}.jsonl", [one for rows in chosen for one in rows])
    return folder


def without_audio(row, number):
    question, answer = row["messages"]
    asked = question | {"content": question["content"][1:]}
    return row | {"id": row["id"] + "-text", "source_id": f"text-{number}", "messages": [asked, answer]}


def recipe(folder, corpus, per_rank):
    """Every part trains in one of the stages; a step hears four groups of questions."""
    trainer = {"max_steps": STEPS, "per_device_train_batch_size": per_rank, "save_steps": 5, "learning_rate": 2.0e-3}
    data = {"group_by_length": False, "validation": [{"path": str(corpus / "validation.jsonl")}]}
    words = {"language_modeling": 1}

    def part(train, objectives, **more):
        return stage(corpus, train, objectives, trainer=dict(trainer), data=dict(data), **more)

    recipe_of(folder, corpus, {
        "language": part(["llm"], words),
        "listen": part(["encoder"], {"ctc": 1}),
        "align": part(["connector"], words),
        "instruct": part({"connector": 5.0e-4, "lora": 1.0e-3}, words, lora={"r": 2, "alpha": 4}),
    })  # fmt: skip
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def alone(mixed, tmp_path_factory):
    """What one process makes of it."""
    from audiollm.recipe import load_recipe

    folder = tmp_path_factory.mktemp("alone")
    run_recipe(load_recipe(recipe(folder, mixed, 4)))
    return folder / "run"


def train(path, *options, ranks=2, die=("", -1), expect=0):
    """Start `audiollm train` on some ranks; its whole output is in the message when it ends otherwise than expected."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launcher, str(ROOT / "tests/distributed/rank.py"), die[0], str(die[1])]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "train", str(path), *options], env=environment, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode == 0) == (expect == 0), done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def curves(run):
    record = json.loads((run / "run.json").read_text())["stages"]
    return {f"{name} {kind}": dict(one[kind]) for name, one in record.items() for kind in ("loss", "validation")}


def assert_same(run, alone):
    """Loss and validation of every step, and the tensors of every checkpoint."""
    found, expected = curves(run), curves(alone)
    assert found.keys() == expected.keys() and len(expected["align loss"]) == STEPS
    for name, curve in expected.items():
        assert found[name] == pytest.approx(curve, rel=1e-5), name
    for name in ("language", "listen", "align", "instruct"):
        ours, theirs = weights(run / name), weights(alone / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].allclose(theirs[key], rtol=1e-3, atol=1e-5) for key in theirs), name


def stored_parts(folder):
    """The parts that the tensors of a resume point belong to."""
    return {part_of(name) for name in load_file(folder / "model.safetensors")}


@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_that_were_killed_train_what_one_trains(engine, mixed, alone, tmp_path):
    path = recipe(tmp_path, mixed, 2)
    train(path, *ENGINES[engine], die=STOPPED, expect=3)
    points = sorted((tmp_path / "run/unfinished/align").glob("checkpoint-*"))
    assert [point.name for point in points] == ["checkpoint-10", "checkpoint-5"]
    said = train(path, *ENGINES[engine])
    assert "stage align was interrupted and goes on after step 10" in said
    assert_same(tmp_path / "run", alone)

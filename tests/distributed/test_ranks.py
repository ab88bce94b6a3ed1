"""Two processes train exactly what one trains, under every way to share the work; killed, they go on exactly too.

The rows hear audio or none, mixed, so that again and again one rank has audio in a micro-batch and the other none.
"""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from distributed.rank import forked
from integration import test_quantized, test_two_towers_run
from integration.test_quantized import recipe_on
from integration.test_training import recipe_of, rows_of, stage, weights, write_jsonl
from safetensors.torch import load_file
from torch.distributed import TCPStore

from audiollm.models.freezing import part_of
from audiollm.recipe import load_recipe
from audiollm.resources import deepspeed_file, packaged_files
from audiollm.training import run_recipe

hub = test_quantized.hub  # a fixture
pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
ENGINES = {
    "ddp": [],
    "zero2": ["--deepspeed", "zero2"],
    "zero3": ["--deepspeed", "zero3"],
    "fsdp2": ["--fsdp"],
}
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
STEPS = 20
STAGES = ("language", "listen", "align", "instruct")


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
    folder = tmp_path_factory.mktemp("alone")
    run_recipe(load_recipe(recipe(folder, mixed, 4)))
    return folder / "run"


@pytest.fixture(scope="module")
def ranks():
    """Where processes are forked from, with all that a run imports."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["distributed.rank", "audiollm.training.stages", "deepspeed"])
        yield context


def train(ranks, path, *options, event=""):
    """`audiollm train` on two ranks, which both fail where something happens; what they said and complained of.

    `event`: STAGE:EVENT:STEP, see rank.py.
    """
    files = [path.parent / "said.txt", path.parent / "complaints.txt"]
    for file in files:
        file.write_text("")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun has one
    arguments = (store.port, event, ["train", str(path), *options], *map(str, files))
    processes = [ranks.Process(target=forked, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    said, complaints = (file.read_text() for file in files)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert None not in codes and [code == 0 for code in codes] == [not event] * 2, (codes, said, complaints[-6000:])
    return said, complaints


def train_under_torchrun(path, *options, event=""):
    """The same by the launcher that people use."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, str(ROOT / "tests/distributed/rank.py"), event]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "train", str(path), *options], env=environment, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode == 0) == (not event), done.stdout[-3000:] + done.stderr[-6000:]


def curves(run):
    record = json.loads((run / "run.json").read_text())["stages"]
    return {f"{name} {kind}": dict(one[kind]) for name, one in record.items() for kind in ("loss", "validation")}


def assert_same(run, alone):
    """Loss and validation of every step, and the tensors of every checkpoint."""
    found, expected = curves(run), curves(alone)
    assert found.keys() == expected.keys() and len(expected["align loss"]) == STEPS
    for name, curve in expected.items():
        assert found[name] == pytest.approx(curve, rel=1e-5), name
    for name in STAGES:
        ours, theirs = weights(run / name), weights(alone / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].allclose(theirs[key], rtol=1e-3, atol=1e-5) for key in theirs), name


@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_that_were_killed_train_what_one_trains(engine, ranks, mixed, alone, tmp_path):
    path = recipe(tmp_path, mixed, 2)
    train(ranks, path, *ENGINES[engine], event="align:killed:13")
    points = sorted((tmp_path / "run/unfinished/align").glob("checkpoint-*"))
    assert [point.name for point in points] == ["checkpoint-10", "checkpoint-5"]
    assert_small(points[0])
    said, complaints = train(ranks, path, *ENGINES[engine])
    assert "find_unused_parameters" not in complaints  # all that trains is used on every rank
    assert said.count("stage align was interrupted and goes on after step 10") == 1
    assert_same(tmp_path / "run", alone)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_one_process_goes_on_where_two_were_asked_to_stop(engine, ranks, mixed, alone, tmp_path):
    path = recipe(tmp_path, mixed, 2)
    shutil.copytree(alone, tmp_path / "run")
    record = json.loads((alone / "run.json").read_text())
    del record["stages"]["instruct"]
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    if engine == "ddp":
        train_under_torchrun(path, event="instruct:asked:13")
    else:
        train(ranks, path, *ENGINES[engine], event="instruct:asked:13")
    assert "checkpoint-13" in os.listdir(tmp_path / "run/unfinished/instruct")
    run_recipe(load_recipe(path, [f"stages.{name}.trainer.gradient_accumulation_steps=2" for name in STAGES]))
    assert_same(tmp_path / "run", alone)


def two_steps(mixed, folder, per_rank=1, **trainer):
    """A recipe of one stage that trains most of the model, and saves after each step."""
    trainer |= {"max_steps": 2, "per_device_train_batch_size": per_rank, "save_steps": 1}
    data = {"group_by_length": False}
    only = stage(mixed, ["llm", "connector"], {"language_modeling": 1}, trainer=trainer, data=data)
    recipe_of(folder, mixed, {"only": only})
    return folder / "recipe.yaml"


OTHERS = ["zero1", "zero2_offload", "zero3_offload"]


def assert_two_steps_as_of_one(ranks, mixed, folder, *options, **trainer):
    run_recipe(load_recipe(two_steps(mixed, folder / "one", per_rank=2, **trainer)))
    train(ranks, two_steps(mixed, folder / "two", **trainer), *options)
    found, expected = curves(folder / "two/run"), curves(folder / "one/run")
    assert found["only loss"] == pytest.approx(expected["only loss"], rel=1e-5) and len(found["only loss"]) == 2
    ours, theirs = weights(folder / "two/run/only"), weights(folder / "one/run/only")
    assert all(ours[key].allclose(theirs[key], rtol=1e-3, atol=1e-5) for key in theirs)


@pytest.mark.parametrize("engine", OTHERS)
def test_two_ranks_train_two_steps_as_one_does(engine, ranks, mixed, tmp_path):
    """With an optimizer of torch's where DeepSpeed would compile its own, which takes a minute."""
    settings = json.loads(deepspeed_file(engine).read_text()) | {"zero_force_ds_cpu_optimizer": False}
    (tmp_path / f"{engine}.json").write_text(json.dumps(settings))
    assert_two_steps_as_of_one(ranks, mixed, tmp_path, "--deepspeed", str(tmp_path / f"{engine}.json"))


def test_two_ranks_of_two_towers_find_their_texts_among_those_of_both(ranks, tmp_path):
    """Every third recording has no caption, so that micro-batches have unlike numbers of pairs, and some none."""
    rows = [test_two_towers_run.rows_of(tmp_path, number, 0)[number % 3 == 0 :] for number in range(12)]
    write_jsonl(tmp_path / "train.jsonl", [one for recording in rows for one in recording])
    corpus = dict.fromkeys(("train", "test"), str(tmp_path / "train.jsonl"))
    for name, size in (("one", 4), ("two", 2)):
        settings = {"max_steps": 6, "per_device_train_batch_size": size, "logging_steps": 1}
        written = test_two_towers_run.recipe_of(tmp_path / name, corpus, **settings) | {"evaluate": []}
        del written["stages"]["match"]["data"]["train"][0]["tasks"]
        test_two_towers_run.load(tmp_path / name, written)
    run_recipe(load_recipe(tmp_path / "one/recipe.yaml"))
    train(ranks, tmp_path / "two/recipe.yaml")
    found, expected = curves(tmp_path / "two/run"), curves(tmp_path / "one/run")
    assert found["match loss"] == pytest.approx(expected["match loss"], rel=1e-4) and len(found["match loss"]) == 6
    ours, theirs = weights(tmp_path / "two/run/match"), weights(tmp_path / "one/run/match")
    assert all(ours[key].allclose(theirs[key], rtol=1e-2, atol=1e-4) for key in theirs)


def test_two_ranks_train_by_muon_as_one_does(ranks, mixed, tmp_path):
    assert_two_steps_as_of_one(ranks, mixed, tmp_path, optim="muon")


def test_two_ranks_distil_as_one_does(ranks, tmp_path):
    heard = [rows_of(number, tmp_path) for number in range(12)]
    for name, chosen in (("train", heard[:8]), ("validation", heard[8:])):
        write_jsonl(tmp_path / f"{name}.jsonl", [one for rows in chosen for one in rows])

    def distilled(folder, per_rank):
        trainer = {"max_steps": 4, "per_device_train_batch_size": per_rank, "learning_rate": 2.0e-3}
        data = {"group_by_length": False, "validation": [{"path": str(tmp_path / "validation.jsonl")}]}
        objectives = {"distillation": {"teacher_text": "description"}}
        align = stage(tmp_path, ["connector"], objectives, trainer=trainer, data=data)
        recipe_of(tmp_path / folder, tmp_path, {"align": align})
        return tmp_path / folder / "recipe.yaml"

    run_recipe(load_recipe(distilled("one", 4)))
    train(ranks, distilled("two", 2), *ENGINES["zero2"])
    found, expected = curves(tmp_path / "two/run"), curves(tmp_path / "one/run")
    assert len(expected["align loss"]) == 4 and found.keys() == expected.keys()
    assert all(found[name] == pytest.approx(curve, rel=1e-5) for name, curve in expected.items())


def test_every_deepspeed_setting_that_is_shipped_is_tried():
    assert {*ENGINES, *OTHERS} - {"ddp", "fsdp2"} == set(packaged_files("ds_configs"))


def assert_told_once(complaints, path):
    """What could not be written is told by one rank, and not taken for a broken connection by the other."""
    assert complaints.count("could not be written") == complaints.count(f"{path} could not be written") == 1
    assert "closed by peer" not in complaints


def test_a_full_disk_at_one_rank_ends_both_with_one_sentence(ranks, mixed, tmp_path):
    _, complaints = train(ranks, two_steps(mixed, tmp_path), *ENGINES["zero2"], event="only:full:1")
    assert_told_once(complaints, tmp_path / "run/unfinished/only/checkpoint-1")
    assert not list((tmp_path / "run/unfinished/only").glob("checkpoint-*[0-9]"))


@pytest.fixture(scope="module")
def spoilt(ranks, mixed, tmp_path_factory):
    """A run whose second rank has a loss of NaN in the second step, and whose checkpoint has no place; what it said."""
    folder = tmp_path_factory.mktemp("spoilt")
    (folder / "run").mkdir()
    (folder / "run/only.partial").touch()
    return folder, *train(ranks, two_steps(mixed, folder), event="only:poisoned:1")


def test_a_checkpoint_that_has_no_place_ends_both_ranks_with_one_sentence(spoilt):
    folder, _, complaints = spoilt
    assert_told_once(complaints, folder / "run/only")


def test_a_step_that_is_not_finite_on_one_rank_names_the_rows_of_both(spoilt):
    _, said, _ = spoilt
    [told] = [line for line in said.splitlines() if "not finite; rows:" in line]
    named = told.partition("rows: ")[2].partition(";")[0].split(", ")
    assert "step 2:" in told and len(named) == len(set(named)) == 6  # three of each rank's recording


def test_two_ranks_train_adapters_on_four_bits_as_one_does(ranks, mixed, hub, tmp_path):
    trainer = {"max_steps": STEPS, "learning_rate": 2.0e-3}
    data = {"group_by_length": False}
    for name, per_rank in (("one", 4), ("two", 2)):
        only = stage(
            mixed, ["connector", "lora"], {"language_modeling": 1}, lora={"r": 2}, data=dict(data),
            trainer=trainer | {"per_device_train_batch_size": per_rank},
        )  # fmt: skip
        alone = recipe_on(hub, tmp_path / name, {"only": only}, quantize="nf4")
        if name == "one":
            run_recipe(alone)
        else:
            train(ranks, tmp_path / "two/recipe.yaml")
    found, expected = curves(tmp_path / "two/run"), curves(tmp_path / "one/run")
    assert found["only loss"] == pytest.approx(expected["only loss"], rel=5e-4)  # four bits multiply in bfloat16


def assert_small(point):
    """A resume point of a stage that trains the connector: nothing in it is as large as the weights of the model."""
    stored = load_file(point / "model.safetensors")
    assert {part_of(name) for name in stored} == {"encoder", "connector", "llm"}  # all were made from scratch
    trained = sum(tensor.nbytes for name, tensor in stored.items() if part_of(name) == "connector")
    states = [file for file in point.rglob("*") if file.suffix in (".pt", ".pth")]
    assert states and max(file.stat().st_size for file in states) < 4 * trained + 50_000

"""Whole recipes on tones: stages run, go on where they stopped, count their loss a step, and say what is wrong."""

import copy
import importlib
import importlib.machinery
import io
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import tarfile
import types
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny import CONNECTOR_BLOCKS, ENCODER, LLM, QFORMER, RATE, RECURRENT, checksum, tiny, tone
from transformers import TrainerCallback

from audiollm.audio import write
from audiollm.conversation import AudioPart, RowError, parse_row, row_to_dict
from audiollm.data import features
from audiollm.data.dataset import Limits, Recordings
from audiollm.data.mixture import Mixture
from audiollm.data.quarantine import Quarantine, bad_row
from audiollm.data.sources import load_rows
from audiollm.data.streams import Stream, open_stream
from audiollm.models import locate
from audiollm.models.encoders.whisper import WhisperAudioEncoder
from audiollm.models.freezing import part_of
from audiollm.recipe import RecipeError, load_recipe
from audiollm.training import bad_rows, dry_run, run_recipe, stage_data, stages
from audiollm.training import features as training_features
from audiollm.training.objectives.language_modeling import LanguageModeling
from audiollm.training.requirements import refuse_repeated
from audiollm.training.trainer import StageTrainer, train_sampler

PITCHES = {"low": 300, "middle": 900, "high": 2700}


def row(clip, number, question, answer, task):
    return {
        "id": f"{task}-{number}", "task": task, "source": "tones", "source_id": str(number),
        "messages": [
            {"role": "user", "content": [clip, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
    }  # fmt: skip


def rows_of(number, folder):
    """A recording of one to three tones, and three questions about it."""
    draw = random.Random(number)
    names = [draw.choice(list(PITCHES)) for _ in range(draw.randint(1, 3))]
    samples = [tone(PITCHES[name], draw.uniform(0.15, 0.3), seed=number) for name in names]
    path = folder / f"{number}.wav"
    write(path, [value for part in samples for value in part], RATE)
    clip = {"type": "audio", "audio": path.name, "duration": sum(map(len, samples)) / RATE}
    clip |= {"transcript": " ".join(names), "description": f"{' then '.join(names)} tones"}
    return [
        row(clip, number, "what do you hear?", " then ".join(names), "describe"),
        row(clip, number, "how many?", ["one", "two", "three"][len(names) - 1], "count"),
        row(clip, number, "is there a high one?", "yes" if "high" in names else "no", "existence"),
    ]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def write_shard(corpus, name="train"):
    """The rows of a file as a shard, written once: the sound of each key beside its row."""
    path = corpus / f"{name}.tar"
    if path.is_file():
        return str(path)
    with tarfile.open(path, "w") as archive:
        for line in (corpus / f"{name}.jsonl").read_text().splitlines():
            one = json.loads(line)
            sound = (corpus / one["messages"][0]["content"][0].pop("audio")).read_bytes()
            for ending, content in (("wav", sound), ("json", json.dumps(one).encode())):
                member = tarfile.TarInfo(f"{one['id']}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sixteen recordings to train on and four to validate on."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [rows_of(number, folder) for number in range(20)]
    for name, chosen in (("train", rows[:16]), ("validation", rows[16:]), ("eight", rows[:8])):
        write_jsonl(folder / f"{name}.jsonl", [one for recording in chosen for one in recording])
    return folder


def stage(corpus, train, objectives, *, rows="train", audio="sound", **block):
    source = {"path": str(corpus / f"{rows}.jsonl"), "audio": audio}
    trainer = {"max_steps": 4, "per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 2.0e-3}
    trainer |= block.pop("trainer", {})
    if not isinstance(train, list):
        trainer.pop("learning_rate")
    data = {"train": [source]} | block.pop("data", {})
    return {"train": train, "objectives": objectives, "data": data, "trainer": trainer, **block}


def recipe_of(folder, corpus, stages, *overrides, connector=QFORMER, **llm):
    """A recipe of these stages whose run is in the folder."""
    block = {
        "encoder": {"name": "whisper", "config": {k: v for k, v in ENCODER.items() if not k.endswith("token_id")}},
        "connector": connector,
        "llm": {
            "config": {"model_type": "qwen3", **LLM, **llm},
            "tokenizer": {"train_on": str(corpus / "train.jsonl"), "vocab_size": 320},
        },
    }
    written = {"name": "tones", "output": str(folder / "run"), "model": block, "stages": stages}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    return load_recipe(folder / "recipe.yaml", overrides)


def four_stages(corpus):
    """A curriculum as in a real recipe."""
    validation = {"validation": [{"path": str(corpus / "validation.jsonl")}]}
    described = {"validation": [{"path": str(corpus / "validation.jsonl"), "audio": "as_description"}]}
    evaluated = {"trainer": {"eval_steps": 2}}
    language_modeling = {"language_modeling": 1}
    return {
        "language": stage(corpus, ["llm"], language_modeling, audio="as_description", data={}, **evaluated)
        | {"data": {"train": [{"path": str(corpus / "train.jsonl"), "audio": "as_description"}], **described}},
        "listen": stage(corpus, ["encoder"], {"ctc": 1, "contrastive": 0.2}, data=validation, **evaluated),
        "align": stage(corpus, ["connector"], language_modeling, data=validation, **evaluated),
        "instruct": stage(
            corpus, {"connector": 5.0e-4, "lora": 1.0e-3}, language_modeling, data=validation,
            lora={"r": 2, "alpha": 4, "dropout": 0.1}, **evaluated,
        ),
    }  # fmt: skip


@pytest.fixture
def lines(monkeypatch):
    """What the trainer logs."""
    logged, log = [], StageTrainer.log

    def record(trainer, logs, *args):
        log(trainer, logs, *args)
        logged.append(trainer.state.log_history[-1])

    monkeypatch.setattr(StageTrainer, "log", record)
    return logged


@pytest.fixture
def watch(monkeypatch):
    """Adds a callback to every stage that is trained."""
    build_trainer = stages.build_trainer

    def add(callback):
        def build(*args, **kwargs):
            trainer = build_trainer(*args, **kwargs)
            trainer.add_callback(callback)
            return trainer

        monkeypatch.setattr(stages, "build_trainer", build)

    return add


class Killed(Exception):
    """What stops a run from outside."""


class Kill(TrainerCallback):
    """Stops a run at a step: after its weights moved, or after its checkpoint was saved."""

    def __init__(self, step, event="on_step_end"):
        self.step = step
        setattr(self, event, self.stop)

    def stop(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Killed


def weights(folder):
    """Every tensor of a checkpoint, adapters included."""
    found = load_file(folder / "model.safetensors")
    adapter = folder / "adapter" / "adapter_model.safetensors"
    return found | (load_file(adapter) if adapter.is_file() else {})


def assert_same_weights(one, other, **tolerance):
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if tolerance:
            torch.testing.assert_close(tensor, theirs[name], **tolerance, msg=name)
        else:
            assert torch.equal(tensor, theirs[name]), name


# ------------------------------------------------------------------------------------------------------ a whole recipe


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """The run of four stages."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = recipe_of(folder, corpus, four_stages(corpus))
    assert run_recipe(recipe) == folder / "run" / "instruct"
    return recipe, folder / "run"


def test_every_stage_leaves_a_checkpoint_and_its_record(finished):
    recipe, run = finished
    record = json.loads((run / "run.json").read_text())["stages"]
    assert list(record) == list(recipe.stages)
    for name, one in record.items():
        assert one["steps"] == 4 and [step for step, _ in one["loss"]] == [1, 2, 3, 4] and one["problems"] == []
        assert [step for step, _ in one["validation"]] == [2, 4] and one["seconds"] > 0
        assert (run / name / "model.safetensors").is_file() and list((run / "logs" / name).rglob("events*"))
    assert not (run / "unfinished").exists() and not [*run.rglob("*.partial"), *run.rglob("*.tmp")]
    assert load_recipe(run / "recipe.yaml").stages == recipe.stages


def test_a_checkpoint_holds_the_heads_of_its_objectives_and_the_recipe(finished):
    recipe, run = finished
    heads = load_file(run / "listen" / "objectives.safetensors")
    assert {name.partition(".")[0] for name in heads} == {"ctc", "contrastive"}
    assert load_recipe(run / "instruct" / "recipe.yaml").model_dump() == recipe.model_dump()
    assert not (run / "instruct" / "objectives.safetensors").exists()


def test_a_stage_changes_what_it_trains_and_nothing_else(finished):
    _, run = finished
    before, align, instruct = (weights(run / name) for name in ("listen", "align", "instruct"))
    changed = {part_of(name) for name in before if not torch.equal(before[name], align[name])}
    assert changed == {"connector"}
    lora = {name for name in instruct if "lora" in name}
    assert lora and any(instruct[name].any() for name in lora if "lora_B" in name)
    changed = {part_of(name) for name in align if not torch.equal(align[name], instruct[name])}
    assert changed == {"connector"}


def test_a_frozen_encoder_has_the_same_checksum_after_training(finished):
    _, run = finished
    listen, instruct = (stages.load_built(run / name).model for name in ("listen", "instruct"))
    assert checksum(listen.model.audio_tower) == checksum(instruct.model.audio_tower)


def test_finished_stages_are_skipped(finished, monkeypatch, capsys):
    recipe, run = finished
    before = weights(run / "instruct")
    monkeypatch.setattr(stages, "train_stage", lambda *_, **__: pytest.fail("a finished stage was trained again"))
    run_recipe(recipe)
    assert capsys.readouterr().out.count("done already, skipped") == 4
    told_otherwise = ["stages.align.trainer.logging_steps=3", "stages.align.trainer.dataloader_num_workers=1"]
    run_recipe(load_recipe(run.parent / "recipe.yaml", told_otherwise))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run / "instruct").items())


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "stages.align.trainer.learning_rate=0.5",
            r"stage align was done with stages\.align\.trainer\.learning_rate=0\.002, and now it is 0\.5",
        ),
        (
            "stages.align.data.train.0.limit=3",
            r"stage align was done with stages\.align\.data\.train\.0\.limit=None, and now it is 3;",
        ),
        ("seed=3", "stage language was done with seed=0, and now it is 3"),
        (
            "model.connector.num_queries=3",
            "stage language was done with model.connector.num_queries=2, and now it is 3",
        ),
    ],
)
def test_changed_settings_of_a_finished_stage_are_refused(finished, override, told):
    _, run = finished
    changed = load_recipe(run.parent / "recipe.yaml", [override])
    with pytest.raises(ValueError, match=told):
        run_recipe(changed)


def test_recordings_that_come_twice_are_refused_before_anything_is_trained(corpus, tmp_path, monkeypatch):
    only = {"only": stage(corpus, ["connector"], {"language_modeling": 1}, trainer={"max_steps": 1}, rows="eight")}
    monkeypatch.setattr(stages, "train_stage", lambda *_, **__: pytest.fail("trained on what is refused"))
    refused = "refuse_overlap=true", f"evaluate=[{{path: {corpus / 'train.jsonl'}}}]"
    with pytest.raises(ValueError, match=r"8 recordings of training are in .*train\.jsonl too, the first in"):
        run_recipe(recipe_of(tmp_path, corpus, only, *refused))
    first = json.loads((corpus / "eight.jsonl").read_text().splitlines()[0])
    again = json.loads(json.dumps(first).replace('"0.wav"', '"again.wav"'))
    for name in ("0.wav", "again.wav"):
        shutil.copy(corpus / "0.wav", tmp_path / name)
    write_jsonl(tmp_path / "twice.jsonl", [first, again | {"id": "again", "source_id": "again"}])
    rows = f"stages.only.data.train=[{{path: {tmp_path / 'twice.jsonl'}}}]"
    with pytest.raises(ValueError, match="training has 1 pair of clips of one recording"):
        run_recipe(recipe_of(tmp_path, corpus, only, rows, "refuse_duplicates=true"))
    assert not (tmp_path / "run" / "run.json").exists()


def test_of_several_ranks_the_first_one_looks_for_recordings_that_come_twice(corpus, tmp_path, monkeypatch, capsys):
    only = {"only": stage(corpus, ["connector"], {"language_modeling": 1}, rows="eight")}
    refused = "refuse_overlap=true", f"evaluate=[{{path: {corpus / 'train.jsonl'}}}]"
    recipe = recipe_of(tmp_path, corpus, only, *refused)
    monkeypatch.setenv("RANK", "1")
    refuse_repeated(recipe)
    assert not (tmp_path / "run").exists()
    dry_run(recipe)
    assert "recordings are not compared here, but before training (refuse_overlap)" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="8 recordings of training"):
        refuse_repeated(recipe)


def test_a_run_of_an_older_version_that_noted_no_ranks_goes_on(finished, capsys):
    recipe, run = finished
    record = json.loads((run / "run.json").read_text())
    for stage_record in record["stages"].values():
        del stage_record["settings"]["ranks"]
    content = (run / "run.json").read_text()
    (run / "run.json").write_text(json.dumps(record))
    run_recipe(recipe)
    assert capsys.readouterr().out.count("done already, skipped") == 4
    (run / "run.json").write_text(content)


def test_changed_rows_of_a_finished_stage_are_refused(corpus, tmp_path):
    rows = (corpus / "train.jsonl").read_text().splitlines(keepends=True)
    only = stage(corpus, ["connector"], {"language_modeling": 1}, trainer={"max_steps": 1})
    only["data"]["train"] = [{"path": str(corpus / "own*.jsonl")}]
    recipe = recipe_of(tmp_path, corpus, {"only": only})
    (corpus / "own1.jsonl").write_text("".join(rows[:6]))
    run_recipe(recipe)
    run_recipe(recipe)
    for file, content in (("own1.jsonl", rows[:5]), ("own2.jsonl", rows[6:])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages, "train_stage", lambda *_, **__: pytest.fail("trained over a finished stage"))
            before = (corpus / "own1.jsonl").read_text()
            (corpus / file).write_text("".join(content))
            with pytest.raises(ValueError, match=r"stage only was done before .*own\*.jsonl was changed; use another"):
                run_recipe(recipe)
            (corpus / "own2.jsonl").unlink(missing_ok=True)
            (corpus / "own1.jsonl").write_text(before)


def test_one_stage_by_its_name_needs_the_one_before(corpus, tmp_path):
    recipe = recipe_of(tmp_path, corpus, four_stages(corpus), "stages.language.trainer.max_steps=1")
    with pytest.raises(ValueError, match="stage language comes first and is not done"):
        run_recipe(recipe, stage="listen")
    with pytest.raises(ValueError, match="no stage 'speak' in tones; known: align, instruct, language, listen"):
        run_recipe(recipe, stage="speak")
    assert run_recipe(recipe, stage="language") == tmp_path / "run" / "language"


def test_stages_that_stood_on_a_stage_are_trained_again_with_it(corpus, tmp_path):
    chosen = {name: one for name, one in four_stages(corpus).items() if name in ("align", "instruct")}
    recipe = recipe_of(tmp_path, corpus, chosen)
    run_recipe(recipe)
    before = weights(tmp_path / "run" / "instruct")
    (tmp_path / "run" / "align" / "checkpoint.json").unlink()
    (tmp_path / "run" / "align").rename(tmp_path / "away")
    trained = []
    original = stages.train_stage
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            stages, "train_stage", lambda r, name, *a, **k: trained.append(name) or original(r, name, *a, **k)
        )
        run_recipe(recipe)
    assert trained == ["align", "instruct"]
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "run" / "instruct").items())


def test_the_log_tells_rates_learning_rates_and_the_loss_of_each_task_and_objective(corpus, tmp_path, lines):
    chosen = {name: one for name, one in four_stages(corpus).items() if name in ("listen", "align")}
    run_recipe(recipe_of(tmp_path, corpus, chosen))
    steps = [line for line in lines if "loss" in line]
    listen, align = steps[:4], steps[4:]
    for line in listen:
        assert line["ctc"] + 0.2 * line["contrastive"] == pytest.approx(line["loss"], abs=1e-3)
        assert {"lr_encoder", "lr_heads", "rows_per_second", "audio_seconds_per_second"} <= line.keys()
    for line in align:
        assert line["tokens_per_second"] > 0 and 0 <= line["padding_share"] < 1
        assert line["lr_connector"] == line["learning_rate"] > 0
    validated = [line for line in lines if "eval_loss" in line]
    assert {name for name in validated[-1] if name.startswith("eval_")} == {
        "eval_loss", "eval_describe_loss", "eval_count_loss", "eval_existence_loss",
    }  # fmt: skip


def test_the_validation_loss_is_that_of_all_rows_together(corpus, tmp_path, lines):
    """Nats a token over all tasks, however the rows fall into batches."""
    align = four_stages(corpus)["align"]
    for size in (1, 3, 8):
        align["trainer"] |= {"per_device_eval_batch_size": size, "max_steps": 1, "eval_steps": 1, "learning_rate": 0.0}
        run_recipe(recipe_of(tmp_path / str(size), corpus, {"align": align}))
    found = [line for line in lines if "eval_loss" in line]
    for name in ("eval_loss", "eval_describe_loss", "eval_count_loss"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-5)
        assert found[2][name] == pytest.approx(found[0][name], rel=1e-5)


@pytest.mark.parametrize("grouped", [True, False])
def test_clips_of_like_length_share_a_batch_unless_they_are_to_be_mixed(grouped, corpus, tmp_path, watch):
    batches = []

    class Read(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader, **_):
            sampler = train_dataloader.batch_sampler
            seconds = train_dataloader.dataset.seconds
            batches.extend([seconds(number) for _, number in batch] for batch in sampler)

    watch(Read())
    only = stage(corpus, ["connector"], {"language_modeling": 1}, trainer={"max_steps": 1})
    only["data"]["group_by_length"] = grouped
    run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    assert len(batches) == 4 and len({length for batch in batches for length in batch}) == 16
    ordered = sorted(batches)
    assert grouped == all(max(short) <= min(long) for short, long in pairwise(ordered))


def test_each_part_trains_at_its_learning_rate_and_heads_at_the_highest(corpus, tmp_path, watch):
    groups = []

    class Read(TrainerCallback):
        def on_train_begin(self, args, state, control, model, optimizer, **_):
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            groups.extend((g["part"], g["lr"], {names[id(p)] for p in g["params"]}) for g in optimizer.param_groups)

    watch(Read())
    rates = {"encoder": 1.0e-3, "connector": 5.0e-4, "lora": 2.0e-3}
    objectives = {"language_modeling": 1, "ctc": 0.5}
    only = stage(corpus, rates, objectives, lora={"r": 2}, trainer={"max_steps": 1, "weight_decay": 0.1})
    run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    assert {(part, rate) for part, rate, _ in groups} == {*rates.items(), ("heads", 2.0e-3)}
    for part, _, names in groups:
        for name in names:
            inner = name.removeprefix("model.")
            assert part == ("heads" if name.startswith("objectives.") else part_of(inner))


# ---------------------------------------------------------------------------------------------------------- one loss


def one_step(corpus, folder, lines, objectives, train, size, accumulation, rows="eight", **trainer):
    """Loss and gradient norm of one plain SGD step over all rows, and the folder of the moved weights."""
    trainer = {
        "max_steps": 1, "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation,
        "optim": "sgd", "max_grad_norm": 1.0e9, "learning_rate": 0.1, "lr_scheduler_type": "constant", **trainer,
    }  # fmt: skip
    only = stage(corpus, train, objectives, rows=rows, trainer=trainer)
    run_recipe(recipe_of(folder, corpus, {"only": only}))
    line = [line for line in lines if "loss" in line][-1]
    return line["loss"], line["grad_norm"], folder / "run" / "only"


@pytest.mark.parametrize(
    ("objective", "train"), [("language_modeling", ["encoder", "connector", "llm"]), ("ctc", ["encoder"])]
)
def test_micro_batches_give_the_loss_and_gradients_of_one_batch_unlike_in_qwen2_audio(
    corpus, tmp_path, lines, objective, train
):
    """8 x 1 = 4 x 2 = 1 x 8: the property that transformers' own Qwen2Audio and GraniteSpeech lack.

    They take the mean over each micro-batch, and the Trainer adds these up: with eight micro-batches of a tiny
    Qwen2Audio (transformers 5.23) the loss is 36.6 instead of 4.6. Gradient clipping hides it.
    """
    whole = one_step(corpus, tmp_path / "8x1", lines, {objective: 1}, train, 8, 1)
    for size, accumulation in ((4, 2), (1, 8)):
        parts = one_step(corpus, tmp_path / f"{size}x{accumulation}", lines, {objective: 1}, train, size, accumulation)
        assert parts[0] == pytest.approx(whole[0], rel=1e-5)
        assert parts[1] == pytest.approx(whole[1], rel=1e-4)
        assert_same_weights(parts[2], whole[2], rtol=1e-4, atol=1e-5)


def test_an_epoch_that_ends_within_a_step_weighs_its_items_alike(corpus, tmp_path, lines):
    loss, norm, _ = one_step(corpus, tmp_path / "whole", lines, {"language_modeling": 1}, ["connector"], 8, 1)
    parts = one_step(corpus, tmp_path / "parts", lines, {"language_modeling": 1}, ["connector"], 2, 16)
    assert parts[:2] == pytest.approx((loss, norm), rel=1e-4)


def test_a_stage_that_could_use_no_recording_is_no_success(corpus, tmp_path):
    rows = rows_of(0, tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "0.wav").write_bytes(b"not a sound")
    recipe = recipe_of(
        tmp_path, corpus, {"only": stage(tmp_path, ["connector"], {"language_modeling": 1}, rows="rows")}
    )
    for _ in range(2):  # a second try begins anew, too
        with pytest.raises(ValueError, match=r"stage only: 4 of 4 times .*rows\.jsonl:1: .*0\.wav"):
            run_recipe(recipe)
    assert not (tmp_path / "run" / "only").exists()


def test_a_broken_clip_is_named_and_counted_and_changes_no_other_loss(corpus, tmp_path, lines, capsys):
    whole = [json.loads(line) for line in (corpus / "eight.jsonl").read_text().splitlines()]
    broken = next(one for one in whole if one["source_id"] == "3")["messages"][0]["content"][0]["audio"]
    for name, rows in (("broken", whole), ("without", [one for one in whole if one["source_id"] != "3"])):
        folder = tmp_path / name
        folder.mkdir()
        for one in rows:
            clip = one["messages"][0]["content"][0]["audio"]
            (folder / clip).write_bytes((corpus / clip).read_bytes())
        write_jsonl(folder / "rows.jsonl", rows)
    (tmp_path / "broken" / broken).write_bytes(b"not a sound")
    (tmp_path / "rows").mkdir()
    for objectives, train in (({"language_modeling": 1}, ["connector"]), ({"ctc": 1}, ["encoder"])):
        found = []
        for name, size in (("broken", 8), ("without", 7)):
            shown = capsys.readouterr().out
            rows = f"../{(tmp_path / name / 'rows').relative_to(corpus.parent)}"
            run = tmp_path / f"run-{name}-{train[0]}"
            found.append(one_step(corpus, run, lines, objectives, train, size, 1, rows=rows))
            shown, problems = capsys.readouterr().out, json.loads((run / "run" / "run.json").read_text())
            problems = problems["stages"]["only"]["problems"]
            assert len(problems) == (name == "broken")
            if name == "broken":
                assert re.search(rf"left out: .*rows\.jsonl:\d+.*{broken}", shown)
                assert re.search(r"rows that gave no loss: 1 found by hearing; .*quarantine\.jsonl lists them", shown)
        assert found[0][:2] == pytest.approx(found[1][:2], rel=1e-5)


# -------------------------------------------------------------------------------------------- interrupted and continued


def long_stage(corpus, **trainer):
    """Eleven steps, four an epoch, saved every two; dropout everywhere, other questions in each epoch."""
    return stage(
        corpus, ["connector", "lora"], {"language_modeling": 1}, lora={"r": 2, "alpha": 8, "dropout": 0.2},
        data={"questions_per_clip": 1, "validation": [{"path": str(corpus / "validation.jsonl"), "limit": 4}]},
        trainer={"max_steps": 11, "eval_steps": 2, **trainer},
    )  # fmt: skip


def long_recipe(folder, corpus, **trainer):
    connector = QFORMER | {"dropout": 0.2}
    return recipe_of(
        folder, corpus, {"only": long_stage(corpus, **trainer)}, connector=connector, attention_dropout=0.2
    )


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return run_recipe(long_recipe(folder, corpus))


@pytest.mark.parametrize(
    ("step", "event"),
    [(1, "on_step_end"), (5, "on_step_end"), (7, "on_step_end"), (10, "on_save"), (11, "on_save")],
    ids=["before the first save", "after an epoch's end", "within an epoch", "at a save", "after the last step"],
)
def test_a_run_that_was_stopped_ends_with_the_same_bits(corpus, uninterrupted, watch, tmp_path, step, event):
    with pytest.raises(Killed):
        watch(Kill(step, event))
        run_recipe(long_recipe(tmp_path, corpus))
    watch(TrainerCallback())
    assert_same_weights(run_recipe(long_recipe(tmp_path, corpus)), uninterrupted)
    before, after = (
        json.loads((f.parent / "run.json").read_text()) for f in (uninterrupted, tmp_path / "run" / "only")
    )
    assert before["stages"]["only"]["validation"] == after["stages"]["only"]["validation"]


class Signal(TrainerCallback):
    """What a scheduler, or a person, sends in the middle of a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_the_run_goes_on_exactly(
    corpus, uninterrupted, watch, tmp_path, number, capsys
):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match="after step 5 of stage only, which is saved") as stopped:
        watch(Signal(5, number))
        run_recipe(long_recipe(tmp_path, corpus))
    assert stopped.value.number == number
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert (tmp_path / "run" / "unfinished" / "only" / "checkpoint-5").is_dir()
    watch(TrainerCallback())
    assert_same_weights(run_recipe(long_recipe(tmp_path, corpus)), uninterrupted)
    assert "stage only was interrupted and goes on after step 5" in capsys.readouterr().out


def test_two_commands_do_not_train_in_one_folder(corpus, tmp_path):
    recipe = long_recipe(tmp_path, corpus)
    with (
        stages.RunFolder.open(recipe.output).alone(),
        pytest.raises(ValueError, match="another command is training in"),
    ):
        run_recipe(recipe)


def test_a_run_of_another_recipe_is_not_mixed_with_this_one(finished, corpus):
    _, run = finished
    other = recipe_of(run.parent, corpus, {"other": stage(corpus, ["connector"], {"language_modeling": 1})})
    with pytest.raises(ValueError, match="holds the stage language of another recipe; use another `output=`"):
        run_recipe(other)


@pytest.mark.parametrize("where", ["stages.only.data.train", "evaluate"])
def test_a_misspelt_task_is_told_before_anything_trains(corpus, tmp_path, no_model, where):
    recipe = long_recipe(tmp_path, corpus)
    entry = f"{{path: {corpus / 'train.jsonl'}, tasks: [describe, cuont]}}"
    recipe = load_recipe(tmp_path / "recipe.yaml", [f"{where}=[{entry}]"])
    with pytest.raises(ValueError, match=r"train.jsonl has no rows of task 'cuont'; did you mean 'count'\?"):
        run_recipe(recipe)


def test_the_time_of_a_stage_counts_what_went_before_its_interruption(corpus, watch, tmp_path):
    with pytest.raises(Killed):
        watch(Kill(7))
        run_recipe(long_recipe(tmp_path, corpus))
    state = sorted((tmp_path / "run" / "unfinished" / "only").glob("checkpoint-*"))[-1] / "trainer_state.json"
    content = json.loads(state.read_text())
    content["log_history"][-1]["seconds"] += 1000
    state.write_text(json.dumps(content))
    watch(TrainerCallback())
    run_recipe(long_recipe(tmp_path, corpus))
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["only"]
    assert 1000 < record["seconds"] < 1100


def test_data_workers_change_nothing_also_after_a_stop(corpus, uninterrupted, watch, tmp_path):
    workers = {"dataloader_num_workers": 2}
    with pytest.raises(Killed):
        watch(Kill(8))
        run_recipe(long_recipe(tmp_path, corpus, **workers))
    watch(TrainerCallback())
    assert_same_weights(run_recipe(long_recipe(tmp_path, corpus, **workers)), uninterrupted)


def test_heads_and_accumulated_steps_go_on_exactly(corpus, watch, tmp_path):
    trainer = {"max_steps": 5, "save_steps": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 3}
    listen = stage(corpus, ["encoder"], {"ctc": 1, "contrastive": 1}, trainer=trainer)
    whole = run_recipe(recipe_of(tmp_path / "whole", corpus, {"only": listen}))
    with pytest.raises(Killed):
        watch(Kill(3))
        run_recipe(recipe_of(tmp_path / "stopped", corpus, {"only": listen}))
    watch(TrainerCallback())
    assert_same_weights(run_recipe(recipe_of(tmp_path / "stopped", corpus, {"only": listen})), whole)


def test_tied_embeddings_go_on_exactly(corpus, watch, tmp_path):
    language = stage(corpus, ["llm"], {"language_modeling": 1}, trainer={"max_steps": 4, "save_steps": 2})
    recipes = [
        recipe_of(tmp_path / name, corpus, {"only": language}, tie_word_embeddings=True)
        for name in ("whole", "stopped")
    ]
    whole = run_recipe(recipes[0])
    with pytest.raises(Killed):
        watch(Kill(3))
        run_recipe(recipes[1])
    watch(TrainerCallback())
    assert_same_weights(run_recipe(recipes[1]), whole)
    assert "lm_head.weight" not in weights(whole)


def test_a_run_that_was_stopped_between_stages_ends_with_the_same_bits(finished, corpus, watch, tmp_path):
    _, whole = finished
    recipe = recipe_of(tmp_path, corpus, four_stages(corpus))
    run_recipe(recipe, stage="language")
    run_recipe(recipe, stage="listen")
    run_recipe(recipe)
    for name in recipe.stages:
        assert_same_weights(tmp_path / "run" / name, whole / name)


def test_a_checkpoint_that_was_being_written_is_never_picked_up(corpus, uninterrupted, tmp_path, monkeypatch):
    save, work = StageTrainer._save_rng_state, tmp_path / "run" / "unfinished" / "only"

    def fail(trainer, folder):
        if trainer.state.global_step == 6:
            raise Killed
        save(trainer, folder)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StageTrainer, "_save_rng_state", fail)
        run_recipe(long_recipe(tmp_path, corpus))
    assert sorted(path.name for path in work.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6.partial",
    ]
    assert_same_weights(run_recipe(long_recipe(tmp_path, corpus)), uninterrupted)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "trainer_state.json", "scheduler.pt"])
def test_a_damaged_resume_point_is_passed_over_for_the_one_before(corpus, uninterrupted, watch, tmp_path, file, capsys):
    with pytest.raises(Killed):
        watch(Kill(7))
        run_recipe(long_recipe(tmp_path, corpus))
    newest = tmp_path / "run" / "unfinished" / "only" / "checkpoint-6" / file
    newest.write_bytes(newest.read_bytes()[:-20])
    watch(TrainerCallback())
    assert_same_weights(run_recipe(long_recipe(tmp_path, corpus)), uninterrupted)
    told = capsys.readouterr().out
    assert re.search(rf"checkpoint-6 is damaged \({file}: .*\) and is passed over", told)
    assert "goes on after step 4" in told


@pytest.mark.parametrize("place", ["audiollm.models.checkpoint.save_file", "torch.save"])
def test_a_full_disk_is_told_in_a_sentence_and_the_run_goes_on_exactly(corpus, uninterrupted, tmp_path, place):
    *module, name = place.split(".")
    owner = importlib.import_module(".".join(module))
    original, calls = getattr(owner, name), []

    def fail(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(
            OSError, match=r"checkpoint-\d+ could not be written \(I/O error: No space left .* make room"
        ):
            run_recipe(long_recipe(tmp_path, corpus))
    assert_same_weights(run_recipe(long_recipe(tmp_path, corpus)), uninterrupted)


def test_an_interrupted_stage_does_not_go_on_with_other_settings(corpus, watch, tmp_path):
    with pytest.raises(Killed):
        watch(Kill(4))
        run_recipe(long_recipe(tmp_path, corpus))
    changed = long_recipe(tmp_path, corpus, learning_rate=0.5)
    with pytest.raises(
        ValueError, match=r"stage only was begun with .*learning_rate=0\.002, and now it is 0\.5.*delete"
    ):
        run_recipe(changed)


def test_a_stage_leaves_the_best_checkpoint_and_removes_the_others(corpus, tmp_path, watch):
    kept, seen = {}, set()

    class Keep(TrainerCallback):
        def on_save(self, args, state, control, **_):
            folders = sorted((tmp_path / "run" / "unfinished" / "only").glob("checkpoint-*"))
            seen.add(len(folders))
            last = max(folders, key=lambda folder: int(folder.name.rpartition("-")[2]))
            kept[state.global_step] = load_file(last / "model.safetensors")

    watch(Keep())
    validation = {"validation": [{"path": str(corpus / "validation.jsonl")}]}
    wild = {
        "max_steps": 8,
        "eval_steps": 1,
        "save_total_limit": 2,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
    }
    only = stage(corpus, ["llm"], {"language_modeling": 1}, data=validation, trainer=wild)
    folder = run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    curve = dict(json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["only"]["validation"])
    best = min(curve, key=curve.get)
    assert sorted(kept) == list(range(1, 9)) and max(seen) == 2
    assert best != 8  # at this learning rate it gets worse again, or the test shows nothing
    found = weights(folder)
    assert all(torch.equal(found[name], tensor) for name, tensor in kept[best].items())
    assert any(not torch.equal(found[name], tensor) for name, tensor in kept[8].items())


@pytest.mark.parametrize("trainer", [{"eval_strategy": "epoch", "num_train_epochs": 2}, {"eval_strategy": "no"}])
def test_validation_can_follow_epochs_or_be_left_out(corpus, tmp_path, trainer):
    validation = {"validation": [{"path": str(corpus / "validation.jsonl")}]}
    only = stage(corpus, ["connector"], {"language_modeling": 1}, data=validation, trainer={"max_steps": -1} | trainer)
    if trainer["eval_strategy"] == "no":
        only["trainer"]["max_steps"] = 2
    run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["only"]
    assert [step for step, _ in record["validation"]] == ([4, 8] if trainer["eval_strategy"] == "epoch" else [])


def test_every_epoch_has_an_order_of_its_own(corpus, tmp_path, monkeypatch):
    heard = []
    add = stages.StageTrainer.get_batch_samples

    def record(trainer, *args):
        batches, items = add(trainer, *args)
        heard.append([row_id.split("-")[1] for batch in batches for row_id in batch["row_ids"]])
        return batches, items

    monkeypatch.setattr(stages.StageTrainer, "get_batch_samples", record)
    only = stage(
        corpus, ["connector"], {"language_modeling": 1}, data={"questions_per_clip": 1}, trainer={"max_steps": 8}
    )
    run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    epochs = [[clip for step in steps for clip in step] for steps in (heard[:4], heard[4:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) and epochs[0] != epochs[1]


def test_recomputed_activations_give_the_same_loss(corpus, tmp_path, lines):
    arguments = ({"language_modeling": 1}, ["connector"], 4, 2)
    plain = one_step(corpus, tmp_path / "plain", lines, *arguments)
    again = one_step(corpus, tmp_path / "again", lines, *arguments, activation_checkpointing=True)
    assert again[:2] == pytest.approx(plain[:2], rel=1e-5)


# ---------------------------------------------------------------------------------------- what is told before it starts


@pytest.fixture
def no_model(monkeypatch):
    """Fails if a model is built or loaded."""
    for name in ("build", "load_built", "build_parts"):
        monkeypatch.setattr(stages, name, lambda *_, **__: pytest.fail("the model was loaded first"))


def test_a_dry_run_without_the_rows_shows_what_trains_and_then_what_is_missing(corpus, tmp_path, capsys):
    recipe = recipe_of(tmp_path, corpus, four_stages(corpus), "stages.align.data.train=[nowhere.jsonl]")
    with pytest.raises(RecipeError, match=r"stages\.align\.data\.train.*nowhere\.jsonl"):
        dry_run(recipe)
    told = capsys.readouterr().out
    assert told.count("memory of a device: ") == 4 and "rows over" not in told


def test_a_dry_run_before_the_rows_are_made_gives_the_command_that_makes_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dry_run(load_recipe("quickstart", ["data=my [sets]"]))
    command = "audiollm prepare demo --out 'my [sets]/demo'"
    assert f"demo: not made yet; `{command}" in capsys.readouterr().out


def test_a_dry_run_tells_the_plan_first_and_then_the_settings_that_somebody_said(corpus, tmp_path, capsys):
    recipe = recipe_of(tmp_path, corpus, four_stages(corpus), "seed=3")
    dry_run(recipe)
    plan, _, settings = capsys.readouterr().out.partition("settings of recipe tones")
    assert plan.count("memory of a device: ") == plan.count("recordings; ") == 4 and "rows over" not in settings
    told = re.findall(r"^│ (\S+) +│ .* │ (recipe|command line\S*|default)", settings, re.MULTILINE)
    said = {key for key, origin in recipe.provenance.items() if origin != "default"}
    assert {key for key, _ in told} == said and ("seed", "command line") in told
    assert f"{len(recipe.values) - len(said)} more are at their defaults, which `audiollm schema` tells" in settings


def test_a_dry_run_counts_recordings_by_the_budget_of_tokens_and_what_a_teacher_reads(corpus, tmp_path, capsys):
    told = {}
    for objective in ("language_modeling", "distillation"):
        only = stage(corpus, ["connector"], {objective: 1}, data={"batch_tokens": 400})
        dry_run(recipe_of(tmp_path / objective, corpus, {"only": only}))
        told[objective] = re.search(r"micro-batch of (\d+) = .* recording: (\d+) tokens", capsys.readouterr().out)
    counts, tokens = zip(*(map(int, found.groups()) for found in told.values()), strict=True)
    assert tokens[0] == tokens[1] and counts[0] == 400 // tokens[0] > counts[1] >= 1


def test_a_dry_run_tells_small_memory_in_mib_and_a_recording_without_text_in_seconds(corpus, tmp_path, capsys):
    dry_run(recipe_of(tmp_path, corpus, four_stages(corpus)))
    told = capsys.readouterr().out
    assert told.count("(memory in MiB)") == 4 and "GiB held" not in told
    lengths = re.findall(r"longest recording: [\d.,]+ (s|tokens)\)", told)
    assert lengths == ["tokens", "s", "tokens", "tokens"]  # the second learns by CTC
    assert "per_device_train_batch_size is 8,191 or more" in told


@pytest.mark.parametrize(("key", "name"), [("llm", "owner/words"), ("encoder", "owner/ears"), ("llm", "not/a/folder")])
def test_a_public_part_that_cannot_be_had_is_named_with_its_setting(corpus, tmp_path, monkeypatch, key, name):
    monkeypatch.setattr(locate, "HF_HUB_OFFLINE", True)
    recipe = recipe_of(tmp_path, corpus, four_stages(corpus))
    block = {"checkpoint": name} | ({"name": "whisper"} if key == "encoder" else {})
    written = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    written["model"][key] = block
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(written))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    for start in (dry_run, run_recipe):
        with pytest.raises(
            RecipeError, match=rf"recipe\.yaml:\d+: model\.{key}\.checkpoint is {name}, .*HF_HUB_OFFLINE"
        ):
            start(recipe)


MISFITS = [
    ("model.encoder.taps=[1, 9]", r"model\.encoder\.taps names layer 9, .* layers are 1 to 2, or -2 to -1"),
    ("model.encoder.window_s=40", r"model\.encoder\.window_s is 40\.0, more than the 1 s that it can hear"),
    ("model.encoder.overlap_s=1", r"model\.encoder\.overlap_s is 1\.0, and must be less than the window, 1 s"),
    ("model.encoder.frequency=join", r"model\.encoder\.frequency is for encoders whose frames are patches"),
    ("model.connector.mix_layers=true", r"model\.connector\.mix_layers adds several layers, and one is heard"),
    (
        f"model.connector={json.dumps(CONNECTOR_BLOCKS['layer_qformer'])}",
        r"model\.connector\.name is layer_qformer, .*",
    ),
]


@pytest.mark.parametrize(("change", "sentence"), MISFITS, ids=[change.partition("=")[0] for change, _ in MISFITS])
def test_what_does_not_fit_the_encoder_is_told_with_file_and_line(corpus, tmp_path, change, sentence):
    recipe_of(tmp_path, corpus, four_stages(corpus))
    written = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    key, _, value = change.partition("=")
    block, name = key.split(".")[1:] if key.count(".") == 2 else (None, "connector")
    place = written["model"][block] if block else written["model"]
    place[name] = yaml.safe_load(value)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(written))
    lines = (tmp_path / "recipe.yaml").read_text().splitlines()
    first = lines.index(f"  {block or name}:")
    own = "name: layer_qformer" if block is None else name
    line = next(n for n, text in enumerate(lines, 1) if n > first and text.strip().startswith(own))
    for start in (dry_run, run_recipe):
        with pytest.raises(RecipeError, match=rf"recipe\.yaml:{line}: {sentence}"):
            start(load_recipe(tmp_path / "recipe.yaml"))
    with pytest.raises(RecipeError, match=rf"^command line: {sentence}"):
        dry_run(load_recipe(tmp_path / "recipe.yaml", [change]))


def test_of_several_encoders_the_one_that_a_setting_does_not_fit_is_named(corpus, tmp_path):
    one = {"name": "whisper", "config": {k: v for k, v in ENCODER.items() if not k.endswith("token_id")}}
    several = [one, one | {"taps": [3]}]
    recipe = recipe_of(tmp_path, corpus, four_stages(corpus), f"model.encoder={json.dumps(several)}")
    for start in (dry_run, run_recipe):
        with pytest.raises(RecipeError, match=r"command line: model\.encoder\.1\.taps names layer 3"):
            start(recipe)


def test_a_missing_file_is_told_before_the_model_loads(corpus, tmp_path, no_model):
    four = four_stages(corpus)
    four["align"]["data"]["train"][0]["path"] = str(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match=r"stages\.align\.data\.train\.0\.path.*nowhere\.jsonl"):
        run_recipe(recipe_of(tmp_path, corpus, four))


def test_an_empty_mixture_is_told_before_the_model_loads(corpus, tmp_path, no_model):
    four = four_stages(corpus)
    four["instruct"]["data"]["train"][0]["tasks"] = ["transcribe"]
    with pytest.raises(ValueError, match=r"train\.jsonl has no rows of task 'transcribe'"):
        run_recipe(recipe_of(tmp_path, corpus, four))


@pytest.mark.parametrize("train", [[], {}])
def test_a_stage_that_trains_nothing_is_told_before_the_model_loads(corpus, tmp_path, no_model, train):
    with pytest.raises(RecipeError, match=r"stages\.only.*trains nothing"):
        recipe_of(tmp_path, corpus, {"only": stage(corpus, train, {"language_modeling": 1})})


def test_an_objective_without_anything_to_learn_is_told_before_the_model_loads(corpus, tmp_path, no_model):
    silent = [json.loads(line) for line in (corpus / "eight.jsonl").read_text().splitlines()]
    for one in silent:
        one["messages"][0]["content"][0].pop("transcript")
        one["messages"][0]["content"][0]["audio"] = str(corpus / one["messages"][0]["content"][0]["audio"])
    write_jsonl(tmp_path / "silent.jsonl", silent)
    recipe = recipe_of(tmp_path, corpus, {"only": stage(tmp_path, ["encoder"], {"ctc": 1}, rows="silent")})
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+: stages\.only\.objectives\.ctc finds nothing to learn"):
        run_recipe(recipe)


def test_a_misspelt_setting_of_an_objective_is_told_before_the_model_loads(corpus, tmp_path, no_model):
    objectives = {"contrastive": {"weight": 1, "temprature": 0.1}}
    with pytest.raises(RecipeError, match=r"objectives\.contrastive\.temprature.*did you mean 'temperature'"):
        run_recipe(recipe_of(tmp_path, corpus, {"only": stage(corpus, ["encoder"], objectives)}))


def test_adapters_of_another_rank_are_refused(corpus, tmp_path):
    first, second = (stage(corpus, ["lora"], {"language_modeling": 1}, trainer={"max_steps": 1}) for _ in range(2))
    first["lora"], second["lora"] = {"r": 2, "alpha": 4}, {"r": 4, "alpha": 4}
    with pytest.raises(ValueError, match=r"has LoRA already, and not as asked: r=4 \(the model's: 2\)"):
        run_recipe(recipe_of(tmp_path, corpus, {"first": first, "second": second}))


def test_training_starts_from_a_given_checkpoint(finished, corpus, tmp_path):
    _, run = finished
    more = stage(corpus, ["connector"], {"language_modeling": 1}, trainer={"max_steps": 1})
    recipe = {"name": "more", "output": str(tmp_path / "run"), "model": {"checkpoint": str(run / "instruct")},
              "stages": {"more": more}}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    folder = run_recipe(load_recipe(tmp_path / "recipe.yaml"))
    before, after = weights(run / "instruct"), weights(folder)
    assert before.keys() == after.keys()
    assert {part_of(name) for name in before if not torch.equal(before[name], after[name])} == {"connector"}


# ------------------------------------------------------------------------------------------------ what was heard before


def cached(corpus, folder, *overrides, parts=("connector",), **data):
    """Two stages with a frozen encoder, of two epochs each."""
    sources = {
        "train": [{"path": str(corpus / "train.jsonl")}],
        "validation": [{"path": str(corpus / "validation.jsonl")}],
    }
    one = {"data": sources | data, "trainer": {"max_steps": 8, "eval_steps": 8}}
    align = stage(corpus, list(parts), {"language_modeling": 1}, **one)
    on = {"weight": 0.1, "on": "connector"}
    listen = stage(corpus, ["connector"], {"language_modeling": 1, "contrastive": on}, **one)
    return recipe_of(folder, corpus, {"align": align, "again": listen}, *overrides)


def losses(folder):
    record = json.loads((folder / "run" / "run.json").read_text())["stages"]
    return [value for one in record.values() for _, value in one["loss"] + one["validation"]]


def count_encoded(monkeypatch):
    """The clips that the encoder hears, and for how many it is run."""
    counted = []
    forward = WhisperAudioEncoder.forward

    def listen(encoder, values, mask):
        counted.append(len(values))
        return forward(encoder, values, mask)

    monkeypatch.setattr(WhisperAudioEncoder, "forward", listen)
    return counted


@pytest.mark.parametrize("gib", [1.0, 6e-6], ids=["everything is kept", "half of it is kept"])
def test_kept_features_give_the_same_losses_and_every_clip_is_encoded_once(corpus, tmp_path, monkeypatch, gib):
    monkeypatch.setattr(features, "SHARD_BYTES", 1)
    monkeypatch.setattr(training_features, "BATCH_SECONDS", 2.0)
    run_recipe(cached(corpus, tmp_path / "plain"))
    encoded = count_encoded(monkeypatch)
    recipe = cached(corpus, tmp_path / "kept", f"feature_cache_gib={gib}", cache_features=True)
    run_recipe(recipe)
    heard = (
        sum(encoded) - 2 * 1
    )  # a connector's scale is matched on one clip of noise, when the model is built and trained
    assert heard == 20 if gib == 1.0 else heard > 20
    for kept, plain in zip(losses(tmp_path / "kept"), losses(tmp_path / "plain"), strict=True):
        assert kept == pytest.approx(plain, rel=0.01)
    encoded.clear()
    again = cached(
        corpus,
        tmp_path / "second",
        f"feature_cache_gib={gib}",
        f"cache={tmp_path / 'kept' / 'run' / 'cache'}",
        cache_features=True,
    )
    run_recipe(again)
    if gib == 1.0:  # another run of the same encoder
        assert sum(encoded) == 2 and losses(tmp_path / "second") == losses(tmp_path / "kept")


@pytest.mark.parametrize("kind", ["jsonl", "tar"])
def test_features_of_a_stream_are_those_of_rows_in_memory_and_encoded_once(corpus, tmp_path, monkeypatch, kind):
    """Some recordings at a time; a second run, with other limits, encodes nothing."""
    monkeypatch.setattr(training_features, "AT_ONCE", 5)
    source = {"path": str(corpus / "train.jsonl") if kind == "jsonl" else write_shard(corpus), "stream": True}
    run_recipe(cached(corpus, tmp_path / "plain", train=[source]))
    encoded, held = count_encoded(monkeypatch), []
    encode_missing = training_features.encode_missing

    def count(store, encoder, clips, device):
        clips = list(clips)
        held.append(len(clips))
        return encode_missing(store, encoder, clips, device)

    monkeypatch.setattr(training_features, "encode_missing", count)
    run_recipe(cached(corpus, tmp_path / "kept", train=[source], cache_features=True))
    assert sum(encoded) == 20 + 2 and max(held) <= 5  # and noise, on which a connector's scale is matched
    for kept, plain in zip(losses(tmp_path / "kept"), losses(tmp_path / "plain"), strict=True):
        assert kept == pytest.approx(plain, rel=0.01)
    encoded.clear()
    kept = f"cache={tmp_path / 'kept' / 'run' / 'cache'}"
    run_recipe(cached(corpus, tmp_path / "again", kept, train=[source], cache_features=True, batch_tokens=160))
    assert sum(encoded) == 2


def test_each_rank_encodes_a_share_of_a_stream_and_all_of_them_everything(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(training_features, "AT_ONCE", 3)
    stream, _ = open_stream(str(corpus / "train.jsonl"), tmp_path)
    built = tiny()
    recordings = Recordings([], built.processor, groups=Mixture([stream], [1.0], 0))
    encoded, shares = count_encoded(monkeypatch), []
    for rank in range(2):
        ranks = types.SimpleNamespace(process_index=rank, num_processes=2, device="cpu", print=print)
        ranks.wait_for_everyone = lambda: None
        training_features.fill(
            features.FeatureStore(tmp_path / "store"), built.model.model.audio_tower, [recordings], ranks
        )
        shares.append(sum(encoded))
    assert shares == [9, 16] and len(features.FeatureStore(tmp_path / "store").places) == 16


def test_features_of_a_damaged_file_are_encoded_again(corpus, tmp_path, monkeypatch):
    run_recipe(cached(corpus, tmp_path / "one", cache_features=True))
    (shard,) = (tmp_path / "one" / "run" / "cache" / "features").rglob("*.safetensors")
    for damaged in (shard.read_bytes()[:-5], bytes([*shard.read_bytes()[:-5], 1, 2, 3, 4, 5])):
        shard.write_bytes(damaged)
        features.opened.cache_clear()
        folder = tmp_path / f"after-{len(damaged)}"
        run_recipe(cached(corpus, folder, f"cache={tmp_path / 'one' / 'run' / 'cache'}", cache_features=True))
        assert losses(folder) == pytest.approx(losses(tmp_path / "one"), rel=0.01)


def test_features_of_an_encoder_that_trains_are_refused(corpus, tmp_path):
    with pytest.raises(RecipeError, match=r"stages\.align: has `cache_features`.* and trains the encoder"):
        cached(corpus, tmp_path, parts=["encoder", "connector"], cache_features=True)


def test_what_is_computed_once_lies_in_the_run_and_not_among_the_rows(corpus, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    rows = str(shutil.copy(corpus / "train.jsonl", corpus / "alone.jsonl"))
    before = set(corpus.rglob("*"))
    for options in ({"stream": True}, {}):  # a file stands where a recipe has its folder of rows
        source = {"train": [{"path": rows, **options}], "validation": []}
        recipe = cached(corpus, tmp_path / str(len(options)), f"data={rows}", cache_features=True, **source)
        run_recipe(recipe)
    assert set(corpus.rglob("*")) == before and not any((tmp_path / "work").iterdir())


def test_recordings_that_take_more_than_the_budget_are_counted(corpus, tmp_path, capsys):
    only = stage(corpus, ["connector"], {"language_modeling": 1}, data={"batch_tokens": 1})
    run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    assert "16 of 16 recordings take more than data.batch_tokens=1, the longest" in capsys.readouterr().out


def test_a_language_model_of_no_known_type_is_told_with_its_key(corpus, tmp_path):
    only = stage(corpus, ["connector"], {"language_modeling": 1})
    recipe = recipe_of(tmp_path, corpus, {"only": only}, model_type="qwen9")
    with pytest.raises(RecipeError, match=r"model\.llm\.config\.model_type 'qwen9' is not of .* did you mean 'qwen"):
        run_recipe(recipe)


def test_a_run_with_more_clips_keeps_what_was_encoded_before(corpus, tmp_path, monkeypatch):
    cache = f"cache={tmp_path / 'cache'}"
    few = {"train": [{"path": str(corpus / "eight.jsonl")}]}
    run_recipe(cached(corpus, tmp_path / "few", cache, cache_features=True, **few))
    encoded = count_encoded(monkeypatch)
    run_recipe(cached(corpus, tmp_path / "more", cache, cache_features=True))
    assert sum(encoded) == 8 + 2  # noise, on which a connector's scale is matched
    encoded.clear()
    run_recipe(cached(corpus, tmp_path / "again", cache, cache_features=True))
    assert sum(encoded) == 2


def test_clips_whose_rows_tell_no_duration_are_encoded_in_small_batches_too(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(training_features, "BATCH_SECONDS", 1.5)
    rows = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    for one in rows:
        del one["messages"][0]["content"][0]["duration"]
    sources = {"train": [{"path": write_jsonl(corpus / "no_duration.jsonl", rows)}], "validation": []}
    batches = []
    forward = training_features.encode

    def encode(store, encoder, clips, device):
        batches.append([clip.seconds() for _, clip in clips])
        forward(store, encoder, clips, device)

    monkeypatch.setattr(training_features, "encode", encode)
    run_recipe(cached(corpus, tmp_path, cache_features=True, **sources))
    assert sum(map(len, batches)) == 16 and len(batches) > 4
    assert all(max(batch) * len(batch) <= 1.5 for batch in batches)


def test_a_broken_clip_among_kept_ones_is_named_and_learned_from_nowhere(corpus, tmp_path):
    rows = (corpus / "train.jsonl").read_text()
    (corpus / "broken.wav").write_bytes(b"junk")
    (corpus / "some_broken.jsonl").write_text(rows + rows.splitlines()[0].replace("0.wav", "broken.wav") + "\n")
    for kept in (False, True):
        source = [{"path": str(corpus / "some_broken.jsonl")}]
        data = {"train": source, "cache_features": kept}
        only = stage(corpus, ["connector"], {"language_modeling": 1}, data=data, trainer={"max_steps": 6})
        run_recipe(recipe_of(tmp_path / str(kept), corpus, {"only": only}))
        record = json.loads((tmp_path / str(kept) / "run" / "run.json").read_text())["stages"]["only"]
        assert len(record["problems"]) == 1 and "broken.wav" in record["problems"][0]
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=0.01)


# -------------------------------------------------------------------------------------------------- batches by tokens


def budget_recipe(folder, corpus, *overrides, **trainer):
    """Eleven steps over several epochs, in batches of up to 160 tokens; other questions in each epoch."""
    only = long_stage(corpus, **trainer)
    only["data"] |= {"batch_tokens": 160, "questions_per_clip": 2}
    return recipe_of(folder, corpus, {"only": only}, *overrides, connector=QFORMER | {"dropout": 0.2})


@pytest.fixture
def batches(monkeypatch):
    """The micro-batches of each step, as the trainer takes them."""
    taken, get = [], StageTrainer.get_batch_samples

    def record(trainer, *args):
        found, items = get(trainer, *args)
        taken.append(found)
        return found, items

    monkeypatch.setattr(StageTrainer, "get_batch_samples", record)
    return taken


def test_micro_batches_are_filled_to_the_budget_of_tokens(corpus, tmp_path, batches, lines):
    run_recipe(budget_recipe(tmp_path, corpus, gradient_accumulation_steps=2))
    sizes = [int((batch["clip_ids"] >= 0).sum()) for step in batches for batch in step]
    assert max(sizes) <= 160 and sum(sizes) / len(sizes) > 100 and len(set(map(len, batches))) <= 2
    assert all(0 <= line["audio_padding_share"] < 0.5 for line in lines if "loss" in line)


def test_batches_by_tokens_go_on_exactly_in_a_later_epoch_and_with_other_workers(corpus, tmp_path, watch):
    whole = run_recipe(budget_recipe(tmp_path / "whole", corpus))
    with pytest.raises(Killed):
        watch(Kill(9))
        run_recipe(budget_recipe(tmp_path / "stopped", corpus))
    watch(TrainerCallback())
    assert_same_weights(run_recipe(budget_recipe(tmp_path / "stopped", corpus)), whole)
    workers = run_recipe(budget_recipe(tmp_path / "workers", corpus, dataloader_num_workers=2))
    assert_same_weights(workers, whole)


def test_how_many_tokens_a_recording_takes_is_known_without_decoding_it(corpus, monkeypatch):
    """Also where rows tell no duration, and where the questions of a clip have words in common."""
    processor = tiny().processor
    rows = load_rows(corpus / "train.jsonl")
    rows = [parse_row(json.loads(json.dumps(row_to_dict(one)).replace('"duration"', '"start": 0, "end"')))
            if number % 2 else one for number, one in enumerate(rows)]  # fmt: skip
    for supervise, with_text in (("last", True), ("all", True), ("last", False)):
        recordings = Recordings(rows, processor, supervise=supervise, with_text=with_text)
        with monkeypatch.context() as patch:
            patch.setattr(AudioPart, "load", lambda *_: pytest.fail("a clip was decoded"))
            recordings.measure()
        for number in range(len(recordings)):
            example = recordings[0, number]
            tokens = sum(map(len, example.sequences)) if with_text else sum(
                processor.num_audio_tokens(len(sound)) for sound in example.sounds
            )  # fmt: skip
            assert recordings.num_tokens((0, number)) == tokens
            assert recordings.seconds(number) == pytest.approx(sum(map(len, example.sounds)) / RATE)
    some = Recordings(rows, processor, questions_per_clip=2)
    some.measure()
    for key in [(epoch, number) for epoch in range(3) for number in range(len(some))]:
        assert 0 <= some.num_tokens(key) - sum(map(len, some[key].sequences)) <= 6  # two questions may share words


# --------------------------------------------------------------------------------------------- what could not be used


def quarantined(folder):
    """The lines of a run's quarantine."""
    return [json.loads(line) for line in (folder / "run" / "quarantine.jsonl").read_text().splitlines()]


@pytest.fixture
def damaged(corpus):
    """Twelve recordings' rows, of which some cannot be parsed, have no recording, or one that is broken."""
    lines = (corpus / "train.jsonl").read_text().splitlines()[:36]
    lines[1] = lines[1].replace('"assistant"', '"teacher"')
    lines[4] = "{broken"
    lines[6:9] = [line.replace("2.wav", "gone.wav") for line in lines[6:9]]
    for number in (3, 4):
        (corpus / f"broken{number}.wav").write_bytes(b"junk")
        for index in range(3 * number, 3 * number + 3):
            lines[index] = lines[index].replace(f"{number}.wav", f"broken{number}.wav")
    (corpus / "damaged.jsonl").write_text("\n".join(lines) + "\n")
    return "damaged"


REFUSED = [("reading", 2), ("reading", 5), ("reading", 7), ("reading", 8), ("reading", 9)]
BROKEN = [("hearing", 10), ("hearing", 13)]


def places(found):
    return sorted(((one["found"], int(one["origin"].rpartition(":")[2])) for one in found), key=lambda one: one[1])


def test_every_row_that_could_not_be_used_is_listed_once_also_after_a_stop(corpus, tmp_path, damaged, watch, lines):
    """Over several epochs, with other questions in each, and in a second stage on the same rows again."""
    blocks = {"data": {"questions_per_clip": 1}, "trainer": {"max_steps": 8, "save_steps": 3}}
    one = stage(corpus, ["connector"], {"language_modeling": 1}, rows=damaged, **copy.deepcopy(blocks))
    stages_of = {"one": one, "two": copy.deepcopy(one)}
    with pytest.raises(Killed):
        watch(Kill(7))
        run_recipe(recipe_of(tmp_path, corpus, stages_of))
    with (tmp_path / "run" / "quarantine.jsonl").open("a") as file:
        file.write('{"stage": "one", "fou')  # killed while it was written
    watch(TrainerCallback())
    run_recipe(recipe_of(tmp_path, corpus, stages_of))
    found = quarantined(tmp_path)
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    for name in stages_of:
        of_stage = [one for one in found if one["stage"] == name]
        assert places(of_stage) == sorted(REFUSED + BROKEN, key=lambda one: one[1])
        assert record[name]["rows_left_out"] == len(REFUSED) and len(record[name]["problems"]) == len(BROKEN)
    by_place = {one["origin"].rpartition(":")[2]: one for one in found}
    assert by_place["2"]["row"] == "count-0" and "unknown role 'teacher'" in by_place["2"]["cause"]
    assert by_place["5"]["row"] is None and "broken JSON" in by_place["5"]["cause"]
    assert by_place["7"]["row"] == "describe-2" and "gone.wav" in by_place["7"]["cause"]
    assert by_place["10"]["row"] == "describe-3" and "broken3.wav" in by_place["10"]["cause"]
    assert [line["bad_rows"] for line in lines if "loss" in line][-1] == len(REFUSED + BROKEN)


def test_a_stage_that_begins_anew_lists_what_it_finds_now(corpus, tmp_path, damaged):
    only = stage(corpus, ["connector"], {"language_modeling": 1}, rows=damaged, trainer={"max_steps": 1})
    run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    first = quarantined(tmp_path)
    shutil.rmtree(tmp_path / "run" / "only")
    run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    assert quarantined(tmp_path) == first and set(REFUSED) <= set(places(first))


def test_rows_that_are_mostly_bad_stop_the_run_before_the_model_loads(corpus, tmp_path, damaged, no_model):
    only = stage(corpus, ["connector"], {"language_modeling": 1}, rows=damaged, data={"max_bad_fraction": 0.1})
    told = (
        r"stage only: 5 of 36 rows could not be used, .*max_bad_fraction=0\.1 .*quarantine\.jsonl .*damaged\.jsonl:\d: "
    )
    with pytest.raises(ValueError, match=told):
        run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    assert places(quarantined(tmp_path)) == REFUSED


@pytest.mark.parametrize("epochs", [False, True], ids=["after some recordings", "after an epoch"])
def test_recordings_that_are_mostly_broken_stop_the_run(corpus, tmp_path, damaged, monkeypatch, epochs):
    monkeypatch.setattr(bad_rows, "FIRST_LOOK", 1000 if epochs else 8)
    only = stage(corpus, ["connector"], {"language_modeling": 1}, rows=damaged, trainer={"max_steps": 30})
    only["data"]["max_bad_fraction"] = 0.15  # 5 of 36 rows; of the 11 recordings that are left, 2 are broken
    with pytest.raises(ValueError, match=r"only: \d of \d+ times that a recording was to be heard it could not"):
        run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    assert set(BROKEN) & set(places(quarantined(tmp_path))) and not (tmp_path / "run" / "only").exists()


def test_what_several_processes_meet_is_told_to_all_and_written_by_one(tmp_path, monkeypatch):
    """Each meets rows of its own, and one that the other met as well."""
    ranks = []
    for rank in range(2):
        ranks.append(bad_rows.BadRows(Quarantine(tmp_path / "quarantine.jsonl", "only", writes=rank == 0), 0.5))
        ranks[-1].accelerator = types.SimpleNamespace(num_processes=2)
        met = [bad_row("hearing", RowError(f"rows.jsonl:{number}", "", "broken")) for number in (7, 10 + rank)]
        ranks[-1].add([{"problems": met, "num_recordings": 20}])
    told = [(list(one.waiting.values()), one.heard, one.broken) for one in ranks]
    monkeypatch.setattr(bad_rows, "gathered", lambda mine, accelerator: told)
    assert [one.settle() for one in ranks] == [3, 3]
    assert {(one.all_heard, one.all_broken) for one in ranks} == {(40, 4)}
    written = [json.loads(line)["origin"] for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(written) == ["rows.jsonl:10", "rows.jsonl:11", "rows.jsonl:7"]


# -------------------------------------------------------------------------------------------------------- too long


def long_rows(corpus):
    """The rows of three clips: the second has a question that is too long, the third (0.6 s longer) all of them."""
    rows = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()[:9]]
    rows[4]["messages"][0]["content"][1]["text"] = "how many? " * 30
    for one in rows[6:]:
        one["messages"][0]["content"][1]["text"] += " what do you hear?" * 12
    return [parse_row(one, origin=f"rows.jsonl:{line}", folder=corpus) for line, one in enumerate(rows, start=1)]


def told(found):
    return [int(one["origin"].rpartition(":")[2]) for one in found]


def test_rows_that_are_too_long_are_left_out_and_named(corpus):
    recordings = Recordings(long_rows(corpus), tiny().processor, limits=Limits(max_tokens=100))
    bad = recordings.measure()
    assert told(bad) == [5, 7, 8, 9] and [len(group) for group in recordings.groups] == [3, 2]
    assert "tokens, and a row may have 100" in bad[0]["cause"]
    assert all(sum(map(len, recordings[0, n].sequences)) <= 100 and not recordings[0, n].problems for n in range(2))


def test_too_many_questions_of_a_clip_are_split_and_every_one_is_asked_once(corpus):
    rows = long_rows(corpus)[:3]
    rows = [replace(rows[n % 3], id=f"{n}", origin=f"rows.jsonl:{n}") for n in range(20)]
    whole = Recordings(rows, tiny().processor)
    whole.measure()
    assert len(whole) == 1 and whole.num_tokens((0, 0)) > 150
    for limits in (Limits(150, None, "split"), Limits(150, None, "drop")):
        some = Recordings(rows, tiny().processor, limits=limits)
        bad = some.measure()
        examples = [some[0, number] for number in range(len(some))]
        assert all(sum(map(len, example.sequences)) <= 150 for example in examples)
        asked = [int(one) for example in examples for one in example.row_ids]
        assert sorted([*asked, *told(bad)]) == list(range(20)) and len(some) == (1 if bad else len(examples)) and asked
        assert bool(bad) == (limits.too_long == "drop")


def test_a_row_that_is_refused_is_named_before_training(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(StageTrainer, "train", lambda *_, **__: pytest.fail("it was trained"))
    data = {"too_long": "refuse", "max_tokens": 20}
    only = stage(corpus, ["connector"], {"language_modeling": 1}, data=data)
    with pytest.raises(ValueError, match=r"train\.jsonl:1: takes \d+ tokens, and a row may have 20; shorten it"):
        run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    with pytest.raises(ValueError, match=r"train\.jsonl:1: takes \d+ tokens, and a row may have 16; shorten it"):
        del only["data"]["max_tokens"]  # then it is the language model's own limit
        run_recipe(recipe_of(tmp_path / "own", corpus, {"only": only}, max_position_embeddings=16))


def test_a_clip_longer_than_its_row_says_gives_no_loss_and_is_named(corpus):
    """What the header or the row says was let in; what was decoded is not."""
    write(corpus / "longer.wav", tone(440, 5.0), RATE)
    rows = [json.loads(line.replace('"0.wav"', '"longer.wav"')) for line in (corpus / "train.jsonl").open()][:3]
    rows = [parse_row(one, origin=f"rows.jsonl:{line}", folder=corpus) for line, one in enumerate(rows, start=1)]
    recordings = Recordings(rows, tiny().processor, limits=Limits(positions=90, too_long="refuse"))
    assert recordings.measure() == [] and len(recordings) == 1
    example = recordings[0, 0]
    assert told(example.problems) == [1, 2, 3] and {one["found"] for one in example.problems} == {"measuring"}
    assert all((s.shift_labels == -100).all() and len(s) <= 90 for s in example.sequences)
    assert [len(sound) for sound in example.sounds] == [recordings.silence]
    assert recordings.num_tokens((0, 0)) > 50  # as the row told


def test_what_was_left_out_for_its_length_is_told_and_in_the_quarantine(corpus, tmp_path, capsys):
    rows = (corpus / "train.jsonl").read_text().splitlines()
    rows[4] = rows[4].replace("how many?", "how many? " * 100)
    (corpus / "longer.jsonl").write_text("\n".join(rows) + "\n")
    only = stage(
        corpus,
        ["connector"],
        {"language_modeling": 1},
        rows="longer",
        data={"train": [{"path": str(corpus / "longer.jsonl")}], "max_tokens": 100},
    )
    run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    assert places(quarantined(tmp_path)) == [("measuring", 5)]
    told_at_start = (
        r"1 of \d+ rows are too long and left out; .*longer\.jsonl:5 takes \d+ tokens, and a row may have 100"
    )
    assert re.search(told_at_start, capsys.readouterr().out)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["only"]["rows_left_out"] == 1


# ------------------------------------------------------------------------------------------- rows that stay on disk


def stream_recipe(folder, corpus, rows="train", **trainer):
    """A stream and rows in memory; epochs of twelve recordings, so that eleven steps end in the fourth."""
    only = long_stage(corpus, **trainer)
    only["data"]["train"] = [
        {"path": str(corpus / f"{rows}.jsonl"), "stream": True},
        {"path": str(corpus / "eight.jsonl"), "weight": 0.5},
    ]
    only["data"]["num_samples"] = 12
    return recipe_of(folder, corpus, {"only": only}, connector=QFORMER | {"dropout": 0.2})


@pytest.mark.parametrize("step", [1, 5, 9])
def test_a_stream_goes_on_exactly_and_decodes_only_what_is_left(corpus, tmp_path, watch, monkeypatch, step):
    whole = run_recipe(stream_recipe(tmp_path / "whole", corpus))
    with pytest.raises(Killed):
        watch(Kill(step))
        run_recipe(stream_recipe(tmp_path / "stopped", corpus))
    watch(TrainerCallback())
    read = []
    get = Mixture.__getitem__
    monkeypatch.setattr(Mixture, "__getitem__", lambda mixed, number: read.append(number) or get(mixed, number))
    assert_same_weights(run_recipe(stream_recipe(tmp_path / "stopped", corpus)), whole)
    left = 11 - step // 2 * 2
    assert 4 * left <= len(read) <= 4 * left + 4  # one batch more is fetched ahead


def test_workers_change_nothing_in_a_stream(corpus, tmp_path):
    whole, workers = (
        run_recipe(stream_recipe(tmp_path / str(count), corpus, dataloader_num_workers=count)) for count in (0, 2)
    )
    assert_same_weights(workers, whole)


def test_bad_rows_of_a_stream_are_listed_and_the_run_goes_on(corpus, tmp_path, damaged):
    for _ in range(2):  # the second time the index is there already
        run_recipe(stream_recipe(tmp_path, corpus, rows=damaged))
        assert set(REFUSED) <= set(places(quarantined(tmp_path))) <= set(REFUSED + BROKEN)
        shutil.rmtree(tmp_path / "run")


def budget_stream(folder, corpus, *overrides, **trainer):
    """Eleven steps of two micro-batches of up to 160 tokens, out of a stream and rows in memory."""
    stream_recipe(folder, corpus, gradient_accumulation_steps=2, **trainer)
    wanted = {"batch_tokens": 160, "max_tokens": 150, "too_long": "split"}
    options = [f"stages.only.data.{name}={value}" for name, value in wanted.items()]
    return load_recipe(folder / "recipe.yaml", [*options, *overrides])


@pytest.mark.parametrize("step", [1, 5, 9])
def test_a_stream_in_batches_by_tokens_goes_on_exactly_and_reads_only_what_is_left(
    corpus, tmp_path, batches, watch, monkeypatch, step
):
    whole = run_recipe(budget_stream(tmp_path / "whole", corpus))
    sizes = [int((batch["clip_ids"] >= 0).sum()) for found in batches for batch in found]
    assert max(sizes) <= 160 and sum(sizes) / len(sizes) > 100
    with pytest.raises(Killed):
        watch(Kill(step))
        run_recipe(budget_stream(tmp_path / "stopped", corpus))
    watch(TrainerCallback())
    read = []
    get = Stream.read
    monkeypatch.setattr(
        Stream, "read", lambda stream, number, readers: read.append(number) or get(stream, number, readers)
    )
    before = len(batches)
    assert_same_weights(run_recipe(budget_stream(tmp_path / "stopped", corpus)), whole)
    heard = sum(len(batch["row_ids"]) for found in batches[before:] for batch in found)
    assert len(read) <= 16 + heard + 8  # the first rows tell what there is to learn, and batches are fetched ahead


def shard_recipe(folder, corpus, **data):
    """Eleven steps over a shard alone, of which each question is a recording."""
    only = long_stage(corpus, max_steps=11)
    only["data"] |= {"train": [{"path": write_shard(corpus), "stream": True}], **data}
    return recipe_of(folder, corpus, {"only": only}, connector=QFORMER | {"dropout": 0.2})


@pytest.mark.parametrize("data", [{"num_samples": 12}, {"batch_tokens": 160, "too_long": "split"}], ids=str)
def test_a_stage_on_shards_alone_learns_and_goes_on_exactly(corpus, tmp_path, watch, data):
    whole = run_recipe(shard_recipe(tmp_path / "whole", corpus, **data))
    with pytest.raises(Killed):
        watch(Kill(7))
        run_recipe(shard_recipe(tmp_path / "stopped", corpus, **data))
    watch(TrainerCallback())
    assert_same_weights(run_recipe(shard_recipe(tmp_path / "stopped", corpus, **data)), whole)
    record = json.loads((whole.parent / "run.json").read_text())["stages"]["only"]
    assert record["steps"] == 11 and not record["problems"]


@pytest.mark.parametrize("tokens", [None, 160])
def test_two_ranks_split_each_step_of_a_stream_without_overlap(corpus, tmp_path, tokens):
    stream, _ = open_stream(str(corpus / "train.jsonl"), tmp_path)
    recordings = Recordings([], tiny().processor, groups=Mixture([stream], [1.0], 0))
    recordings.measure()
    for epoch in range(3):
        ranks = []
        for rank in range(2):
            sampler = train_sampler(recordings, [], 2, tokens, None, rank=rank, world_size=2)
            sampler.set_epoch(epoch)
            ranks.append(list(sampler))
            assert len(ranks[-1]) == len(sampler)
        assert len(ranks[0]) == len(ranks[1]) > 1 and all(batch for batches in ranks for batch in batches)
        assert not {key for batch in ranks[0] for key in batch} & {key for batch in ranks[1] for key in batch}


def test_a_dry_run_of_a_stream_that_was_measured_reads_its_first_rows_and_the_longest(
    corpus, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(stage_data, "LOOKED_AT", 2)
    recipe = budget_stream(tmp_path, corpus)
    dry_run(recipe)
    read = []
    get = Stream.read
    monkeypatch.setattr(Stream, "read", lambda *args: read.append(1) or get(*args))
    dry_run(recipe)
    assert len(read) <= 3 and "72 rows over " in capsys.readouterr().out.rpartition("sample")[0]  # 48, and 24 in memory


def test_workers_change_nothing_in_batches_by_tokens_of_a_stream(corpus, tmp_path):
    whole, workers = (
        run_recipe(budget_stream(tmp_path / str(count), corpus, dataloader_num_workers=count)) for count in (0, 2)
    )
    assert_same_weights(workers, whole)


def test_rows_of_a_stream_that_are_too_long_are_told_and_in_the_quarantine_at_every_start(corpus, tmp_path, capsys):
    rows = (corpus / "train.jsonl").read_text().splitlines()
    rows[4] = rows[4].replace("how many?", "how many? " * 100)
    source = {"path": write_jsonl(corpus / "longer.jsonl", map(json.loads, rows)), "stream": True}
    only = stage(corpus, ["connector"], {"language_modeling": 1}, data={"train": [source], "max_tokens": 100})
    for _ in range(2):  # the second time the lengths are known already
        run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
        assert places(quarantined(tmp_path)) == [("measuring", 5)]
        assert re.search(r"1 of 48 rows are too long and left out; .*longer\.jsonl:5 takes", capsys.readouterr().out)
        shutil.rmtree(tmp_path / "run")
    refused = load_recipe(tmp_path / "recipe.yaml", ["stages.only.data.too_long=refuse"])
    with pytest.raises(ValueError, match=r"longer\.jsonl:5: takes \d+ tokens, and a row may have 100; shorten it"):
        run_recipe(refused)


def test_a_batch_that_cannot_hold_a_row_that_is_let_in_is_refused(corpus, tmp_path):
    for batch, refused in ((99, True), (100, False)):
        block = {"batch_tokens": batch, "max_tokens": 100}
        only = stage(corpus, ["connector"], {"language_modeling": 1}, data=block)
        with pytest.raises(RecipeError, match="`batch_tokens` is 99, and `max_tokens`") if refused else nullcontext():
            recipe_of(tmp_path, corpus, {"only": only})


# ------------------------------------------------------------------------------------------------- what is not a number


def poison(monkeypatch, when):
    """A loss that is no number, or whose gradient is none, for some batches."""
    forward = LanguageModeling.forward

    def listen(objective, heard, batch, num_items):
        loss = forward(objective, heard, batch, num_items)
        factor = when(batch["row_ids"]) if torch.is_grad_enabled() else None
        return loss if factor is None else loss * factor

    monkeypatch.setattr(LanguageModeling, "forward", listen)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e38], ids=["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_its_rows_are_named(
    corpus, tmp_path, monkeypatch, capsys, factor
):
    poison(monkeypatch, lambda rows: factor if "describe-3" in rows else None)
    recipe = long_recipe(tmp_path, corpus, max_steps=4, gradient_accumulation_steps=2)
    run_recipe(recipe)
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["only"]
    told = capsys.readouterr().out
    assert record["bad_steps"] and all("describe-3" in bad["rows"] for bad in record["bad_steps"])
    assert told.count("the loss or its gradient is not finite; rows: ") == len(record["bad_steps"]) < 4
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run" / "only").values())
    skipped = {bad["step"] for bad in record["bad_steps"]}
    assert {step for step, _ in record["loss"]} == {1, 2, 3, 4} - skipped  # no line says that such a loss was 0
    assert all(math.isfinite(loss) and loss > 0.1 for _, loss in record["loss"])


def test_a_skipped_step_leaves_every_weight_as_it_was(corpus, tmp_path, monkeypatch):
    poison(monkeypatch, lambda rows: float("nan"))
    only = stage(corpus, ["connector"], {"language_modeling": 1}, trainer={"max_steps": 3})
    run_recipe(recipe_of(tmp_path / "bad", corpus, {"only": only}))
    only["trainer"]["learning_rate"] = 0.0
    monkeypatch.undo()
    run_recipe(recipe_of(tmp_path / "still", corpus, {"only": only}))
    assert_same_weights(tmp_path / "bad" / "run" / "only", tmp_path / "still" / "run" / "only")


def test_too_many_bad_steps_in_a_row_stop_the_stage_with_their_rows(corpus, tmp_path, monkeypatch):
    poison(monkeypatch, lambda rows: float("nan"))
    recipe = long_recipe(tmp_path, corpus)
    recipe = load_recipe(tmp_path / "recipe.yaml", ["stages.only.max_bad_steps=3", "stages.only.trainer.save_steps=1"])
    with pytest.raises(ValueError, match=r"step 3: .* 3 steps in a row \(max_bad_steps=3\).* diverged.*rows: .*-\d"):
        run_recipe(recipe)
    assert not list((tmp_path / "run").rglob("checkpoint-*"))  # of weights that may be what is wrong


def test_resume_points_come_between_validations_as_often_as_is_said(corpus, tmp_path):
    trainer = {"max_steps": 7, "eval_steps": 5, "save_steps": 2, "save_total_limit": 9}
    recipe = long_recipe(tmp_path, corpus, **trainer)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        place = StageTrainer.put_in_place
        patch.setattr(StageTrainer, "put_in_place", lambda *args: (seen.append(args[2].name), place(*args)))
        run_recipe(recipe)
    assert seen == [f"checkpoint-{step}" for step in (2, 4, 5, 6, 7)]


@pytest.mark.parametrize("damage", ["cut", "manifest"])
def test_a_done_stage_whose_checkpoint_is_damaged_is_told_and_not_skipped(corpus, tmp_path, damage):
    recipe = long_recipe(tmp_path, corpus, max_steps=1)
    run_recipe(recipe)
    folder = tmp_path / "run" / "only"
    if damage == "cut":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    else:
        (folder / "checkpoint.json").unlink()
    with pytest.raises(
        ValueError, match=r"stage only is done, but .* is damaged: .*delete that folder to train it again"
    ):
        run_recipe(recipe)
    shutil.rmtree(folder)
    run_recipe(recipe)
    assert (folder / "model.safetensors").is_file()


# ---------------------------------------------------------------------------------------------- what may be switched on


def test_a_compiled_stage_has_the_same_losses_and_learning_rates(corpus, tmp_path, lines):
    """The names of a compiled module's parameters are others, and each part keeps its rate all the same."""
    found = {}
    for name, trainer in {"plain": {}, "compiled": {"torch_compile": True, "torch_compile_backend": "eager"}}.items():
        trainer = {"max_steps": 1, "per_device_train_batch_size": 2, **trainer}
        rates = {"connector": 1e-3, "lora": 2e-3}
        only = stage(corpus, rates, {"language_modeling": 1}, rows="eight", trainer=trainer, lora={"r": 2, "alpha": 4})
        lines.clear()
        run_recipe(recipe_of(tmp_path / name, corpus, {"only": only}, num_hidden_layers=1))
        found[name] = [{key: line[key] for key in line if key.startswith(("loss", "lr", "grad"))} for line in lines]
    assert len(found["plain"]) == len(found["compiled"]) > 1
    for plain, compiled in zip(found["plain"], found["compiled"], strict=True):
        assert plain.keys() == compiled.keys() and compiled == pytest.approx(plain, rel=1e-4)


def test_liger_kernels_are_put_into_the_language_model_alone_and_leave_the_loss_to_us(corpus, tmp_path, monkeypatch):
    applied = []
    patches = types.ModuleType("liger_kernel.transformers.monkey_patch")
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"qwen3": None}
    patches._apply_liger_kernel_to_instance = lambda model, **kernels: applied.append((type(model).__name__, kernels))
    package, transformers = types.ModuleType("liger_kernel"), types.ModuleType("liger_kernel.transformers")
    package.__spec__, transformers.monkey_patch = importlib.machinery.ModuleSpec("liger_kernel", None), patches
    modules = {"liger_kernel": package, "liger_kernel.transformers": transformers, patches.__name__: patches}
    trainer = {"max_steps": 1, "use_liger_kernel": True, "liger_kernel_config": {"rope": False}}
    only = {"only": stage(corpus, ["connector"], {"language_modeling": 1}, rows="eight", trainer=trainer)}
    with pytest.raises(ValueError, match="use_liger_kernel needs the package liger-kernel; install it, or leave"):
        run_recipe(recipe_of(tmp_path / "missing", corpus, only))
    plain = stage(corpus, ["connector"], {"language_modeling": 1}, rows="eight", trainer={"max_steps": 1})
    later = recipe_of(tmp_path / "later", corpus, {"first": plain, **only})
    with pytest.raises(ValueError, match=r"pip install 'audiollm\[liger\]'"):
        run_recipe(later)
    assert not (tmp_path / "later" / "first").exists()  # said before any stage trains
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    run_recipe(recipe_of(tmp_path / "there", corpus, only))
    assert applied == [("Qwen3Model", {"rope": False, "fused_linear_cross_entropy": False, "cross_entropy": False})]
    with pytest.raises(ValueError, match="Liger has no kernels for llama; leave the key out"):
        run_recipe(recipe_of(tmp_path / "llama", corpus, only, model_type="llama"))


def test_a_language_model_that_takes_no_mask_trains_through_stages_with_one_line_about_it(
    corpus, tmp_path, capsys, lines
):
    two = {
        "align": stage(corpus, ["connector"], {"language_modeling": 1}, rows="eight"),
        "instruct": stage(corpus, ["connector", "llm"], {"language_modeling": 1}, rows="eight"),
    }
    run_recipe(recipe_of(tmp_path, corpus, two, **RECURRENT["qwen3_5"]))
    told = [line for line in capsys.readouterr().out.splitlines() if "do not share it" in line]
    assert len(told) == 1 and "of type qwen3_5_text" in told[0]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 8 and losses[-1] < losses[0]
    assert all(line["tokens_per_second"] > 0 and 0 < line["padding_share"] < 1 for line in lines if "loss" in line)


def test_the_attention_of_a_recipe_is_that_of_its_stages(corpus, tmp_path, monkeypatch):
    seen = []
    build_trainer = stages.build_trainer

    def build(*args, **kwargs):
        seen.append(args[2].model.model.language_model.config._attn_implementation)
        return build_trainer(*args, **kwargs)

    monkeypatch.setattr(stages, "build_trainer", build)
    only = {"only": stage(corpus, ["connector"], {"language_modeling": 1}, rows="eight", trainer={"max_steps": 1})}
    for name, settings in {"default": [], "asked": ["model.attn_implementation=eager"]}.items():
        run_recipe(recipe_of(tmp_path / name, corpus, only, *settings))
    assert seen == ["blocks", "eager"]


# -------------------------------------------------------------------------------------------------------------- Muon


def muon_stages(corpus):
    """The encoder with the heads of its objectives, then connector and LoRA, by Muon."""
    trainer = {"max_steps": 6, "save_steps": 2, "optim": "muon", "weight_decay": 0.1}
    heard = {"ctc": 1, "contrastive": 0.2}
    rates, lora = {"connector": 5.0e-3, "lora": 1.0e-3}, {"r": 2, "alpha": 4}
    return {
        "listen": stage(corpus, ["encoder"], heard, trainer=dict(trainer)),
        "instruct": stage(corpus, rates, {"language_modeling": 1}, lora=lora, trainer=dict(trainer)),
    }


def test_muon_moves_matrices_and_goes_on_exactly(corpus, watch, tmp_path):
    parts = {True: set(), False: set()}

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer, **_):
            for group in optimizer.param_groups:
                parts[group["muon"]].add(group["part"])
                kept = {"momentum_buffer"} if group["muon"] else {"step", "exp_avg", "exp_avg_sq"}
                assert all(optimizer.state[p].keys() == kept for p in group["params"] if p.grad is not None)
                assert not group["muon"] or all(parameter.ndim == 2 for parameter in group["params"])

    watch(Look())
    whole = run_recipe(recipe_of(tmp_path / "whole", corpus, muon_stages(corpus)))
    assert parts[True] == {"encoder", "connector", "lora"}
    assert parts[False] == {"encoder", "heads", "connector"}
    curve = losses(tmp_path / "whole")
    assert curve[5] < curve[0] and curve[-1] < curve[6]
    for name in ("listen", "instruct"):
        watch(Kill(5))
        with pytest.raises(Killed):
            run_recipe(recipe_of(tmp_path / "stopped", corpus, muon_stages(corpus)), stage=name)
        watch(TrainerCallback())
        stopped = run_recipe(recipe_of(tmp_path / "stopped", corpus, muon_stages(corpus)), stage=name)
        assert_same_weights(stopped, whole.with_name(name))


def test_muon_is_refused_where_ranks_hold_pieces_of_a_matrix(corpus, tmp_path):
    recipe = recipe_of(tmp_path, corpus, muon_stages(corpus))
    for how, option in (({"fsdp": True}, "--fsdp"), ({"deepspeed": "zero2.json"}, "--deepspeed")):
        for run in (run_recipe, dry_run):
            with pytest.raises(RecipeError, match=rf"stages\.listen\.trainer\.optim is muon, .* leave out {option}$"):
                run(recipe, **how)

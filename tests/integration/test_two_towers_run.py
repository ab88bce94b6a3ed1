"""Two towers learn which words belong to which tone, through the same stages as any model; and the recipe clap runs."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import ENCODER, RATE, checksum, tokenizer, tone
from transformers import RobertaConfig, RobertaModel, WhisperConfig, WhisperModel
from typer.testing import CliRunner

from audiollm import cli
from audiollm.audio import write
from audiollm.models.two_towers import AudioTextModel
from audiollm.recipe import RecipeError, load_recipe
from audiollm.training import dry_run, run_recipe
from audiollm.training.trainer import StageTrainer

PITCHES = {"very low": 150, "low": 300, "middle": 600, "high": 1200, "very high": 2400, "shrill": 4800}
BERT = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def rows_of(folder, number, seed, **about):
    """A tone in two captions, and its kind."""
    draw = random.Random(f"{seed}/{number}")
    name = list(PITCHES)[number % len(PITCHES)]
    samples = tone(PITCHES[name] * draw.uniform(0.9, 1.1), draw.uniform(0.2, 0.4), seed=1000 * seed + number)
    path = folder / f"{seed}-{number}.wav"
    write(path, samples, RATE)
    clip = {"type": "audio", "audio": path.name, "duration": len(samples) / RATE}
    asked = {"role": "user", "content": [clip, {"type": "text", "text": "what is it?"}]}

    def row(task, answer, **more):
        messages = [asked, {"role": "assistant", "content": answer}]
        return {
            "id": f"{task}-{path.stem}",
            "task": task,
            "source_id": path.stem,
            "messages": messages,
            **about,
            **more,
        }

    return [row("caption", f"a {name} tone", references=[f"this sounds {name}"]), row("sound", name)]


def write_rows_of(path, count, seed):
    """A file of rows about so many tones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for number in range(count) for row in rows_of(path.parent, number, seed)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Tones to train on, and others that are never heard in training."""
    folder = tmp_path_factory.mktemp("corpus")
    return {name: write_rows_of(folder / f"{name}.jsonl", n, seed) for seed, (name, n) in enumerate(SIZES.items())}


SIZES = {"train": 48, "validation": 6, "test": 24}


def recipe_of(folder, corpus, **trainer):
    """A recipe of one stage."""
    encoder = {"name": "whisper", "config": {k: v for k, v in ENCODER.items() if not k.endswith("token_id")}}
    text = {"config": BERT, "tokenizer": {"train_on": corpus["train"], "vocab_size": 300}}
    trainer = {
        "max_steps": 32, "per_device_train_batch_size": 24, "logging_steps": 20, "warmup_steps": 4,
        "lr_scheduler_type": "cosine",
    } | trainer  # fmt: skip
    return {
        "name": "tones",
        "output": str(folder / "run"),
        "model": {"kind": "two_towers", "encoder": encoder, "text": text, "projection": {"width": 16}},
        "stages": {
            "match": {
                "objectives": {"contrastive": 1},
                "train": {"encoder": 4.0e-3, "text": 8.0e-3, "projection": 8.0e-3},
                "data": {"train": [{"path": corpus["train"], "tasks": ["caption"]}]},
                "trainer": trainer,
            }
        },
        "evaluate": [{"path": corpus["test"], "blind": True, "template": "a {label} tone"}],
    }


def load(folder, written, *overrides):
    """The recipe, written to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    return load_recipe(folder / "recipe.yaml", overrides)


def run(*words):
    """What a command prints."""
    done = CliRunner().invoke(cli.app, list(words))
    assert done.exit_code == 0, f"{words}\n{done.output}\n{done.exception!r}"
    return done.output


def test_tones_that_were_never_heard_are_found_by_their_words(corpus, tmp_path):
    load(tmp_path, recipe_of(tmp_path, corpus))
    said = run("train", str(tmp_path / "recipe.yaml"))
    tasks = json.loads((tmp_path / "run/results.json").read_text())["tasks"]
    assert set(tasks) == {"sound"} | {
        f"caption_{w}_{m}" for w in ("t2a", "a2t") for m in ("R@1", "R@5", "R@10", "mAP@10")
    }
    for name in ("caption_t2a_R@1", "caption_a2t_R@1", "sound"):
        low, _ = tasks[name]["ci95"]
        assert low > tasks[name]["prior"] == pytest.approx(1 / 6, abs=1e-6), name
        assert tasks[name]["blind"] < low
    assert f"next:   audiollm evaluate {tmp_path / 'run'} --data" in said and "caption_t2a_R@1" in said
    page = (tmp_path / "run/report.html").read_text()
    assert "caption_a2t_R@1" in page and "what is it?" in page
    words = ["--data", corpus["test"], "--device", "cpu", "--template", "a {label} tone", "--json"]
    again = json.loads(run("evaluate", str(tmp_path / "run"), *words))
    assert again["tasks"]["sound"]["score"] == tasks["sound"]["score"]


def test_a_stage_goes_on_exactly_where_it_stopped_and_a_temperature_does_not_decay(corpus, tmp_path, monkeypatch):
    settings = {"max_steps": 2, "save_steps": 1, "weight_decay": 0.1, "warmup_steps": 0}
    run_recipe(load(tmp_path / "whole", recipe_of(tmp_path / "whole", corpus, **settings)))
    recipe = load(tmp_path / "parts", recipe_of(tmp_path / "parts", corpus, **settings))
    groups, stop = [], StageTrainer.training_step

    def step(self, *words, **options):
        groups[:] = self.optimizer.param_groups
        if self.state.global_step == 1:
            raise RuntimeError("the power fails")
        return stop(self, *words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(StageTrainer, "training_step", step)
        with pytest.raises(RuntimeError, match="the power fails"):
            run_recipe(recipe)
    run_recipe(recipe)
    whole, parts = (AudioTextModel.from_pretrained(str(tmp_path / name / "run/match")) for name in ("whole", "parts"))
    assert checksum(whole) == checksum(parts) and whole.trained_parts == {"encoder", "text", "projection"}
    decayed = {(group["part"], p.ndim) for group in groups if group["weight_decay"] for p in group["params"]}
    assert ("projection", 2) in decayed and ("projection", 0) not in decayed


def test_a_stage_goes_on_from_a_checkpoint_of_towers_and_trains_what_it_says(corpus, tmp_path, capsys):
    run_recipe(load(tmp_path / "one", recipe_of(tmp_path / "one", corpus, max_steps=1, warmup_steps=0)))
    written = recipe_of(tmp_path / "two", corpus, max_steps=1, warmup_steps=0)
    written["model"] = {"kind": "two_towers", "checkpoint": str(tmp_path / "one/run")}
    written["stages"]["match"] |= {"train": {"projection": 1.0e-2}}
    written["stages"]["match"]["data"]["cache_features"] = True
    recipe = load(tmp_path / "two", written)
    dry_run(recipe)
    shown = capsys.readouterr().out
    assert "what a micro-batch adds is not known for two towers" in shown and "48 recordings; 1 steps" in shown
    run_recipe(recipe)
    before, after = (load_file(tmp_path / name / "run/match/model.safetensors") for name in ("one", "two"))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"projection"}
    with pytest.raises(ValueError, match=r"model\.kind is None, and .* holds two towers: say `kind: two_towers`"):
        run_recipe(load(tmp_path / "three", three(written, tmp_path)))


def three(written, tmp_path):
    """The same checkpoint, taken for an audio language model."""
    stage = {**written["stages"]["match"], "train": ["connector"], "objectives": {"language_modeling": 1}}
    model = {**written["model"], "kind": None}
    return {**written, "output": str(tmp_path / "three/run"), "model": model, "stages": {"match": stage}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("model.text=null", "model: text missing; or give the `checkpoint` of a whole model"),
        ("model.kind=null", "model: connector and llm missing"),
        ("model.kind=towers", "model.kind: input should be 'two_towers'"),
        ("model.connector={name: mlp}", "has an `encoder` and a `text` tower, and no `connector`; leave it out"),
        ("model.system_prompt=Hello.", "and no `system_prompt`; leave it out"),
        ("model.text.pooling=middle", "model.text.pooling: input should be 'mean', 'first' or 'last'"),
        ("model.projection.temperature=0", "model.projection.temperature: input should be greater than or equal"),
        ("stages.match.train=[connector]", "stages.match.train: two towers have no `connector`; known: encoder, text"),
        ("stages.match.objectives={ctc: 1}", "two towers learn by `contrastive`, and by nothing else"),
        ("stages.match.trainer.use_liger_kernel=true", "use_liger_kernel: is for language models; leave it out"),
        ("evaluate.0.template=a sound", "evaluate.0.template: 'a sound' has no {label} in it"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_sentence(change, sentence, corpus, tmp_path):
    with pytest.raises(RecipeError) as raised:
        load(tmp_path, recipe_of(tmp_path, corpus), change)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_what_a_stage_asks_for_in_vain_is_told_before_anything_is_built(corpus, tmp_path):
    recipe = load(tmp_path, recipe_of(tmp_path, corpus))
    for start in (run_recipe, dry_run):
        with pytest.raises(
            RecipeError, match=r"model\.kind is two_towers, which train under DDP alone; leave out --fsdp"
        ):
            start(recipe, fsdp=True)
    for objective, sentence in {
        "{target: transcript}": "finds nothing to learn in the rows of the stage: clips with a text",
        "{targt: caption}": "did you mean 'target'",
    }.items():
        changed = load(tmp_path, recipe_of(tmp_path, corpus), f"stages.match.objectives.contrastive={objective}")
        with pytest.raises(RecipeError, match=sentence):
            run_recipe(changed)
    assert not (tmp_path / "run/match").exists()


# ----------------------------------------------------------------------------------------------------------------- clap


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A Whisper and a RoBERTa as the Hub would give them, of one and two layers, and the rows of the README."""
    folder = tmp_path_factory.mktemp("clap")
    torch.manual_seed(0)
    WhisperModel(WhisperConfig(**ENCODER)).save_pretrained(folder / "whisper")
    words = tokenizer()
    sizes = {name: value for name, value in BERT.items() if name != "model_type"}
    RobertaModel(RobertaConfig(**sizes, vocab_size=len(words), pad_token_id=0)).save_pretrained(folder / "roberta")
    words.save_pretrained(folder / "roberta")
    for number, name in enumerate(("audiocaps", "clotho")):
        for split in ("train", "validation", "test"):
            write_rows_of(folder / f"data/{name}/{split}.jsonl", 4, 10 * number + len(split))
    write_rows_of(folder / "data/esc50/train.jsonl", 3, 7)
    return folder


def test_the_recipe_clap_trains_two_steps_of_each_stage_and_is_judged(stand_ins, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    parts = [f"model.encoder.checkpoint={stand_ins / 'whisper'}", f"model.text.checkpoint={stand_ins / 'roberta'}"]
    small = {"max_steps": 2, "eval_steps": 2, "dataloader_num_workers": 0, "per_device_train_batch_size": 4}
    steps = [f"stages.{s}.trainer.{key}={value}" for s in ("project", "match") for key, value in small.items()]
    words = ["clap", f"data={stand_ins / 'data'}", *parts, *steps]
    dry_run(load_recipe(words[0], words[1:]))
    shown = capsys.readouterr().out
    assert shown.count("8 recordings; 2 steps") == 2 and "stage match (memory in MiB)" in shown
    run("train", *words)
    stages = json.loads(Path("runs/clap/run.json").read_text())["stages"]
    assert {name: (stage["steps"], len(stage["validation"])) for name, stage in stages.items()} == {
        "project": (2, 1), "match": (2, 1),
    }  # fmt: skip
    results = json.loads(Path("runs/clap/results.json").read_text())
    assert results["tasks"]["caption_t2a_R@10"]["n"] == 8 and set(results["evaluations"]["esc50"]["tasks"]) == {"sound"}
    kept = {name: load_file(Path("runs/clap", name, "model.safetensors")) for name in stages}
    assert {name.split(".")[0] for name in kept["project"]} == {"projection"}  # its towers are names
    assert {name.split(".")[0] for name in kept["match"]} == {"audio_tower", "text_tower", "projection"}

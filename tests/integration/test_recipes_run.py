"""The shipped recipes run as they stand, with two-layer models of their architectures and tones in the place of sets.

Every recipe that names public checkpoints trains two steps of each stage on stand-ins; one of them is judged and
answers too. finetune: the commands of its page are run, from the folder to the chat.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import stand_ins
import torch
import yaml
from guards.repository import ROOT, blocks, commands
from tiny import MLP, RATE, tiny, tones, write_tones
from typer.testing import CliRunner

from audiollm import cli
from audiollm.audio import write
from audiollm.conversation import AudioPart, Message, TextPart
from audiollm.inference import load
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.freezing import add_lora
from audiollm.models.parts import build
from audiollm.recipe import load_recipe
from audiollm.resources import packaged_files


def run(*words: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli.app, list(words))
    assert done.exit_code == 0, f"{words}\n{done.output}\n{done.exception!r}"
    return done.output


# ---------------------------------------------------------------------------------------------- of public checkpoints

PUBLIC = sorted(set(packaged_files("recipes")) - {"quickstart", "clap", "finetune", "finetune/qlora", "finetune/full"})
SMALL = {
    "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "num_layers": 2, "max_tokens": 512, "eval_steps": 1,
    "max_steps": 2, "warmup_steps": 0, "dataloader_num_workers": 0, "gradient_accumulation_steps": 1,
    "per_device_train_batch_size": 2, "limit": 2, "max_new_tokens": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder in which stand-ins are made when a recipe names what they stand for."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Transcribed and described tones, with an answer to a question about each."""
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for number, name in enumerate(write_tones(folder, 4, seconds=(0.3, 0.9))):
        clip = {"type": "audio", "audio": name, "transcript": "a bell rings", "description": "a high tone"}
        asked = [clip, {"type": "text", "text": "What do you hear?"}]
        said = [{"type": "text", "text": "A bell rings, then a dog."}]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        lines.append({"task": ("caption", "aqa")[number % 2], "source_id": name, "messages": messages})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def small(value: Any, hub: Path, rows: Path, key: str = "") -> Any:
    """A recipe's values with stand-ins for checkpoints, one file of rows for all sets, and two steps a stage."""
    if key == "trainer":
        value = value | {"max_steps": 2}
    if isinstance(value, dict):
        return {name: small(one, hub, rows, name) for name, one in value.items()}
    if isinstance(value, list):
        return [1, -1][: len(value)] if key == "taps" else [small(one, hub, rows) for one in value]
    if key == "checkpoint" and value:
        return str(stand_ins.folder_for(value, hub))
    if key in ("path", "train_on"):
        return str(rows)
    return SMALL[key] if key in SMALL and value is not None else value


@pytest.mark.parametrize("name", PUBLIC)
def test_a_recipe_of_public_checkpoints_trains_two_steps_of_every_stage(name, hub, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name)
    values = small(yaml.safe_load(recipe.to_yaml()), hub, rows)
    judged = name.startswith("whisper_qwen")
    values["evaluate"] = values["evaluate"][:1] if judged else []
    Path("recipe.yaml").write_text(yaml.safe_dump(values | {"output": "runs/here"}, sort_keys=False))
    shown = run("train", "recipe.yaml")

    stages = json.loads(Path("runs/here/run.json").read_text())["stages"]
    assert {stage: found["steps"] for stage, found in stages.items()} == dict.fromkeys(recipe.stages, 2)
    assert all(not found["problems"] for found in stages.values())
    if judged:
        asked = json.loads(Path("runs/here/results.json").read_text())["tasks"]
        assert all(task["blind"] is not None and f"  {task_name} " in shown for task_name, task in asked.items())
        answers(name, rows)


def answers(name: str, rows: Path) -> None:
    """What was trained is loaded as the recipe says, and answers."""
    listener = load("runs/here", device="cpu")
    in_bits = name == "whisper_qwen/qlora"
    assert listener.processor.chat_template_kwargs == ({} if in_bits else {"enable_thinking": False})
    assert listener.model.config.quantize == ("nf4" if in_bits else None)
    clip = AudioPart(str(rows.parent / "0.wav"))
    [answer] = listener.answer([[Message("user", (clip, TextPart("What do you hear?")))]], max_new_tokens=4)
    assert answer.error is None and answer.num_new_tokens


@pytest.mark.parametrize("name", ["finetune/qlora", "finetune/full"])
def test_the_larger_ways_to_fine_tune_go_on_from_a_checkpoint_on_public_bases(name, hub, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = {"encoder": "openai/whisper-small", "llm": "Qwen/Qwen3-8B"}
    bases = {part: str(stand_ins.folder_for(checkpoint, hub)) for part, checkpoint in parts.items()}
    built = build(connector=MLP, **bases)
    add_lora(built.model, r=4, alpha=8)
    save_checkpoint(built.model, built.processor, tmp_path / "before")
    run("train", name, f"data={rows}", "model.checkpoint=before", "stages.finetune.trainer.max_steps=1")
    [folder] = Path("runs").iterdir()
    after = load(folder, device="cpu").model
    assert (after.config.quantize, "llm" in after.trained_parts) == (
        ("nf4", False) if "qlora" in name else (None, True)
    )


# ------------------------------------------------------------------------------------------------------------ finetune

FINETUNE = (ROOT / "recipes/finetune/README.md").read_text()
TEXTS = {"garden": "a bird, then a dog", "kitchen": "a bell, then a knock", "street": "an engine over rain"}


def small_checkpoint(folder: Path) -> None:
    """A finished run of the quickstart, as far as those see who stand on it."""
    built = tiny()
    add_lora(built.model, r=4, alpha=8)
    save_checkpoint(built.model, built.processor, folder / "runs/quickstart/instruct", trained={"connector"})
    (folder / "runs/quickstart/run.json").write_text('{"stages": {"instruct": {}}}')


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the run that the README starts from, three recordings with texts, and the README's table."""
    monkeypatch.chdir(tmp_path)
    small_checkpoint(tmp_path)
    (tmp_path / "recordings").mkdir()
    for (name, text), samples in zip(TEXTS.items(), tones(3), strict=True):
        write(tmp_path / f"recordings/{name}.wav", samples, RATE)
        (tmp_path / f"recordings/{name}.txt").write_text(text + "\n")
    [listing] = [block for block in blocks(FINETUNE, ("",)) if block.startswith("audio,question,answer")]
    (tmp_path / "questions.csv").write_text(listing)
    return tmp_path


def test_the_commands_of_the_finetune_page_run(workplace):
    said = [run(*shlex.split(line)[1:]) for line in commands(FINETUNE) if line.startswith("audiollm ")]
    assert len(said) == 4
    assert "LoRA (r=4, alpha=8) is there already and trains on" in said[0] and "3 recordings" in said[0]
    assert "next:   audiollm chat runs/finetune --audio recordings/garden.wav" in said[0]
    assert "2 recordings" in said[2]  # three questions about two recordings
    for folder in ("runs/finetune", "runs/questions"):
        assert load(folder).model.trained_parts == {"connector"}
        assert not torch.equal(lora_of(folder), lora_of("runs/quickstart"))


def test_what_the_finetune_page_says_can_be_changed_can_be(workplace):
    changes = [
        word for line in FINETUNE.splitlines() if line.startswith("| ") for word in re.findall(r"`([^`]+)`", line)
    ]
    overrides = [shlex.split(word) for word in changes if "lora.r" not in word]
    words = [word.replace("held_out.csv", "questions.csv") for words in overrides for word in words]
    assert len(words) > 5
    run("train", "finetune", "data=recordings", *words, "stages.finetune.trainer.max_steps=2")
    assert json.loads(Path("runs/finetune/results.json").read_text())["tasks"]["answers"]["blind"] is not None


def test_lora_that_differs_from_that_of_the_checkpoint_is_refused(workplace):
    words = ["train", "finetune", "data=recordings", "stages.finetune.lora.r=64", "stages.finetune.lora.alpha=8"]
    refused = CliRunner().invoke(cli.app, words)
    assert refused.exit_code == 2 and "r=64 (the model's: 4)" in refused.stderr


def test_recordings_that_are_missing_are_told_before_anything_is_trained(workplace):
    Path("questions.csv").write_text("audio,question,answer\nrecordings/kitchn.wav,What?,A kettle.\n")
    refused = CliRunner().invoke(cli.app, ["train", "finetune", "data=questions.csv"])
    assert refused.exit_code == 2 and "kitchn.wav" in refused.stderr and not Path("runs/finetune").exists()


def test_prompts_that_the_recipe_changes_are_kept(workplace):
    run(
        "train", "finetune", "data=recordings", "model.system_prompt=You listen.", "stages.finetune.trainer.max_steps=1"
    )
    assert load("runs/finetune").processor.system_prompt == "You listen."


def test_a_test_that_is_in_training_is_refused_and_the_report_names_sources_and_licences(workplace):
    rows = [{"audio": f"recordings/{name}.wav", "question": "What?", "answer": text} for name, text in TEXTS.items()]
    for number, file in enumerate(("mine.jsonl", "theirs.jsonl")):
        lines = [row | {"source": "bells", "license": "cc0-1.0"} for row in rows[2 * number : 2 * number + 2]]
        Path(file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["train", "finetune", "data=mine.jsonl", "stages.finetune.trainer.max_steps=1", "refuse_overlap=true"]
    refused = CliRunner().invoke(cli.app, [*words, "evaluate=[{path: mine.jsonl}]"])
    assert refused.exit_code == 2 and "2 recordings of training are in mine.jsonl too, the first in" in refused.stderr
    assert not Path("runs/finetune/run.json").exists()
    Path("recordings/copy.wav").write_bytes(Path(f"recordings/{next(iter(TEXTS))}.wav").read_bytes())
    Path("twice.jsonl").write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[0] | {"audio": "recordings/copy.wav"}))
    twice = CliRunner().invoke(cli.app, ["train", "finetune", "data=twice.jsonl", "refuse_duplicates=true"])
    assert twice.exit_code == 2 and "training has 1 pair of clips of one recording" in twice.stderr
    assert not Path("runs/finetune/run.json").exists()
    Path("recordings/copy.wav").unlink()
    run(*words, "evaluate=[{path: theirs.jsonl}]", "stages.finetune.data.augment={gain: {probability: 0.5}}")
    page = Path("runs/finetune/report.html").read_text()
    assert "bells (cc0-1.0, 2 rows); augmented: gain 50%" in page


def lora_of(folder: str) -> torch.Tensor:
    """All LoRA weights of a checkpoint, as one vector."""
    tensors = [
        tensor.flatten() for name, tensor in load(folder, device="cpu").model.state_dict().items() if ".lora_" in name
    ]
    return torch.cat(tensors)


@pytest.mark.parametrize("example", blocks((ROOT / "README.md").read_text(), ("python",)))
def test_the_python_examples_of_the_readme_run(example, workplace, capsys):
    write(workplace / "clip.wav", tones(1)[0], RATE)
    exec(example, {})
    assert capsys.readouterr().out.count("\n") >= example.count("print(")

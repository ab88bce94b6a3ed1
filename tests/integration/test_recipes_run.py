"""The shipped recipes that need no corpus of ours run as their READMEs say, with tiny models and tones.

whisper_qwen: the README's programs make the rows out of made-up sources with the columns of the real ones; stand-ins of
the same architectures train on them, two steps a stage. finetune: its commands are run, from the folder to the chat.
"""

import json
import re
import shlex
from pathlib import Path

import chat_templates
import pytest
import torch
from datasets import Audio, Dataset
from guards.repository import ROOT, blocks, commands
from tiny import ENCODER, LLM, LLMS, RATE, WIDE, tiny, tones, write_tones
from transformers import Qwen3Config, Qwen3ForCausalLM, WhisperConfig, WhisperModel
from typer.testing import CliRunner

from audiollm import cli
from audiollm.audio import encode, write
from audiollm.conversation import AudioPart, Message, TextPart
from audiollm.data.sources import load_rows
from audiollm.inference import load
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.freezing import add_lora


def run(*words: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli.app, list(words))
    assert done.exit_code == 0, f"{words}\n{done.output}\n{done.exception!r}"
    return done.output


# -------------------------------------------------------------------------------------------------------- whisper_qwen

WHISPER_QWEN = (ROOT / "recipes/whisper_qwen/README.md").read_text()


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Folders of a Whisper and of a Qwen3 with its chat template, as the Hub would give them, of two layers each."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    WhisperModel(WhisperConfig(**ENCODER)).save_pretrained(folder / "whisper")
    tokenizer = chat_templates.qwen()
    tokenizer.chat_template = chat_templates.QWEN3
    padded = len(tokenizer) + 20  # as the public ones, whose embedding has more rows than the tokenizer has tokens
    config = Qwen3Config(**LLM | WIDE, **LLMS["qwen3"], vocab_size=padded, eos_token_id=tokenizer.eos_token_id)
    Qwen3ForCausalLM(config).save_pretrained(folder / "qwen3")
    tokenizer.save_pretrained(folder / "qwen3")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The rows that the README's programs make."""
    folder = tmp_path_factory.mktemp("whisper_qwen") / "data"
    for split in ("development", "validation"):
        names = write_tones(folder / "clotho" / split, 3)
        captions = [["Rain.", '"Wet, loud."']]
        write_table(folder / f"clotho/clotho_captions_{split}.csv", "file_name,caption_1,caption_2", names, captions)
    names = write_tones(folder / "clotho_aqa/audio_files", 2)
    for split in ("train", "val", "test"):
        given = [["Is it café noise?", answer, "yes"] for answer in ("yes", "no", "yes")]
        path = folder / f"clotho_aqa/clotho_aqa_{split}.csv"
        write_table(path, "file_name,QuestionText,answer,confidence", names, given)
        path.write_bytes(path.read_text().encode("latin-1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setattr("datasets.load_dataset", lambda name, *_, split: HUB[name])
        for program in blocks(WHISPER_QWEN, ("python",)):
            exec(program, {})
    return folder


def write_table(path, header, names, cells):
    """A CSV with every line of `cells` about every recording."""
    lines = [",".join([name, *line]) for name in names for line in cells]
    path.write_text("\n".join([header, *lines]) + "\n")


def split_of_the_hub(columns: dict[str, list]) -> Dataset:
    """A split with its audio inside."""
    clips = tones(len(next(iter(columns.values()))))
    flac = [{"bytes": encode(samples, RATE, "FLAC"), "path": f"{n}.flac"} for n, samples in enumerate(clips)]
    return Dataset.from_dict({**columns, "audio": flac}).cast_column("audio", Audio(RATE))


HUB = {
    "openslr/librispeech_asr": split_of_the_hub({
        "file": ["a.flac", "b.flac", "c.flac"], "text": ["A BELL", "TWO BIRDS", "IT'S LATE"], "speaker_id": [374] * 3,
        "chapter_id": [180298] * 3, "id": ["374-180298-0000", "374-180298-0001", "374-180298-0002"],
    }),
    "OpenSound/AudioCaps": split_of_the_hub({
        "audiocap_id": [7, 8, 9], "youtube_id": ["r1", "r1", "x2"], "start_time": [30, 30, 0],
        "caption": ["Rain.", "It rains.", "A dog."],
    }),
}  # fmt: skip


def test_splits_of_the_hub_become_rows(data):
    for name in ("train", "validation", "test"):
        spoken = load_rows(data / f"librispeech/{name}.jsonl", check_files=True, strict=True)
        assert [row.target for row in spoken] == ["a bell", "two birds", "it's late"]
        assert {(row.task, row.question) for row in spoken} == {("asr", "Transcribe the speech.")}
        assert all(clip.duration == len(clip.load(RATE)) / RATE for row in spoken for clip in row.clips)
    described = load_rows(data / "audiocaps/train.jsonl", check_files=True, strict=True)
    assert [row.target for row in described] == ["Rain.", "It rains.", "A dog."]
    assert described[0].group_key == described[1].group_key != described[2].group_key


def test_tables_become_rows(data):
    captions = load_rows(data / "clotho/development/captions.csv", check_files=True, strict=True)
    assert sorted({(row.question, row.target, row.task) for row in captions}) == [
        ("Describe the sound.", "Rain.", "caption"),
        ("Describe the sound.", "Wet, loud.", "caption"),
    ]
    asked = load_rows(data / "clotho_aqa/audio_files/test.csv", check_files=True, strict=True)
    assert [(row.question, row.target, row.task) for row in asked] == [("Is it café noise?", "yes", "aqa")] * 2


@pytest.mark.parametrize("recipe", ["whisper_qwen", "whisper_qwen/large", "whisper_qwen/qlora"])
def test_a_recipe_of_public_checkpoints_trains_judges_and_answers(recipe, stand_ins, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = [f"model.encoder.checkpoint={stand_ins / 'whisper'}", f"model.llm.checkpoint={stand_ins / 'qwen3'}"]
    small = {"max_steps": 2, "eval_steps": 1, "dataloader_num_workers": 0}
    steps = [f"stages.{s}.trainer.{key}={value}" for s in ("align", "instruct") for key, value in small.items()]
    shown = run("train", recipe, f"data={data}", *parts, *steps)

    [folder] = Path("runs").iterdir()
    stages = json.loads((folder / "run.json").read_text())["stages"]
    assert {name: stage["steps"] for name, stage in stages.items()} == {"align": 2, "instruct": 2}
    assert all(len(stage["validation"]) == 2 and not stage["problems"] for stage in stages.values())
    results = json.loads((folder / "results.json").read_text())
    asked = results["tasks"] | results["evaluations"]["librispeech"]["tasks"]
    assert {name: task["metric"] for name, task in asked.items()} == {"aqa": "exact", "asr": "wer"}
    assert all(task["blind"] is not None and f"  {name} " in shown for name, task in asked.items())

    listener = load(folder, device="cpu")
    small = recipe == "whisper_qwen/qlora"
    assert listener.processor.chat_template_kwargs == ({} if small else {"enable_thinking": False})
    assert listener.model.config.quantize == ("nf4" if small else None)
    clip = AudioPart(str(data / "librispeech/test/374-180298-0000.flac"))
    [answer] = listener.answer([[Message("user", (clip, TextPart("What do you hear?")))]], max_new_tokens=4)
    assert answer.error is None and answer.num_new_tokens


# ------------------------------------------------------------------------------------------------------------ finetune

FINETUNE = (ROOT / "recipes/finetune/README.md").read_text()
TEXTS = {"garden": "a bird, then a dog", "kitchen": "a bell, then a knock", "street": "an engine over rain"}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the run that the README starts from, three recordings with texts, and the README's table."""
    monkeypatch.chdir(tmp_path)
    built = tiny()
    add_lora(built.model, r=4, alpha=8)
    save_checkpoint(built.model, built.processor, tmp_path / "runs/quickstart/instruct", trained={"connector"})
    (tmp_path / "runs/quickstart/run.json").write_text('{"stages": {"instruct": {}}}')
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

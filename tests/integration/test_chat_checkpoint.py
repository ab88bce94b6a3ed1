"""From a checkpoint folder to answers and a conversation, with a model of the real classes that was never trained."""

import json

import numpy as np
import pytest
import torch

import audiollm
from audiollm import audio as sound
from audiollm.conversation import AudioPart, Message, TextPart, parse_row
from audiollm.inference import CheckpointError, Listener, load
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.parts import build
from audiollm.models.tokenizer import train_tokenizer

QUESTIONS = ["What do you hear?", "Is there a dog?", "How often does the bell ring, and what follows it?"]


@pytest.fixture(scope="module")
def parts():
    """Two layers of width 32 in encoder and language model, large random weights so that answers differ."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([*QUESTIONS, "a dog barks, a bell rings twice, then rain"] * 3, 300)
    encoder = {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "num_mel_bins": 80,
    }
    llm = {
        "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.5,
    }  # fmt: skip
    return build(
        encoder={"name": "whisper", "config": encoder},
        connector={"name": "mlp"},
        llm={"config": llm},
        tokenizer=tokenizer,
    )


@pytest.fixture(scope="module")
def listener(parts):
    return Listener(parts.model, parts.processor)


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    """The folder of a run whose one stage is finished."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    save_checkpoint(parts.model, parts.processor, folder / "instruct")
    (folder / "recipe.yaml").write_text("name: tiny\n")
    (folder / "run.json").write_text(json.dumps({"stages": {"instruct": {"steps": 10}}}))
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "tone.wav"
    sound.write(path, 0.5 * np.sin(np.arange(16_000) / 7).astype(np.float32), 16_000)
    return str(path)


def prompts(num):
    """Prompts with no, one or two clips of different lengths."""
    noise = np.random.default_rng(0)
    for index in range(num):
        clips = [AudioPart((noise.uniform(-0.5, 0.5, 2000 + 1700 * index), 16_000)) for _ in range(index % 3)]
        yield (Message("user", (*clips, TextPart(QUESTIONS[index % len(QUESTIONS)]))),)


def test_batched_answers_equal_single_answers(listener):
    asked = list(prompts(8))
    singles = [next(listener.answer([prompt], max_new_tokens=10)) for prompt in asked]
    assert len({answer.text for answer in singles}) > 4
    assert list(listener.answer(asked, batch_size=8, max_new_tokens=10)) == singles
    assert list(listener.answer(asked, batch_size=3, max_new_tokens=10)) == singles


def test_streamed_pieces_are_the_answer(listener):
    for prompt in prompts(4):
        pieces = list(listener.stream(prompt, max_new_tokens=10))
        assert "".join(pieces).strip() == next(listener.answer([prompt], max_new_tokens=10)).text


def test_training_goes_on_after_an_answer(parts, listener):
    model = parts.model
    asked = list(prompts(3))
    model.train()
    before = next(listener.answer(asked[1:2], max_new_tokens=4))
    inputs = listener._collate([(asked[1], [asked[1][0].clips[0].load(16_000)])])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.audio_token_id, -100)
    model(**inputs, labels=labels).loss.backward()
    assert model.training and before.num_new_tokens
    assert all(parameter.grad is not None for parameter in model.model.connector.parameters())
    model.zero_grad()
    model.eval()


def test_a_checkpoint_answers_as_the_model_that_was_saved(listener, run):
    asked = list(prompts(4))
    expected = list(listener.answer(asked, max_new_tokens=10))
    loaded = load(run, device="cpu")
    assert loaded.name == "tiny/instruct" and loaded.model.dtype == torch.float32
    assert list(loaded.answer(asked, max_new_tokens=10)) == expected
    half = load(run / "instruct", device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert all(answer.num_new_tokens for answer in half.answer(asked, max_new_tokens=2))


def test_a_conversation_with_a_checkpoint(run, recording, tmp_path):
    talk = audiollm.chat(run, device="cpu", max_new_tokens=6)
    first = talk.ask("What do you hear?", audio=recording)
    assert first and talk.ask("Is there a dog?")
    assert [len(message.clips) for message in talk.history] == [1, 0, 0, 0]
    line = talk.save(tmp_path / "talk.jsonl").read_text()
    assert parse_row(json.loads(line), origin="talk.jsonl:1").messages[1].text == first


def test_long_audio_is_heard_to_its_end(listener):
    rate = listener.processor.sampling_rate
    quiet = np.zeros(65 * rate, np.float32)
    loud = quiet.copy()
    loud[-rate:] = np.random.default_rng(0).uniform(-1, 1, rate)
    [heard] = listener._hear([(Message("user", (AudioPart((quiet, rate)), AudioPart((loud, rate)))),)])
    asked = (Message("user", (AudioPart((quiet, rate)), TextPart("What?"))),)
    inputs = [listener._collate([(asked, [samples])]) for samples in heard]
    with torch.no_grad():
        quiet_V, loud_V = (listener.model(**one).logits[0, -1] for one in inputs)
    assert not torch.allclose(quiet_V, loud_V, atol=1e-3)


def test_a_damaged_checkpoint_is_told_in_a_sentence(run, tmp_path):
    copy = tmp_path / "instruct"
    copy.mkdir()
    for file in (run / "instruct").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=r"instruct: the checkpoint cannot be read"):
        load(copy, device="cpu")

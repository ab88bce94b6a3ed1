"""Answers in batches and in pieces, from a tiny language model to which a clip is a letter; finding a checkpoint."""

import json
import string
import threading
import time

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import audiollm.audio
from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, Message, TextPart
from audiollm.inference import CheckpointError, Listener, load, pick_device, pick_dtype, resolve_checkpoint

LETTERS = string.ascii_lowercase + " ?"


class LetterProcessor:
    """One token a letter; a clip is the letter whose place in the alphabet is its number of milliseconds."""

    sampling_rate = 16_000
    stop_token_ids = (1,)

    def __init__(self):
        vocabulary = {token: index for index, token in enumerate(["<pad>", "<end>", *LETTERS])}
        tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
        tokens.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokens.decoder = decoders.Fuse()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", eos_token="<end>")

    def refuse_longer(self, clip, num_samples):
        pass

    def decode_answer(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def collate_prompts(self, prompts):
        ids = []
        for messages, waveforms in prompts:
            heard = [2 + len(samples) // 16 % 26 for samples in waveforms]
            words = " ".join(message.text for message in messages)
            ids.append(heard + self.tokenizer(words, add_special_tokens=False).input_ids)
        longest = max(map(len, ids))
        return {
            "input_ids": torch.tensor([[0] * (longest - len(row)) + row for row in ids]),
            "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids]),
        }


@pytest.fixture(scope="module")
def listener():
    torch.manual_seed(10)  # with these weights some answers end early and some do not
    config = Qwen2Config(
        vocab_size=2 + len(LETTERS), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, initializer_range=0.5,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return Listener(Qwen2ForCausalLM(config).eval(), LetterProcessor())


def ask(question, *clips):
    return (Message("user", (*clips, TextPart(question))),)


def clip(milliseconds):
    return AudioPart((np.zeros(16 * milliseconds, np.float32), 16_000))


PROMPTS = [ask("what do you hear " * (n % 3 + 1) + LETTERS[n], clip(10 + n)) for n in range(12)]


def test_batched_answers_equal_single_answers_in_the_given_order(listener):
    singles = [next(listener.answer([prompt], max_new_tokens=12)) for prompt in PROMPTS]
    assert len({answer.text for answer in singles}) > 6  # or the order could not be seen
    for batch_size in (2, 5, 12, 100):
        assert list(listener.answer(PROMPTS, batch_size=batch_size, max_new_tokens=12)) == singles


def test_a_prompt_may_be_a_question_or_messages_of_either_kind(listener):
    written = [{"role": "user", "content": "what is it?"}]
    prompts = ["what is it?", written, ask("what is it?")]
    answers = list(listener.answer(prompts, max_new_tokens=8))
    assert answers[0] == answers[1] == answers[2]
    assert "".join(listener.stream(written, max_new_tokens=8)).strip() == answers[0].text.strip()


def test_no_prompts_no_answers(listener):
    assert list(listener.answer([])) == []


def test_truncated_means_that_the_end_of_turn_did_not_come(listener):
    answers = list(listener.answer(PROMPTS, max_new_tokens=20))
    ended = [answer for answer in answers if not answer.truncated]
    assert 0 < len(ended) < len(answers)
    assert all(answer.num_new_tokens < 20 and "<end>" not in answer.text for answer in ended)
    assert all(answer.num_new_tokens == 20 for answer in answers if answer.truncated)
    assert all(len(answer.text) == answer.num_new_tokens for answer in answers)  # a token is a letter
    longer = list(listener.answer(PROMPTS, max_new_tokens=30))
    assert all(long.text.startswith(short.text) for short, long in zip(answers, longer, strict=True))


def test_a_broken_clip_is_an_error_of_its_prompt_alone(listener, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"not a recording")
    broken = ask("what", AudioPart(str(tmp_path / "broken.wav")))
    missing = ask("what", AudioPart(str(tmp_path / "missing.wav")))
    nothing = ask("what", AudioPart(None))
    whole = list(listener.answer(PROMPTS, max_new_tokens=8))
    mixed = list(
        listener.answer([broken, *PROMPTS[:5], missing, nothing, *PROMPTS[5:]], batch_size=4, max_new_tokens=8)
    )
    errors = [mixed.pop(0), mixed.pop(5), mixed.pop(5)]
    assert mixed == whole
    assert [answer.text for answer in errors] == ["", "", ""]
    assert "broken.wav" in errors[0].error and "missing.wav" in errors[1].error and errors[2].error
    assert all(answer.error for answer in listener.answer([broken, broken], max_new_tokens=8))


def test_a_clip_that_several_prompts_of_a_batch_share_is_read_once(listener, tmp_path, monkeypatch):
    audiollm.audio.write(tmp_path / "a.wav", np.zeros(1600, np.float32), 16_000)
    read = []
    genuine = audiollm.audio.load

    def counted(source, *args, **kwargs):
        read.append(source)
        return genuine(source, *args, **kwargs)

    monkeypatch.setattr(audiollm.audio, "load", counted)
    shared = AudioPart(str(tmp_path / "a.wav"))
    list(listener.answer([ask("what", shared), ask("where", shared), ask("who", shared)], max_new_tokens=2))
    assert len(read) == 1


def test_answers_are_greedy_though_the_base_model_says_sample(listener, recwarn):
    expected = list(listener.answer(PROMPTS, max_new_tokens=8))
    saved = listener.model.generation_config
    try:
        listener.model.generation_config = type(saved)(**saved.to_diff_dict())
        listener.model.generation_config.update(do_sample=True, temperature=5.0, top_k=20, top_p=0.5)
        assert list(listener.answer(PROMPTS, max_new_tokens=8)) == expected
        sampled = list(listener.answer(PROMPTS, max_new_tokens=8, do_sample=True, temperature=9.0))
        assert sampled != expected
    finally:
        listener.model.generation_config = saved


def test_a_model_in_training_gets_its_mode_back_and_can_train_on(listener):
    listener.model.train()
    try:
        list(listener.answer(PROMPTS[:2], max_new_tokens=2))
        assert listener.model.training
        ids = torch.tensor([[2, 3, 4]])
        listener.model(input_ids=ids, labels=ids).loss.backward()
    finally:
        listener.model.zero_grad()
        listener.model.eval()


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"batch_size": 0}, "batch_size"), ({"num_return_sequences": 2, "num_beams": 2}, "num_return_sequences")],
)
def test_settings_that_would_mix_up_the_answers_are_refused(listener, settings, said):
    with pytest.raises(ValueError, match=said):
        list(listener.answer(PROMPTS, **settings))


def test_too_little_memory_is_told_with_the_way_out(listener, monkeypatch):
    def full(**_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(listener.model, "generate", full)
    with pytest.raises(ValueError, match=r"12 prompts .* smaller batch size"):
        list(listener.answer(PROMPTS))


# ---- stream


def streaming_threads():
    return [thread for thread in threading.enumerate() if thread.name == "audiollm-stream"]


def test_the_pieces_of_a_stream_are_the_answer(listener):
    for prompt in PROMPTS:
        pieces = list(listener.stream(prompt, max_new_tokens=20))
        assert "" not in pieces
        assert "".join(pieces) == next(listener.answer([prompt], max_new_tokens=20)).text


def test_closing_a_stream_stops_the_model_and_its_thread(listener, monkeypatch):
    genuine, steps = listener.model.forward, []

    def slow(*args, **kwargs):
        steps.append(1)
        time.sleep(0.01)
        return genuine(*args, **kwargs)

    monkeypatch.setattr(listener.model, "forward", slow)
    monkeypatch.setattr(type(listener), "_ends", lambda self: {1})
    pieces = listener.stream(PROMPTS[0], max_new_tokens=3000, suppress_tokens=[1], do_sample=True, temperature=9.0)
    next(pieces)
    assert streaming_threads()
    pieces.close()
    assert not streaming_threads()
    assert len(steps) < 1000


def test_a_failure_in_the_thread_is_raised_where_the_stream_is_read(listener, monkeypatch):
    genuine, steps = listener.model.forward, []

    def failing(*args, **kwargs):
        steps.append(1)
        if len(steps) == 3:
            raise RuntimeError("the third step fails")
        return genuine(*args, **kwargs)

    monkeypatch.setattr(listener.model, "forward", failing)
    with pytest.raises(RuntimeError, match="third step"):
        list(listener.stream(PROMPTS[0], suppress_tokens=[1]))
    assert not streaming_threads()


def test_streaming_a_broken_clip_raises_its_audio_error(listener, tmp_path):
    with pytest.raises(AudioError, match=r"missing\.wav"):
        list(listener.stream(ask("what", AudioPart(str(tmp_path / "missing.wav")))))


# ---- finding and loading a checkpoint


@pytest.fixture
def run(tmp_path):
    """A run with three stages, of which the last one's checkpoint was deleted."""
    folder = tmp_path / "runs" / "demo"
    for stage in ("align", "instruct"):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "config.json").write_text('{"model_type": "audiollm"}')
    (folder / "recipe.yaml").write_text("name: demo\n")
    stages = {"align": {"steps": 10}, "instruct": {"steps": 10}, "polish": {"steps": 10}}
    (folder / "run.json").write_text(json.dumps({"stages": stages}))
    return folder


def test_a_run_stands_for_its_last_finished_stage(run, caplog):
    assert resolve_checkpoint(run) == run / "instruct"
    assert "polish is gone" in caplog.text
    assert resolve_checkpoint(str(run / "align")) == run / "align"
    assert resolve_checkpoint(run / "align" / "..").resolve() == run / "instruct"


def test_a_stage_that_lost_its_configuration_is_not_passed_over(run):
    (run / "polish").mkdir()
    assert "polish has no config.json" in refused(run)
    (run / "polish" / "model.safetensors").write_bytes(b"cut off")
    assert "has weights and no config.json" in refused(run / "polish")


def refused(path):
    with pytest.raises(CheckpointError) as error:
        load(path, device="cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_checkpoint_is_refused_with_the_way_out(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no folder runs/dmeo" in refused("runs/dmeo") and "such as runs/quickstart" in refused("runs/dmeo")
    assert "no folder" in refused(tmp_path / "nowhere" / "at" / "all")
    assert "is a file" in refused(run / "recipe.yaml")
    assert "holds no checkpoint" in refused(tmp_path)
    (run / "align" / "config.json").write_text('{"model_type": "whisper"}')
    assert "'whisper'" in refused(run / "align")
    (run / "align" / "config.json").write_text('{"model_type"')
    assert "damaged" in refused(run / "align")
    (run / "run.json").unlink()
    assert "no finished stage" in refused(run)


def test_a_name_that_the_hub_does_not_give_is_told_in_one_sentence(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(name, revision):
        raise OSError(f"cannot reach {name} at {revision}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"no folder someone/model here.*cannot reach someone/model at v2"):
        load("someone/model", device="cpu", revision="v2")


def test_a_name_on_the_hub_is_the_folder_that_it_was_fetched_into(run, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, revision: str(run / "align"))
    assert resolve_checkpoint("someone/model") == run / "align"


def test_device_and_dtype_by_name():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("bfloat16", torch.device("cpu")) == pick_dtype(torch.bfloat16, torch.device("cpu"))
    for wrong in ("cpuu", "gpu", "cuda:99"):
        with pytest.raises(ValueError, match=wrong):
            pick_device(wrong)
    for wrong in ("int8", "nn", "fp32"):
        with pytest.raises(ValueError, match=wrong):
            pick_dtype(wrong, torch.device("cpu"))

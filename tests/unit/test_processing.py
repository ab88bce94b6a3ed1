"""The processor: sound and messages to tensors, saved and loaded without a model, the same ids through every door."""

import base64

import numpy as np
import pytest
import soundfile
import torch
from chat_templates import BY_NAME
from transformers import AutoProcessor, PreTrainedTokenizerFast

from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, Message, TextPart, parse_messages
from audiollm.models.processing import AudioLLMFeatureExtractor, AudioLLMProcessor

RATE = 16_000
AUDIO_CONFIG = {"model_type": "whisper", "max_source_positions": 1500, "d_model": 8}
CONNECTOR_CONFIG = {"name": "mlp", "stack": 5}
SAMPLES_A_TOKEN = 5 * 320  # whisper makes a frame of 320 samples, the connector joins 5 frames


def make_processor(name="chatml", **more):
    tokenizer = BY_NAME[name].tokenizer()
    return AudioLLMProcessor.from_parts(tokenizer, AUDIO_CONFIG, CONNECTOR_CONFIG, RATE, **more)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def tone():
    """One second that is not the same anywhere."""
    return (0.5 * np.sin(np.arange(RATE) ** 1.3 / 50)).astype(np.float32)


@pytest.fixture(scope="module")
def clip(tone, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "tone.wav"
    soundfile.write(path, tone, RATE, subtype="FLOAT")
    return path


def question(source, words="What do you hear?", **times):
    return [{"role": "user", "content": [{"type": "audio", "audio": source, **times}, {"type": "text", "text": words}]}]


def inputs_of(processor, messages, **options):
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "return_tensors": "pt"} | options
    return processor.apply_chat_template(messages, **options)


def assert_same_batch(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])), name


def test_the_placeholder_is_the_next_id_of_a_tokenizer_and_an_existing_one_is_kept():
    tokenizer = BY_NAME["chatml"].tokenizer()
    size = len(tokenizer)
    processor = AudioLLMProcessor.from_parts(tokenizer, AUDIO_CONFIG, CONNECTOR_CONFIG, RATE)
    assert processor.audio_token_id == size
    again = AudioLLMProcessor.from_parts(tokenizer, AUDIO_CONFIG, CONNECTOR_CONFIG, RATE)
    assert again.audio_token_id == size and len(tokenizer) == size + 1


def test_a_clip_takes_as_many_placeholders_as_the_lengths_say(processor, tone):
    message = Message("user", (AudioPart(None), TextPart("Who?"), AudioPart(None)))
    ids = processor.render_prompt([message], [len(tone), 3 * SAMPLES_A_TOKEN + 1])
    assert processor.num_audio_tokens(len(tone)) == 10
    assert ids.count(processor.audio_token_id) == 10 + 4
    with pytest.raises(ValueError, match="the messages hold 2 clips, but the lengths of 1 were given"):
        processor.render_prompt([message], [len(tone)])


def test_every_way_to_give_a_clip_gives_the_same_inputs(processor, clip, tone):
    data = base64.b64encode(clip.read_bytes()).decode()
    expected = inputs_of(processor, question(str(clip)))
    assert torch.equal(expected["input_values"], torch.from_numpy(tone)[None])
    assert expected["input_values_mask"].all()
    sources = [clip, clip.read_bytes(), f"data:audio/wav;base64,{data}", tone, torch.from_numpy(tone), (tone, RATE)]
    for source in [*sources, {"array": tone, "sampling_rate": RATE}]:
        assert_same_batch(inputs_of(processor, question(source)), expected)
    for name in ("path", "url"):
        part = {"type": "audio", name: str(clip), "audio": None}
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "What do you hear?"}], "name": None}]
        assert_same_batch(inputs_of(processor, messages), expected)


def test_start_and_end_choose_a_part(processor, clip, tone):
    batch = inputs_of(processor, question(str(clip), start=0.25, end=0.75))
    assert torch.equal(batch["input_values"][0], torch.from_numpy(tone[4000:12000]))
    assert (batch["input_ids"] == processor.audio_token_id).sum() == 5


def test_sound_from_the_network_and_missing_files_are_refused(processor):
    with pytest.raises(ValueError, match=r"https://example\.org/a\.wav is not a local file"):
        inputs_of(processor, question("https://example.org/a.wav"))
    with pytest.raises(AudioError, match=r"missing\.wav"):
        inputs_of(processor, question("missing.wav"))
    with pytest.raises(AudioError):
        processor("<|audio|>", "https://example.org/a.wav")


def test_apply_chat_template_collate_prompts_and_render_give_the_same_ids(processor, clip, tone):
    words = "Say <|audio|> and <|im_end|> to me."
    messages = question(str(clip), words)
    batch = inputs_of(processor, messages)
    prompt = parse_messages(messages)
    answer = Message("assistant", (TextPart("A tone."),))
    [rendered] = processor.render([*prompt, answer], [len(tone)])
    ids = processor.render_prompt(prompt, [len(tone)])
    assert batch["input_ids"].tolist() == [ids]
    assert rendered.input_ids[: rendered.supervised.index(True)] == ids
    assert rendered.num_clips == 1
    assert_same_batch(processor.collate_prompts([(prompt, [tone])]), batch)


def test_a_batch_is_padded_on_the_left_and_its_rows_equal_the_singles(processor, clip, tone):
    asked = [question(str(clip)), [{"role": "user", "content": "Who speaks, and why?"}], question(tone[:4000], "Who?")]
    batch = inputs_of(processor, asked, padding=True)
    assert batch["input_values"].shape == (2, RATE)
    assert batch["input_values_mask"].sum(-1).tolist() == [RATE, 4000]
    assert not batch["input_values"][1, 4000:].any()
    for row, mask, messages in zip(batch["input_ids"], batch["attention_mask"], asked, strict=True):
        single = inputs_of(processor, messages)["input_ids"][0]
        assert mask.tolist() == [0] * (len(row) - len(single)) + [1] * len(single)
        assert torch.equal(row[len(row) - len(single) :], single)


def test_without_sound_there_are_no_sound_inputs(processor):
    asked = [{"role": "user", "content": "Hello?"}]
    assert set(inputs_of(processor, asked)) == {"input_ids", "attention_mask"}
    assert set(processor.collate_prompts([(parse_messages(asked), [])])) == {"input_ids", "attention_mask"}


def test_lists_come_back_without_return_tensors_and_ids_alone_without_return_dict(processor, clip):
    ids = inputs_of(processor, question(str(clip)))["input_ids"]
    assert inputs_of(processor, question(str(clip)), return_tensors=None)["input_ids"] == ids.tolist()
    assert torch.equal(inputs_of(processor, question(str(clip)), return_dict=False), ids)


def test_the_text_of_a_template_with_its_clips_is_worth_the_same_as_the_messages(processor, clip, tone):
    asked = [question(str(clip)), [{"role": "user", "content": "Who speaks?"}], question(tone[:4000], "Who?")]
    texts = processor.apply_chat_template(asked, add_generation_prompt=True)
    assert texts[0].count("<|audio|>") == 1 and texts[0].endswith("<|im_start|>assistant\n")
    batch = processor(texts, [str(clip), tone[:4000]], return_tensors="pt")
    assert_same_batch(batch, inputs_of(processor, asked))
    with pytest.raises(ValueError, match="2 audio placeholders, but 1 clips"):
        processor(texts, [str(clip)])


def test_a_finished_conversation_is_rendered_whole(processor, clip):
    messages = [*question(str(clip)), {"role": "assistant", "content": "A tone."}]
    text = processor.apply_chat_template(messages)
    assert text.endswith("<|im_start|>assistant\nA tone.<|im_end|>\n")
    assert processor.apply_chat_template(messages, chat_template="{{ messages[-1].content }}") == "A tone."


def test_saved_and_loaded_it_gives_the_same_inputs(clip, tone, tmp_path):
    processor = make_processor("qwen3_not_thinking", chat_template_kwargs={"enable_thinking": False})
    processor.render_prompt(parse_messages("Hello?"), [])  # what it has learned about its template is not saved
    processor.save_pretrained(tmp_path)
    messages = question(str(clip), "Say <|audio|>.")
    for loaded in (AudioLLMProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, AudioLLMProcessor)
        assert loaded.audio_token_id == processor.audio_token_id
        assert loaded.sampling_rate == RATE
        assert loaded.chat_template_kwargs == {"enable_thinking": False}
        assert (loaded.audio_config, loaded.connector_config) == (AUDIO_CONFIG, CONNECTOR_CONFIG)
        assert_same_batch(inputs_of(loaded, messages), inputs_of(processor, messages))
        prompt = parse_messages(messages)
        assert loaded.render_prompt(prompt, [len(tone)]) == processor.render_prompt(prompt, [len(tone)])


def test_settings_of_the_template_are_kept_and_a_call_overrides_them():
    processor = make_processor("qwen3_not_thinking", chat_template_kwargs={"enable_thinking": False})
    end = processor.decode(processor.render_prompt(parse_messages("Hello?"), []))
    assert end.endswith("<think>\n\n</think>\n\n")
    thinking = processor.render_prompt(parse_messages("Hello?"), [], enable_thinking=True)
    assert processor.decode(thinking).endswith("<|im_start|>assistant\n")
    text = processor.apply_chat_template(question("a.wav"), add_generation_prompt=True, enable_thinking=True)
    assert text.endswith("<|im_start|>assistant\n")


def test_a_setting_that_the_template_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"chat_template_kwargs\.enable_thinkng is not a setting"):
        make_processor("qwen3_thinking", chat_template_kwargs={"enable_thinkng": False})


def test_without_a_chat_template_it_says_what_to_do():
    tokenizer = BY_NAME["chatml"].make_tokenizer()
    processor = AudioLLMProcessor.from_parts(tokenizer, AUDIO_CONFIG, CONNECTOR_CONFIG, RATE)
    with pytest.raises(ValueError, match="has no chat template; take the instruct version"):
        processor.render_prompt(parse_messages("Hello?"), [])


@pytest.mark.parametrize(
    "name, ends", [("llama2", ["</s>"]), ("gemma", ["<eos>", "<end_of_turn>"]), ("vicuna", ["</s>"])]
)
def test_an_answer_stops_at_the_end_of_turn_and_at_the_end_of_sequence(name, ends):
    processor = make_processor(name)
    assert processor.tokenizer.convert_ids_to_tokens(processor.stop_token_ids) == ends
    for end in processor.stop_token_ids:
        words = processor.tokenizer("A dog barks.", add_special_tokens=False)["input_ids"]
        assert processor.decode_answer([*words, end, *words]) == "A dog barks."
        assert processor.decode_answer(torch.tensor(words)) == "A dog barks."


def test_the_feature_extractor_refuses_what_it_would_spoil(tone):
    extractor = AudioLLMFeatureExtractor(sampling_rate=RATE)
    with pytest.raises(ValueError, match="8000 Hz; this model listens at 16000 Hz"):
        extractor([tone], sampling_rate=8000)
    with pytest.raises(ValueError, match="without samples"):
        extractor([tone, tone[:0]])


def test_a_tokenizer_without_padding_still_makes_batches(tone):
    tokenizer: PreTrainedTokenizerFast = BY_NAME["vicuna"].tokenizer()
    assert tokenizer.pad_token_id is None
    processor = AudioLLMProcessor.from_parts(tokenizer, AUDIO_CONFIG, CONNECTOR_CONFIG, RATE)
    batch = processor.collate_prompts([(parse_messages("Who?"), []), (parse_messages("Who speaks?"), [])])
    assert batch["attention_mask"].sum(-1).tolist() != [batch["input_ids"].shape[1]] * 2

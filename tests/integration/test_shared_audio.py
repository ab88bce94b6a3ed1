"""Questions that share their audio cost nothing in exactness: loss and gradients are those of separate padded rows.

The oracle knows nothing of packing: each row is rendered, padded on the right with a plain `attention_mask`, has the
library's usual `labels`, and hears its clips by itself.
"""

import pytest
import torch
import torch.nn.functional as F
from bitsandbytes.nn import Linear4bit
from tiny import LLMS, RATE, WIDE, tiny, tones

from audiollm.conversation import AudioPart, Message, Row, TextPart
from audiollm.data.collate import Collator, pad_waveforms
from audiollm.data.dataset import Recordings
from audiollm.models import attention as attention_module
from audiollm.models import chunked_loss
from audiollm.models.attention import prefer_blocks
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.freezing import add_lora, part_of, select_trainable
from audiollm.models.modeling import IGNORE_INDEX
from audiollm.models.quantize import quantize_linears

CLIPS = [AudioPart((samples, RATE)) for samples in tones(4, seconds=(0.15, 1.4))]


def row(question, answer, *clips, **fields):
    """One question to some clips, and its answer."""
    asked = Message("user", (*clips, TextPart(question)))
    return Row((asked, Message("assistant", (TextPart(answer),))), **fields)


def conversation(*turns, **fields):
    """Turns of (text or clips, answer)."""
    messages = []
    for parts, answer in turns:
        content = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
        messages += [Message("user", content), Message("assistant", (TextPart(answer),))]
    return Row(tuple(messages), **fields)


QUESTIONS = [
    row("what do you hear?", "a dog barks, then a bell rings twice.", CLIPS[0]),
    row("is there a bell?", "yes", CLIPS[0]),
    row("is there a dog or a bell in it? which comes first?", "a dog", CLIPS[0]),
    row("what do you hear?", "a high one", CLIPS[1]),
    row("which comes first?", "the low one", CLIPS[1]),
]
CAPTIONS = [
    row("describe this sound", words, CLIPS[2]) for words in ("a dog", "a dog barks", "a bell", "a dog", "rings")
]
TEXT_ONLY = [row("what comes first?", "a dog"), row("what comes first?", "no"), row("two?", "three", source_id="words")]
SEVERAL = [
    row("which comes first, the high or the low one?", "the high one", CLIPS[0], CLIPS[3]),
    row("are they the same?", "no", CLIPS[0], CLIPS[3]),
    row("which comes first, the high or the low one?", "none of them", CLIPS[3], CLIPS[0]),
]
TURNS = [
    conversation(((CLIPS[1], "what do you hear?"), "a bell"), (("is there a dog?",), "no")),
    conversation(((CLIPS[1], "what do you hear?"), "a bell"), ((CLIPS[2], "and now?"), "a dog barks")),
    conversation(((CLIPS[1], "what do you hear?"), "a bell"), ((CLIPS[2], "and now?"), "a bell again")),
]
SYSTEM = [Row((Message("system", (TextPart("answer in a word"),)), *one.messages)) for one in QUESTIONS[:2]]
EVERYTHING = [*QUESTIONS, *CAPTIONS, *TEXT_ONLY, *SEVERAL, *SYSTEM]


def packed_batch(built, rows, *, pack_tokens, supervise="last"):
    """The rows as training reads them."""
    recordings = Recordings(rows, built.processor, supervise=supervise)
    examples = [recordings[0, number] for number in range(len(recordings))]
    return Collator(0, pack_tokens=pack_tokens)(examples), recordings


def separate_batch(built, rows, supervise="last"):
    """The oracle's batch: a row for each conversation, padded on the right."""
    rendered, waves = [], []
    for one in rows:
        heard = [clip.load(RATE) for clip in one.clips]
        sequences = built.processor.render(one.messages, [len(wave) for wave in heard], supervise=supervise)
        rendered += sequences
        waves += [wave for sequence in sequences for wave in heard[: sequence.num_clips]]
    longest = max(len(one.input_ids) for one in rendered)
    ids, mask, labels = (torch.zeros(len(rendered), longest, dtype=torch.long) for _ in range(3))
    labels += IGNORE_INDEX
    for number, one in enumerate(rendered):
        length = len(one.input_ids)
        ids[number, :length] = torch.tensor(one.input_ids)
        mask[number, :length] = 1
        labels[number, :length] = torch.where(torch.tensor(one.supervised), torch.tensor(one.input_ids), IGNORE_INDEX)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, **pad_waveforms(waves)}


def loss_and_gradients(model, batch, num_items):
    model.zero_grad()
    loss = model(**batch, num_items_in_batch=num_items).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def in_double(built):
    """Put the model into float64 if its code takes it, and tell what rounding may then come to in a gradient.

    Norms and rotations compute in float32 all the same. An eager softmax does too, where the mask of float64 is
    infinite; products of experts and of four and eight bits know no float64.
    """
    language_model = built.model.model.language_model
    quantized = any(not parameter.is_floating_point() for parameter in language_model.parameters())
    experts = any(name.endswith("experts") for name, _ in language_model.named_modules())
    if quantized or experts or language_model.config._attn_implementation == "eager":
        return 2e-5
    built.model.double()
    return 2e-6


def assert_as_separate_rows(built, rows, *, pack_tokens=200, supervise="last"):
    """Loss and every gradient, to rounding relative to the largest gradient of its tensor."""
    rounding = min(in_double(built), 1e-5)
    packed, recordings = packed_batch(built, rows, pack_tokens=pack_tokens, supervise=supervise)
    separate = separate_batch(built, rows, supervise)
    num_items = int((separate["labels"] != IGNORE_INDEX).sum())
    assert num_items == int((packed["shift_labels"] != IGNORE_INDEX).sum())
    batch = {name: value for name, value in packed.items() if name not in ("row_ids", "problems")}
    ours, our_gradients = loss_and_gradients(built.model, batch, num_items)
    theirs, their_gradients = loss_and_gradients(built.model, separate, num_items)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        scale = float(their_gradients[name].abs().max())
        torch.testing.assert_close(gradient, their_gradients[name], rtol=0, atol=rounding * max(scale, 1e-3), msg=name)
    return packed, recordings


def ready(llm="qwen3", attention="blocks", parts=("encoder", "connector", "llm"), quantize=None, **changes):
    """A model with these parts set to train; without dropout both ways are the same function.

    A quantised one computes in float32, so that rounding is the same as elsewhere; its weights are what they are.
    """
    built = tiny(llm, **((WIDE if quantize else {}) | changes))
    if quantize:
        quantize_linears(built.model.model.language_model, quantize)
        for module in built.model.model.language_model.modules():
            if isinstance(module, Linear4bit):
                module.compute_dtype = torch.float32
    if "lora" in parts:
        add_lora(built.model, r=2, alpha=4)
        for name, parameter in built.model.named_parameters():
            if part_of(name) == "lora":
                parameter.data.normal_(0, 0.2)
    built.model.set_attn_implementation("sdpa" if attention == "blocks" else attention)
    if attention == "blocks":
        assert prefer_blocks(built.model.model.language_model)
    select_trainable(built.model, parts)
    built.model.train()
    return built


WAYS = [(llm, way) for llm in LLMS for way in ("blocks", "sdpa", "eager") if llm != "gemma2" or way == "eager"]
"""Gemma2 caps its scores, which sdpa does not."""


@pytest.mark.parametrize(("llm", "attention"), WAYS)
def test_packed_questions_have_the_loss_and_gradients_of_separate_rows(llm, attention):
    packed, _ = assert_as_separate_rows(ready(llm, attention), QUESTIONS)
    assert len(packed["input_values"]) == 2  # each clip is heard once
    if llm.endswith("window") or llm.startswith("gemma"):  # the window is shorter than the rows, so that it matters
        assert LLMS[llm]["sliding_window"] < int(packed["position_ids"].max())


@pytest.mark.parametrize(("llm", "attention"), [(llm, way) for llm, way in WAYS if way != "sdpa"])
def test_several_clips_a_row_and_several_turns_are_exact(llm, attention):
    assert_as_separate_rows(ready(llm, attention), [*SEVERAL, *TURNS])


def test_a_cap_on_scores_is_refused_by_blocks_and_not_dropped():
    """What the library hands to any attention function of Gemma2."""
    query = torch.randn(1, 2, 5, 16)
    with pytest.raises(ValueError, match="Linear has softcap, which sdpa has not; use attn_implementation='eager'"):
        attention_module.block_attention(torch.nn.Linear(1, 1), query, query, query, None, softcap=2.0)


@pytest.mark.parametrize("llm", [llm for llm in LLMS if llm != "gemma2"])
def test_long_blocks_whose_trunk_is_attended_by_itself_are_exact(llm, monkeypatch):
    monkeypatch.setattr(attention_module, "WORTH_TWO_CALLS", 1)
    assert_as_separate_rows(ready(llm), EVERYTHING, pack_tokens=2000)


def test_a_language_model_that_does_not_hand_on_the_clips_is_refused_and_not_wrong():
    built = ready()
    packed, _ = packed_batch(built, QUESTIONS, pack_tokens=200)
    attention = built.model.model.language_model.layers[0].self_attn
    forward = attention.forward
    attention.forward = lambda *args, clips, **kwargs: forward(*args, **kwargs)
    with pytest.raises(ValueError, match="Qwen3Attention does not hand on `clips`; use attn_implementation='eager'"):
        built.model(**{name: value for name, value in packed.items() if name not in ("row_ids", "problems")})


def test_without_packed_clips_blocks_are_sdpa(tmp_path):
    """Generation after training goes on with the same model; a checkpoint does not know of it."""
    built, other = ready(), ready(attention="sdpa")
    for model in (built.model, other.model):
        model.eval()
    inputs = separate_batch(built, QUESTIONS)
    inputs.pop("labels")
    assert torch.equal(built.model(**inputs).logits, other.model(**inputs).logits)
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    assert "blocks" not in (tmp_path / "saved" / "config.json").read_text()


def test_a_trunk_with_the_question_in_it_is_exact():
    packed, _ = assert_as_separate_rows(ready(), CAPTIONS)
    trunk = int((packed["branch_ids"][0] == 0).sum())
    audio = int((packed["input_ids"][0] == ready().processor.audio_token_id).sum())
    assert trunk > audio + 3 and int(packed["branch_ids"].max()) == len(CAPTIONS)


def test_text_only_rows_are_exact():
    assert_as_separate_rows(ready(parts=("llm",)), TEXT_ONLY)


def test_several_clips_a_row_are_exact():
    packed, recordings = assert_as_separate_rows(ready(), SEVERAL)
    assert len(recordings) == 2 and len(packed["input_values"]) == 4


@pytest.mark.parametrize("pack_tokens", [None, 60, 150, 2000])
@pytest.mark.parametrize("llm", ["qwen3", "qwen2_window"])
def test_any_packing_of_all_kinds_of_rows_is_exact(llm, pack_tokens):
    packed, _ = assert_as_separate_rows(ready(llm), EVERYTHING, pack_tokens=pack_tokens)
    if pack_tokens == 2000:
        assert packed["input_ids"].shape[0] == 1 and int(packed["clip_ids"].max()) > 4


@pytest.mark.parametrize("supervise", ["last", "all"])
def test_conversations_of_several_turns_are_exact(supervise):
    assert_as_separate_rows(ready(), TURNS, supervise=supervise)


@pytest.mark.parametrize("attention", ["blocks", "sdpa", "eager"])
def test_adapters_are_trained_exactly(attention):
    assert_as_separate_rows(ready("qwen2", attention, parts=("connector", "lora")), EVERYTHING)


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
@pytest.mark.parametrize("attention", ["blocks", "eager"])
def test_adapters_on_a_quantised_language_model_are_trained_exactly(attention, quantize):
    assert_as_separate_rows(ready("qwen2", attention, ("connector", "lora"), quantize), EVERYTHING, pack_tokens=2000)


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_recomputed_activations_of_a_quantised_language_model_are_exact(quantize):
    built = ready("qwen2", parts=("connector", "lora"), quantize=quantize)
    built.model.activation_checkpointing_enable()
    assert_as_separate_rows(built, QUESTIONS, pack_tokens=60)


def test_recomputed_activations_are_exact():
    built = ready()
    built.model.activation_checkpointing_enable()
    assert_as_separate_rows(built, QUESTIONS)


def test_micro_batches_add_up_to_the_whole_batch():
    built = ready()
    whole, recordings = packed_batch(built, EVERYTHING, pack_tokens=150)
    num_items = int((whole["shift_labels"] != IGNORE_INDEX).sum())
    batches = [Collator(0)([recordings[0, number]]) for number in range(len(recordings))]
    total, gradients = 0.0, {}
    for batch in [whole, *batches]:
        batch = {name: value for name, value in batch.items() if name not in ("row_ids", "problems")}
        loss, found = loss_and_gradients(built.model, batch, num_items)
        if not gradients:
            expected, expected_gradients = loss, found
            gradients = {name: torch.zeros_like(gradient) for name, gradient in found.items()}
            continue
        total += loss
        for name, gradient in found.items():
            gradients[name] += gradient
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)
    for name, gradient in expected_gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=2e-5 * max(scale, 1e-3), msg=name)


def test_the_loss_is_that_of_transformers_own_language_model():
    built = ready("llama", parts=("llm",))
    batch = separate_batch(built, TEXT_ONLY)
    hidden = built.model.model.language_model(batch["input_ids"], attention_mask=batch["attention_mask"])
    logits = built.model.lm_head(hidden.last_hidden_state)[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(built.model(**batch).loss, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("llm", ["qwen3", "gemma3"])
@pytest.mark.parametrize("parts", [("connector", "lora"), ("connector", "llm")], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_in_chunks_is_the_loss_at_once(llm, parts, tied, monkeypatch):
    built = ready(llm, parts=parts, tie_word_embeddings=tied)
    packed, _ = packed_batch(built, EVERYTHING, pack_tokens=2000)
    batch = {name: value for name, value in packed.items() if name not in ("row_ids", "problems")}
    at_once, gradients = loss_and_gradients(built.model, batch, 50)
    calls = []
    project = type(built.model).project
    monkeypatch.setattr(type(built.model), "project", lambda model, x: (calls.append(len(x)), project(model, x))[1])
    monkeypatch.setattr(chunked_loss, "CHUNK_VALUES", 7 * built.model.config.text_config.vocab_size)
    in_chunks, ours = loss_and_gradients(built.model, batch, 50)
    assert max(calls) == 7 and len(calls) > 5
    torch.testing.assert_close(in_chunks, at_once, rtol=1e-6, atol=0)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-5 * max(scale, 1e-3), msg=name)

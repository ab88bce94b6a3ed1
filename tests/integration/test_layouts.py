"""Questions of language models and attentions that know no trunks and branches, and flex attention, which does.

The oracle is each row alone, without padding; where only the mask differs, dense eager attention.
"""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from test_shared_audio import (
    EVERYTHING,
    QUESTIONS,
    SEVERAL,
    TURNS,
    assert_as_separate_rows,
    in_double,
    loss_and_gradients,
    packed_batch,
    ready,
    separate_batch,
)
from tiny import LLMS, RECURRENT, tiny
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from audiollm.data.collate import Collator
from audiollm.data.dataset import Recordings
from audiollm.models.attention import BLOCKS, branch_mask, layout_of, prefer_blocks, visible, who_sees
from audiollm.models.freezing import select_trainable
from audiollm.models.modeling import IGNORE_INDEX
from audiollm.training.kernels import prepare_attention

FLASH = "flash_attention_stand_in"


def plain_batch(built, rows):
    """The rows as training reads them where questions cannot share their audio, and how they lie."""
    layout = layout_of(built.model.model.language_model)
    recordings = Recordings(rows, built.processor, share_audio=False)
    batch = Collator(0, layout=layout)([recordings[0, number] for number in range(len(recordings))])
    return {name: value for name, value in batch.items() if name not in ("row_ids", "problems", "num_samples")}, layout


def assert_as_rows_alone(built, batch, rows):
    """Loss and every gradient are the sums over each row by itself, to rounding."""
    rounding = in_double(built)
    num_items = int((batch["shift_labels"] != IGNORE_INDEX).sum())
    ours, our_gradients = loss_and_gradients(built.model, batch, num_items)
    total, gradients = torch.zeros(()), {}
    for one in rows:
        loss, found = loss_and_gradients(built.model, separate_batch(built, [one]), num_items)
        total = total + loss
        gradients = {name: gradients.get(name, 0) + gradient for name, gradient in found.items()}
    torch.testing.assert_close(ours, total, rtol=1e-5, atol=0)
    assert our_gradients.keys() == gradients.keys()
    for name, gradient in our_gradients.items():
        scale = float(gradients[name].abs().max())
        torch.testing.assert_close(gradient, gradients[name], rtol=0, atol=rounding * max(scale, 1e-3), msg=name)


# --------------------------------------------------------------------------------------- models that take no such mask


@pytest.mark.parametrize("llm", RECURRENT)
def test_questions_of_a_model_that_takes_no_mask_are_rows_with_the_loss_and_gradients_of_each_alone(llm):
    built = tiny(llm)
    prepare_attention(built.model.model.language_model, None)
    select_trainable(built.model, ["encoder", "connector", "llm"])
    built.model.train()
    batch, layout = plain_batch(built, [*QUESTIONS, *SEVERAL])
    assert layout == "rows" and batch["input_ids"].shape[0] == len([*QUESTIONS, *SEVERAL])
    assert_as_rows_alone(built, batch, [*QUESTIONS, *SEVERAL])


@pytest.mark.parametrize("llm", [*LLMS, *RECURRENT])
def test_a_model_that_takes_no_mask_is_named_once_and_no_other_is(llm, capsys):
    language_model = tiny(llm).model.model.language_model
    prepare_attention(language_model, None)
    told = capsys.readouterr().out.splitlines()
    if llm in LLMS:
        assert told == [] and layout_of(language_model) == "branches"
    else:
        assert len(told) == 1 and f"of type {language_model.config.model_type}, and it mixes tokens" in told[0]
        assert language_model.config._attn_implementation != BLOCKS


def test_an_attention_that_the_model_has_not_is_told_in_a_sentence():
    with pytest.raises(ValueError, match=r"model\.attn_implementation=flush is not to be had here"):
        prepare_attention(tiny().model.model.language_model, "flush")
    with pytest.raises(
        ValueError, match=r"model\.attn_implementation=sdpa is not to be had here: Gemma2Model does not"
    ):
        prepare_attention(tiny("gemma2").model.model.language_model, "sdpa")


# ------------------------------------------------------------------------------------------------------ flash attention


@pytest.fixture
def flash():
    """A stand-in under flash attention's name: it checks what the library's function would be handed."""
    calls = []

    def attend(module, query, key, value, mask, *, scaling, sliding_window=None, **kwargs):
        assert mask is None and kwargs["cu_seq_lens_q"].dtype == kwargs["cu_seq_lens_k"].dtype == torch.int32
        assert type(kwargs["max_length_q"]) is type(kwargs["max_length_k"]) is int
        ends = kwargs["cu_seq_lens_q"].tolist()
        assert kwargs["max_length_q"] == max(b - a for a, b in pairwise(ends))
        calls.append(ends)
        key, value = (repeat_kv(part, query.shape[1] // part.shape[1]) for part in (key, value))
        heard = []
        for start, stop in pairwise(ends):
            part = (x[:, :, start:stop] for x in (query, key, value))
            see = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
            see = see & ~see.tril(-sliding_window) if sliding_window else see
            heard.append(F.scaled_dot_product_attention(*part, attn_mask=see, scale=scaling))
        return torch.cat(heard, dim=2).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register(FLASH, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(FLASH, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    yield calls
    for table in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        del type(table)._global_mapping[FLASH]


@pytest.mark.parametrize("llm", ["qwen3", "mistral_window", "qwen2_window"])
def test_under_flash_attention_questions_stand_one_after_another_told_apart_by_lengths(llm, flash, capsys):
    built = ready(llm, "sdpa")
    config = built.model.model.language_model.config
    config._attn_implementation = FLASH
    prepare_attention(built.model.model.language_model, None)
    assert "flash attention knows no mask" in capsys.readouterr().out
    batch, layout = plain_batch(built, QUESTIONS)
    assert layout == "varlen" and batch["input_ids"].shape[0] == 1
    num_items = int((batch["shift_labels"] != IGNORE_INDEX).sum())
    ours, gradients = loss_and_gradients(built.model, batch, num_items)
    assert len(flash) == LLMS[llm].get("num_hidden_layers", 2) and len(flash[0]) == len(QUESTIONS) + 1
    config._attn_implementation = "sdpa"
    theirs, expected = loss_and_gradients(built.model, separate_batch(built, QUESTIONS), num_items)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * max(scale, 1e-3), msg=name)


# ------------------------------------------------------------------------------------------------------- flex attention


def dense(mask):
    """A block mask's own function at every pair of places [B, S, S]."""
    B, _, S, _ = mask.shape
    grid = torch.meshgrid(torch.arange(B), torch.arange(S), torch.arange(S), indexing="ij")
    return mask.mask_mod(grid[0], 0, grid[1], grid[2])


@pytest.mark.parametrize("window", [None, 9])
def test_the_block_mask_holds_the_rule_also_for_several_rows_and_padding(window):
    built = ready("mistral", "sdpa", sliding_window=window)
    packed, _ = packed_batch(built, EVERYTHING, pack_tokens=150)
    place = [packed[name] for name in ("clip_ids", "branch_ids", "position_ids")]
    config = built.model.model.language_model.config
    assert len(place[0]) > 1 and (place[0] == -1).any()
    expected = branch_mask(config, *place, torch.float32)[:, 0]
    config._attn_implementation = "flex_attention"
    found = branch_mask(config, *place, torch.float32)
    assert torch.equal(dense(found), expected) and torch.equal(visible(*place, window), expected)
    sees = who_sees(*place, window)
    assert sees(torch.tensor(0), 0, torch.tensor(3), torch.tensor(3))


@pytest.mark.parametrize("llm", ["qwen3", "mistral_window", "qwen2_window", "gemma2", "gemma3", "granite"])
def test_flex_attention_has_the_loss_of_eager_attention(llm):
    losses = {}
    for attention in ("eager", "flex_attention"):
        built = ready(llm, "eager")
        prepare_attention(built.model.model.language_model, attention)
        built.model.eval()
        packed, _ = packed_batch(built, EVERYTHING, pack_tokens=300)
        batch = {name: value for name, value in packed.items() if name not in ("row_ids", "problems")}
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            losses[attention] = built.model(**batch).loss
    torch.testing.assert_close(losses["flex_attention"], losses["eager"], rtol=1e-5, atol=0)


def test_flex_attention_is_not_trained_on_the_cpu_where_torch_has_no_backward_pass():
    built = ready(attention="sdpa")
    prepare_attention(built.model.model.language_model, "flex_attention")
    packed, _ = packed_batch(built, QUESTIONS, pack_tokens=200)
    with pytest.raises(ValueError, match="flex attention trains on a GPU alone; leave `attn_implementation` out"):
        built.model(**{name: value for name, value in packed.items() if name not in ("row_ids", "problems")})


@pytest.mark.gpu
@pytest.mark.parametrize("llm", ["qwen3", "mistral_window", "qwen2_window"])
def test_on_a_gpu_flex_attention_has_the_gradients_of_blocks(llm):
    torch.set_float32_matmul_precision("highest")
    built = ready(llm)
    built.model.cuda()
    packed, _ = packed_batch(built, EVERYTHING, pack_tokens=2000)
    batch = {name: value.cuda() for name, value in packed.items() if isinstance(value, torch.Tensor)}
    assert built.model.model.language_model.config._attn_implementation == BLOCKS
    theirs, expected = loss_and_gradients(built.model, batch, 50)
    prepare_attention(built.model.model.language_model, "flex_attention")
    ours, gradients = loss_and_gradients(built.model, batch, 50)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    for name, gradient in gradients.items():  # the kernel's float32 products are not those of cuBLAS
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-3 * max(scale, 1e-3), msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("attention", [None, "flex_attention", "eager"])
def test_on_a_gpu_packed_questions_are_separate_rows_in_bfloat16(attention):
    built = ready(attention="sdpa")
    prepare_attention(built.model.model.language_model, attention)
    built.model.to("cuda", torch.bfloat16)
    packed, _ = packed_batch(built, [*EVERYTHING, *TURNS], pack_tokens=2000)
    separate = separate_batch(built, [*EVERYTHING, *TURNS])
    losses = []
    for batch in (packed, separate):
        tensors = {name: value.cuda() for name, value in batch.items() if isinstance(value, torch.Tensor)}
        losses.append(built.model(**tensors).loss)
    losses[0].backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=0.03, atol=0)  # weights of 0.3 in eight bits of mantissa


def test_prefer_blocks_leaves_an_attention_that_was_asked_for():
    for attention in ("eager", "flex_attention"):
        language_model = tiny().model.model.language_model
        prepare_attention(language_model, attention)
        assert not prefer_blocks(language_model) and language_model.config._attn_implementation == attention


def test_rows_that_share_nothing_are_exact_in_every_layout_of_one_model():
    built = ready("qwen3")
    assert_as_separate_rows(built, QUESTIONS)
    recordings = Recordings(QUESTIONS, built.processor, share_audio=False)
    batch = Collator(0, layout="rows")([recordings[0, number] for number in range(len(recordings))])
    names = ("row_ids", "problems", "num_samples")
    assert_as_rows_alone(built, {name: value for name, value in batch.items() if name not in names}, QUESTIONS)

"""Audio language models of transformers' own: prompts, loss, parts, checkpoints and answers by the contract of ours.

The oracle is the library: its processors, its forward, its generate, plain PEFT.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from natives import KINDS, ON_DISK, VOXTRAL, native, processor_of, save, whole, words
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from tiny import RATE, tone, tones, write_tones

from audiollm.conversation import AudioPart, Message, Row, TextPart, row_to_dict
from audiollm.data.collate import Collator
from audiollm.data.dataset import Recordings
from audiollm.inference import Listener, load
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.chunked_loss import IGNORE_INDEX
from audiollm.models.configuration import PARTS
from audiollm.models.freezing import add_lora, part_of, select_trainable
from audiollm.models.native import loading
from audiollm.models.native.loading import load_native
from audiollm.models.native.processing import OF_TEXT, TOKENS, NativeProcessor
from audiollm.models.native.table import NATIVES, support_table
from audiollm.recipe import load_recipe
from audiollm.training import run_recipe
from audiollm.training.kernels import prepare_attention
from audiollm.training.rehearsal import dry_run

CLIPS = tones(4, seconds=(0.2, 0.9))
SYSTEM = "answer in a word"


@pytest.fixture(autouse=True)
def short_windows(monkeypatch):
    """Voxtral's windows hold two seconds instead of thirty."""
    monkeypatch.setattr(transformers.VoxtralProcessor, "audio_kwargs", VOXTRAL)


@pytest.fixture(scope="module")
def models():
    """Each kind once, built when first asked for; tests do not change what they hold."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = native(kind)
        return made[kind]

    return get


def row(question, answer, *clips):
    """A question to some clips, and its answer."""
    parts = [AudioPart((clip, RATE)) for clip in clips]
    return Row((Message("user", (*parts, TextPart(question))), Message("assistant", (TextPart(answer),))))


ROWS = [
    row("what do you hear?", "a dog barks, then a bell rings twice.", CLIPS[0]),
    row("is there a bell?", "yes", CLIPS[0]),
    row("which comes first?", "the low one", CLIPS[1]),
    row("what comes first?", "a dog"),
]


def batch_of(built, rows, *, share=False):
    """The rows as training reads them."""
    recordings = Recordings(rows, built.processor, share_audio=share)
    examples = [recordings[0, number] for number in range(len(recordings))]
    layout = "branches" if share else "rows"
    batch = Collator(0, layout=layout, pack_tokens=10_000, hear=built.processor.features)(examples)
    names = ("input_ids", "attention_mask", "position_ids", "branch_ids", "clip_ids", "shift_labels", "features")
    return {name: batch[name] for name in names if name in batch}


def num_supervised(batch):
    return int((batch["shift_labels"] != IGNORE_INDEX).sum())


def loss_and_gradients(model, batch, num_items):
    model.zero_grad()
    loss = model(**batch, num_items_in_batch=num_items).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_near(found, expected, rounding=1e-3):
    """Loss and gradients, relative to the largest gradient of each tensor: float32, through weights that are wide."""
    assert found[0] == pytest.approx(float(expected[0]), rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        scale = max(float(gradient.abs().max()), 1e-2 * largest)
        assert float((found[1][name] - gradient).abs().max()) <= rounding * scale, name


# ------------------------------------------------------------------------------------------------------------ prompts


def own_inputs(kind, processor, question, clip):
    """What the model's own processor makes of a question to a clip."""
    content = [{"type": "audio"}, {"type": "text", "text": question}]
    if kind.startswith("granite"):  # whose templates take text alone
        content = processor.audio_token + question
    asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
    text = processor.tokenizer.apply_chat_template(
        asked, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    return processor(text=[text], audio=[clip], return_tensors="pt", audio_kwargs={"sampling_rate": RATE})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "voxtral"])
def test_a_prompt_and_its_features_are_those_of_the_models_own_processor(models, kind):
    processor = models(kind).processor
    asked = (Message("system", (TextPart(SYSTEM),)), *ROWS[0].prompt)
    found = processor.collate_prompts([(asked, [CLIPS[0]])])
    expected = own_inputs(kind, processor.native, "what do you hear?", CLIPS[0])
    assert found["input_ids"].tolist() == torch.as_tensor(expected["input_ids"]).tolist()
    [features] = found["features"]
    assert int(features.pop(TOKENS)) == found["input_ids"].eq(processor.audio_token_id).sum()
    assert features.keys() == expected.keys() - OF_TEXT
    for name, tensor in features.items():
        assert torch.equal(tensor, torch.as_tensor(expected[name])), name


def test_voxtral_is_asked_as_mistral_does(models):
    processor = models("voxtral").processor
    ids = processor.render_prompt((Message("system", (TextPart(SYSTEM),)), *ROWS[0].prompt), [len(CLIPS[0])])
    text = processor.tokenizer.decode([token for token in ids if token != processor.audio_token_id])
    assert ids.count(processor.audio_token_id) == 25  # 375 in thirty seconds
    assert text == f"<s>[SYSTEM_PROMPT] {SYSTEM}[/SYSTEM_PROMPT][INST][BEGIN_AUDIO] what do you hear?[/INST]"


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_answer_and_its_end_are_learned_and_typed_control_tokens_stay_letters(models, kind):
    processor = models(kind).processor
    typed = row(f"is {processor.audio_token} a sound?", "a dog barks", CLIPS[1])
    [rendered] = processor.render(typed.messages, [len(CLIPS[1])])
    learned = [token for token, yes in zip(rendered.input_ids, rendered.supervised, strict=True) if yes]
    assert processor.decode_answer(learned) == "a dog barks"
    assert learned[-1] in processor.stop_token_ids and not any(
        token in processor.stop_token_ids for token in learned[:-1]
    )
    assert rendered.input_ids.count(processor.audio_token_id) == processor.num_audio_tokens(len(CLIPS[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_of_a_clip_is_what_its_features_take(models, kind):
    processor = models(kind).processor
    for samples in (1600, 16_000, 4321, 12_345, 12_344, 12_346, 9_000):
        [features] = processor.features([np.zeros(samples, np.float32)])["features"]
        assert processor.num_audio_tokens(samples) == int(features[TOKENS])


# ----------------------------------------------------------------------------------------------- the model and its loss


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_models_own(models, kind):
    built = models(kind)
    found = built.processor.collate_prompts([(ROWS[0].prompt, [CLIPS[0]])])
    [features] = found["features"]
    flat = {name: tensor for name, tensor in features.items() if name != TOKENS}
    with torch.no_grad():
        ours = built.model(found["input_ids"], found["features"], found["attention_mask"]).logits
        own = built.model.native(input_ids=found["input_ids"], attention_mask=found["attention_mask"], **flat).logits
    assert torch.allclose(ours, own, atol=1e-5)
    silent = built.model(found["input_ids"], built.processor.features([CLIPS[0] * 0])["features"]).logits
    assert not torch.allclose(ours, silent, atol=1e-5)  # it hears


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_neighbours(kind):
    """In float64, where the library's code takes it: an encoder that hears a little of the padding is told by it."""
    built, rounding = native(kind), 5e-5
    if kind not in ("gemma4", "qwen3_omni_moe_thinker"):
        built.model.double()
        rounding = 1e-10
    together = batch_of(built, ROWS)
    labels = together.pop("shift_labels")
    with torch.no_grad():
        logits = built.model(**together).logits
        for number, one in enumerate(ROWS):
            alone = batch_of(built, [one])
            expected = built.model(**{name: alone[name] for name in alone if name != "shift_labels"}).logits[0]
            assert torch.equal(labels[number, : len(expected)], alone["shift_labels"][0])
            difference = (logits[number, : len(expected)] - expected).abs().max()
            assert difference <= rounding * logits.abs().max(), number


@pytest.mark.parametrize("kind", KINDS)
def test_accumulating_row_by_row_equals_all_rows_at_once(models, kind):
    model = models(kind).model
    select_trainable(model, ["connector", "llm"])
    whole = batch_of(models(kind), ROWS)
    num_items = num_supervised(whole)
    expected = loss_and_gradients(model, whole, num_items)
    model.zero_grad()
    total = torch.zeros(())
    for one in ROWS:
        loss = model(**batch_of(models(kind), [one]), num_items_in_batch=num_items).loss
        loss.backward()
        total += loss.detach()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert_near((total, found), expected)


@pytest.mark.parametrize("kind", ["qwen2_audio", "granite_speech"])
def test_the_librarys_own_loss_grows_with_accumulation_and_ours_does_not(models, kind):
    """Qwen2-Audio and Granite Speech take the mean of each micro-batch, whatever the step holds."""
    built = models(kind)
    rows = [ROWS[0]] * 4
    num_items = num_supervised(batch_of(built, rows))
    with torch.no_grad():
        whole = float(built.model(**batch_of(built, rows), num_items_in_batch=num_items).loss)
        ours = theirs = 0.0
        for one in rows:
            batch = batch_of(built, [one])
            ours += float(built.model(**batch, num_items_in_batch=num_items).loss)
            labels = torch.nn.functional.pad(batch["shift_labels"], (1, 0), value=IGNORE_INDEX)[:, :-1]
            flat = {name: tensor for name, tensor in batch["features"][0].items() if name != TOKENS}
            theirs += float(
                built.model.native(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels,
                    num_items_in_batch=num_items, **flat,
                ).loss
            )  # fmt: skip
    assert ours == pytest.approx(whole, rel=1e-5)
    assert theirs == pytest.approx(4 * whole, rel=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if NATIVES[kind].shares_audio])
def test_questions_that_share_their_clip_learn_as_separate_rows_do(kind):
    built = native(kind)
    model = built.model
    prepare_attention(model.model.language_model, None, shares_audio=model.shares_audio)
    assert model.layout == "branches"
    select_trainable(model, ["connector", "llm"])
    separate, shared = batch_of(built, ROWS), batch_of(built, ROWS, share=True)
    assert len(shared["features"]) == 2 < len(separate["features"]) == 3
    num_items = num_supervised(separate)
    assert_near(loss_and_gradients(model, shared, num_items), loss_and_gradients(model, separate, num_items))


def test_a_model_that_was_not_shown_to_share_hears_each_question_alone_and_says_so(capsys):
    model = native("qwen2_audio").model
    model.kind = replace(model.kind, shares_audio=False)
    prepare_attention(model.model.language_model, None, shares_audio=model.shares_audio)
    assert model.layout == "rows" and "not shown to be exact" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["qwen2_audio", "granite_speech"])
def test_a_rank_without_sound_runs_every_module_on_silence_and_learns_the_same(models, kind):
    built = models(kind)
    batch = batch_of(built, ROWS[3:])
    rows = {name: batch.get(name) for name in ("input_ids", "attention_mask", "shift_labels", "position_ids")}
    select_trainable(built.model, ["connector"])
    expected = built.model(**batch).loss
    silent = {name: value for name, value in built.model.with_silence(rows).items() if value is not None}
    built.model.zero_grad()
    loss = built.model(**silent, features=[built.model.silence]).loss
    loss.backward()
    assert loss.detach() == pytest.approx(float(expected), rel=1e-5)
    assert all(not parameter.grad.any() for parameter in built.model.connectors[0].parameters())


# -------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("kind", KINDS)
def test_each_part_trains_alone_and_every_parameter_of_it_can(models, kind):
    model = models(kind).model
    batch = batch_of(models(kind), ROWS[:3])
    for part in ("encoder", "connector", "llm"):
        counts = select_trainable(model, [part])
        _, gradients = loss_and_gradients(model, batch, 1)
        assert counts[part] > 0 and {part_of(name) for name in gradients} == {part}
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == gradients.keys()
    assert {part_of(name) for name, _ in model.named_parameters()} <= {*PARTS, "rest"}


def from_folder(kind, folder, monkeypatch, **settings):
    """A public checkpoint in a folder, loaded; the processor of some kinds cannot lie in one here."""
    save(kind, folder, **settings)
    if kind not in ON_DISK:
        own = NativeProcessor(processor_of(kind, words(kind)), NATIVES[kind])
        monkeypatch.setattr(NativeProcessor, "from_pretrained", lambda *_: own)
    return load_native(folder)


def train(built, rows=ROWS[:3], steps=2):
    """Some steps on what is trainable; the loss of each."""
    optimizer = torch.optim.AdamW([p for p in built.model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(steps):
        losses.append(float(loss_and_gradients(built.model, batch_of(built, rows), 10)[0]))
        optimizer.step()
    return losses


def logits_of(model, built):
    """Of a prompt with a clip, by ours or by the library's forward."""
    found = built.processor.collate_prompts([(ROWS[0].prompt, [CLIPS[0]])])
    ids, mask = found["input_ids"], found["attention_mask"]
    with torch.no_grad():
        if model is built.model:
            return model.eval()(ids, found["features"], mask).logits
        flat = {name: tensor for name, tensor in found["features"][0].items() if name != TOKENS}
        return model.eval()(input_ids=ids, attention_mask=mask, **flat).logits


def assert_plain_peft_reads(folder, kind, built):
    """The adapter on the model of transformers, with what else was trained, gives the same logits without our code."""
    own = getattr(transformers, NATIVES[kind].model_class).from_pretrained(folder.parent / "base")
    tensors = load_file(folder / "model.safetensors")
    own.load_state_dict({name.removeprefix("native."): tensor for name, tensor in tensors.items()}, strict=False)
    plain = PeftModel.from_pretrained(own, folder / "adapter")
    assert all("language_model" in name for name, _ in plain.named_parameters() if ".lora_" in name)
    assert torch.allclose(logits_of(plain, built), logits_of(built.model, built), atol=1e-4)


FROM_FOLDERS = ("audioflamingo3", "granite_speech", "qwen3_omni_moe_thinker")
"""Those that are read from a folder below, as recipes do it too; the others are filled from their checkpoints alone."""


def filled(kind, folder):
    """A base in memory, with what a checkpoint holds."""
    built = native(kind)
    loading.fill(built.model, folder, json.loads((folder / "checkpoint.json").read_text()), torch.float32, ())
    return built


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("qwen2_audio", "voxtral")])
def test_lora_is_on_the_language_model_alone_and_a_checkpoint_holds_what_was_trained(kind, tmp_path, monkeypatch):
    from_disk = kind in FROM_FOLDERS
    built = from_folder(kind, tmp_path / "base", monkeypatch) if from_disk else native(kind)
    model = built.model
    add_lora(model, r=2, alpha=4)
    select_trainable(model, ["connector", "lora"])
    before = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    train(built, steps=1)
    assert {part_of(name) for name, p in model.named_parameters() if p.requires_grad} == {"connector", "lora"}
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    save_checkpoint(model, built.processor, tmp_path / "saved", trained={"connector"})
    assert {part_of(name) for name in load_file(tmp_path / "saved" / "model.safetensors")} == {"connector"}
    again = load_native(tmp_path / "saved") if from_disk else filled(kind, tmp_path / "saved")
    assert torch.equal(logits_of(again.model, again), logits_of(model, built))
    assert again.model.trained_parts == {"connector"}
    if from_disk:
        assert_plain_peft_reads(tmp_path / "saved", kind, built)


def test_granites_own_adapter_is_the_lora_that_trains_on(tmp_path, monkeypatch):
    model, processor = whole("granite_speech")
    model.save_pretrained(tmp_path / "base")
    model.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    transformers.PreTrainedModel.save_pretrained(model, tmp_path / "base")  # the adapter alone, beside its base
    own = NativeProcessor(processor, NATIVES["granite_speech"])
    monkeypatch.setattr(NativeProcessor, "from_pretrained", lambda *_: own)
    built = load_native(tmp_path / "base")
    assert torch.allclose(logits_of(built.model, built), logits_of(model, built), atol=1e-5)
    assert select_trainable(built.model, ["lora"])["lora"] > 0 and built.model.lora_config.lora_alpha == 8
    train(built)
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    again = load_native(tmp_path / "saved")
    assert torch.equal(logits_of(again.model, again), logits_of(built.model, built))
    answers = [next(Listener(b.model, own).answer([ROWS[0].prompt], max_new_tokens=4)) for b in (built, again)]
    assert answers[0] == answers[1]


def test_lora_trains_on_a_language_model_in_four_bits(tmp_path, monkeypatch):
    bases = from_folder("qwen2_audio", tmp_path / "base", monkeypatch, hidden_size=64).model.config.bases
    built = load_native(tmp_path / "base", quantize="nf4")
    add_lora(built.model, r=2, alpha=4)
    with pytest.raises(ValueError, match="which cannot train"):
        select_trainable(built.model, ["llm"])
    select_trainable(built.model, ["connector", "lora"])
    first, *_, last = train(built, steps=6)
    assert last < first
    save_checkpoint(built.model, built.processor, tmp_path / "saved", trained={"connector"})
    again = load_native(tmp_path / "saved")
    assert again.model.config.quantize == "nf4" and again.model.config.bases == bases  # of the weights before that
    assert torch.equal(logits_of(again.model, again), logits_of(built.model, built))


def test_parts_that_never_train_can_be_held_in_bfloat16_and_the_model_answers(tmp_path, monkeypatch):
    from_folder("qwen2_audio", tmp_path / "base", monkeypatch)
    built = load_native(tmp_path / "base", in_bfloat16=["encoder", "llm"])
    types = {part_of(name): p.dtype for name, p in built.model.named_parameters()}
    assert types == {"encoder": torch.bfloat16, "connector": torch.float32, "llm": torch.bfloat16}
    assert next(Listener(built.model, built.processor).answer([ROWS[0].prompt], max_new_tokens=2)).num_new_tokens <= 2


def test_a_base_of_other_weights_is_refused(tmp_path):
    save("qwen2_audio", tmp_path / "base")
    built = load_native(tmp_path / "base")
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    save("qwen2_audio", tmp_path / "base", seed=1)
    with pytest.raises(ValueError, match="is not the model that this checkpoint was trained with"):
        load_native(tmp_path / "saved")


# ------------------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize("kind", KINDS)
def test_answers_in_a_batch_are_those_of_one_prompt_at_a_time(models, kind):
    built = models(kind)
    listener = Listener(built.model, built.processor)
    prompts = [ROWS[0].prompt, ROWS[2].prompt, ROWS[3].prompt]
    together = [answer.text for answer in listener.answer(prompts, max_new_tokens=3)]
    assert together == [answer.text for answer in listener.answer(prompts, max_new_tokens=3, batch_size=1)]
    if kind in ("qwen2_audio", "granite_speech"):
        assert "".join(listener.stream(prompts[0], max_new_tokens=3)).strip() == together[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_that_the_model_would_hear_only_the_beginning_of_is_refused(models, kind):
    built = models(kind)
    limit = built.processor.longest_clip_s
    if limit is None:
        assert built.processor.num_audio_tokens(40 * RATE) > built.processor.num_audio_tokens(35 * RATE) > 0
        return
    clip = tone(440, limit + 0.5)
    asked = [built.processor._asked(clip[: round((limit + more) * RATE)]) for more in (-0.5, 0, 0.5)]
    if kind == "gemma3n":  # a clip has the same number of places whatever its length
        assert len({count for count, _ in asked}) == 1
        shorter, whole, longer = (int(features["input_features_mask"].sum()) for _, features in asked)
    else:
        shorter, whole, longer = (count for count, _ in asked)
    assert shorter < whole == longer  # it would cut
    heard, refused = row("what?", "a dog", clip[: round(limit * RATE)]), row("what?", "a dog", clip)
    first, second = Listener(built.model, built.processor).answer([heard.prompt, refused.prompt], max_new_tokens=2)
    assert first.error is None and f"hears at most {limit:g} s of a clip" in second.error
    example = Recordings([refused], built.processor)[0, 0]
    assert "at most" in example.problems[0]["cause"] and not num_supervised(
        {"shift_labels": torch.from_numpy(example.sequences[0].shift_labels)}
    )


@pytest.mark.parametrize(
    ("kind", "seconds", "windows"), [("audioflamingo3", 2.5, 3), ("glmasr", 3.5, 2), ("voxtral", 3.1, 2)]
)
def test_longer_clips_are_split_where_the_models_own_processor_splits(models, kind, seconds, windows):
    built = models(kind)
    clip = tone(440, seconds)
    [features] = built.processor.features([clip])["features"]
    assert len(features["input_features"]) == windows
    loss = built.model(**batch_of(built, [row("what?", "a dog", clip), ROWS[0]])).loss
    assert torch.isfinite(loss)


def test_beams_hear_the_clip_of_their_row_or_are_refused(models):
    built = models("qwen2_audio")
    listener = Listener(built.model, built.processor)
    prompts = [ROWS[0].prompt, ROWS[2].prompt]
    together = [answer.text for answer in listener.answer(prompts, num_beams=2, max_new_tokens=4)]
    assert together == [answer.text for answer in listener.answer(prompts, num_beams=2, max_new_tokens=4, batch_size=1)]
    for mixed in ([ROWS[0].prompt, ROWS[3].prompt], [row("both?", "no", *CLIPS[:2]).prompt]):
        with pytest.raises(ValueError, match="one clip in one window alone"):
            list(listener.answer(mixed, num_beams=2, max_new_tokens=4))


# ------------------------------------------------------------------------------------------------------- whole recipes


QUESTIONS = [("what do you hear?", "a bell"), ("is there a dog?", "no")]


def corpus(folder):
    """Rows about four tones, on disk."""
    path = folder / "rows.jsonl"
    rows = []
    for name in write_tones(folder, 4, seconds=(0.2, 0.6)):
        for question, answer in QUESTIONS:
            asked = Message("user", (AudioPart(str(folder / name)), TextPart(question)))
            rows.append(row_to_dict(Row((asked, Message("assistant", (TextPart(answer),))))))
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def recipe_of(folder, base, rows, *overrides, **model):
    """Two stages on a model of transformers: the connector, then LoRA with it."""
    trainer = {"max_steps": 2, "per_device_train_batch_size": 4, "save_steps": 2, "learning_rate": 0.05}
    data = {"train": [rows], "validation": [rows]}
    align = {"train": ["connector"], "objectives": {"language_modeling": 1}, "data": data, "trainer": trainer}
    slower = {name: value for name, value in trainer.items() if name != "learning_rate"}
    tune = {**align, "train": {"connector": 0.01, "lora": 0.05}, "trainer": slower, "lora": {"r": 2}}
    written = {
        "name": "native", "output": str(folder / "run"), "model": {"checkpoint": str(base), **model},
        "stages": {"align": align, "tune": tune},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    return load_recipe(folder / "recipe.yaml", overrides)


@pytest.mark.parametrize(("kind", "stages"), [("qwen2_audio", ["align", "tune"]), ("voxtral", ["tune"])])
def test_a_recipe_that_names_a_model_of_transformers_trains_it_and_its_checkpoint_answers(
    kind, stages, tmp_path, capsys
):
    base, rows = save(kind, tmp_path / "base"), corpus(tmp_path / "clips")
    left_out = [f"stages.{name}=null" for name in ("align", "tune") if name not in stages]
    recipe = recipe_of(tmp_path, base, rows, *left_out, system_prompt=SYSTEM)
    dry_run(recipe)
    told = capsys.readouterr().out
    assert "memory of a device" in told and "audio tokens]" in told and "supervised" in told
    said = []

    def sample(model, processor, rows):
        asked = Listener(model, processor).answer([one.prompt for one in rows[:2]], max_new_tokens=4)
        said.append(([one.prompt for one in rows[:2]], [answer.text for answer in asked]))

    last = run_recipe(recipe, sample=sample)
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert {name: stage["steps"] for name, stage in record.items()} == dict.fromkeys(stages, 2)
    stored = sum(file.stat().st_size for file in last.rglob("*.safetensors"))
    assert stored < (base / "model.safetensors").stat().st_size / 4
    listener = load(tmp_path / "run")
    prompts, answers = said[-1]
    assert [answer.text for answer in listener.answer(prompts, max_new_tokens=4)] == answers
    assert listener.processor.system_prompt == SYSTEM and listener.model.trained_parts == {"connector"}
    assert run_recipe(recipe) == last and "done already" in capsys.readouterr().out


def test_a_public_folder_answers_before_anything_is_trained(tmp_path):
    answers = list(load(save("qwen2_audio", tmp_path / "base")).answer([ROWS[0].prompt], max_new_tokens=3))
    assert answers[0].error is None


def test_what_works_on_frames_of_our_encoders_is_refused(tmp_path):
    base, rows = save("qwen2_audio", tmp_path / "base"), corpus(tmp_path / "clips")
    recipe = recipe_of(tmp_path, base, rows, "stages.align.data.cache_features=true")
    with pytest.raises(ValueError, match=r"stages.align.data.cache_features works on the frames of an encoder of this"):
        run_recipe(recipe)


def test_the_table_of_the_readme_is_that_of_the_code():
    assert support_table() in (Path(__file__).parents[2] / "README.md").read_text()

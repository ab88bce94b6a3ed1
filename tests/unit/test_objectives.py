"""Objectives: each is the formula that it names, sums over a step's items, and leaves out what has no text."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tiny import RATE, tiny, tones

from audiollm.conversation import AudioPart, Message, Row, TextPart
from audiollm.data.collate import Collator
from audiollm.data.dataset import Recordings
from audiollm.models.freezing import select_trainable
from audiollm.training.objectives import OBJECTIVES, build_objective
from audiollm.training.objectives.base import Heard
from audiollm.training.stage_model import StageModel

WORDS = ["a dog", "a bell rings twice.", None, "high", "a dog"]
CLIPS = tuple(
    AudioPart((samples, RATE), transcript=words, description=words)
    for samples, words in zip(tones(5, seconds=(0.6, 1.4)), WORDS, strict=True)
)


def row(clip, answer="yes"):
    question = Message("user", (*((clip,) if clip else ()), TextPart("is there a dog?")))
    return Row((question, Message("assistant", (TextPart(answer),))))


ROWS = [row(clip) for clip in CLIPS]


@pytest.fixture(scope="module")
def built():
    return tiny()


def stage_model(built, *trained, **objectives):
    """A stage's model with these objectives, each with the same weights whenever it is made."""
    made = {}
    for name, settings in objectives.items():
        torch.manual_seed(1)
        made[name] = build_objective(name, settings, model=built.model, processor=built.processor)
    select_trainable(built.model, trained or ["encoder"])
    return StageModel(built.model, made).train()


def batch_of(built, stage, rows):
    with_text = any(objective.needs_text for objective in stage.objectives.values())
    recordings = Recordings(rows, built.processor, with_text=with_text)
    collator = Collator(0, targets=[objective.targets for objective in stage.objectives.values()])
    return collator([recordings[0, number] for number in range(len(recordings))])


def run(stage, batch, num_items=None):
    """Loss and gradients of a batch that is the whole step, or a part of one."""
    stage.zero_grad()
    loss, values = stage(batch, stage.counts(batch) if num_items is None else num_items)
    loss.backward()
    return loss.detach(), values, {name: p.grad.clone() for name, p in stage.named_parameters() if p.grad is not None}


@torch.no_grad()
def frames_of(built, clip):
    """One clip's frames [1, T, C], alone."""
    values = torch.from_numpy(clip.load(RATE))[None]
    frames, mask = built.model.model.get_audio_frames(values, torch.ones_like(values, dtype=torch.bool))
    return frames[mask][None]


# ------------------------------------------------------------------------------------------------------------------ CTC


def test_ctc_is_the_negative_log_likelihood_a_target_token(built):
    stage = stage_model(built, ctc={})
    loss, _, _ = run(stage, batch_of(built, stage, ROWS))
    head, total, tokens = stage.objectives["ctc"].head, 0.0, 0
    for clip, words in zip(CLIPS, WORDS, strict=True):
        if words is None:
            continue
        target = torch.tensor([built.processor.tokenizer.encode(words, add_special_tokens=False)])
        logp = F.log_softmax(head(frames_of(built, clip)), -1).transpose(0, 1)
        lengths = torch.tensor([len(logp)]), torch.tensor([target.shape[1]])
        total += F.ctc_loss(logp, target, *lengths, blank=len(built.processor.tokenizer), reduction="sum")
        tokens += target.shape[1]
    torch.testing.assert_close(loss, (total / tokens).detach(), rtol=1e-5, atol=0)


def test_ctc_of_a_batch_is_that_of_its_clips_one_by_one(built):
    stage = stage_model(built, ctc={})
    whole = batch_of(built, stage, ROWS)
    items = stage.counts(whole)
    loss, _, gradients = run(stage, whole)
    singles = [run(stage, batch_of(built, stage, [one]), items) for one in ROWS]
    torch.testing.assert_close(sum(single for single, _, _ in singles), loss, rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        found = sum(single[name] for _, _, single in singles if name in single)
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_ctc_labels_are_the_tokens_of_the_text_that_is_asked_for(built):
    clips = [AudioPart(None, transcript="yes", description="a dog"), AudioPart(None, transcript="high")]
    encode = built.processor.tokenizer.encode
    for target, texts in (("transcript", ["yes", "high"]), ("description", ["a dog", ""])):
        objective = stage_model(built, ctc={"target": target}).objectives["ctc"]
        made = objective.targets(clips)
        assert made["ctc_lengths"].tolist() == [len(encode(text)) if text else 0 for text in texts]
        for labels, text in zip(made["ctc_labels"], texts, strict=True):
            wanted = encode(text) if text else []
            assert labels.tolist() == wanted + [objective.blank] * (len(labels) - len(wanted))


def test_a_text_too_long_for_its_sound_gives_no_infinity(built):
    stage = stage_model(built, ctc={})
    hurried = AudioPart((tones(1, seconds=(0.05, 0.06))[0], RATE), transcript="a bell rings twice. " * 5)
    loss, _, gradients = run(stage, batch_of(built, stage, [row(hurried)]))
    assert loss == 0 and all(torch.isfinite(gradient).all() for gradient in gradients.values())


# ---------------------------------------------------------------------------------------------------------- contrastive


@torch.no_grad()
def pooled(built, objective, clip, words):
    """One clip's sound and words in the shared space, slowly."""
    sound = objective.audio_head(frames_of(built, clip)[0].mean(0))
    return sound / sound.norm(), pooled_words(built, objective, words)


def pooled_words(built, objective, words):
    """A text in the shared space, slowly."""
    ids = built.processor.tokenizer.encode(words, add_special_tokens=False)
    text = objective.text_head(built.model.get_input_embeddings().weight[ids].mean(0))
    return text / text.norm()


def test_contrastive_finds_the_words_of_a_clip_and_the_clip_of_words(built):
    stage = stage_model(built, contrastive={"width": 8, "temperature": 0.1})
    loss, _, _ = run(stage, batch_of(built, stage, ROWS))
    told = [number for number, words in enumerate(WORDS) if words]
    pairs = [pooled(built, stage.objectives["contrastive"], CLIPS[n], WORDS[n]) for n in told]
    total = 0.0
    for i, (sound, text) in enumerate(pairs):
        others = [j for j in range(len(pairs)) if j == i or WORDS[told[j]] != WORDS[told[i]]]
        to_text = [float(sound @ pairs[j][1]) / 0.1 for j in others]
        to_sound = [float(pairs[j][0] @ text) / 0.1 for j in others]
        for similarities in (to_text, to_sound):
            log_sum = math.log(sum(math.exp(value) for value in similarities))
            total += (log_sum - similarities[others.index(i)]) / 2
    assert float(loss) == pytest.approx(total / len(told), rel=1e-4)


def test_the_same_words_are_no_negatives(built):
    stage = stage_model(built, contrastive={})
    twins = batch_of(built, stage, [ROWS[0], ROWS[4]])
    assert run(stage, twins)[0] == pytest.approx(0, abs=1e-6)
    assert run(stage, batch_of(built, stage, [ROWS[0], ROWS[1]]))[0] > 0.01


def test_the_temperature_is_learned_and_the_language_model_is_not_moved(built):
    stage = stage_model(built, contrastive={})
    _, _, gradients = run(stage, batch_of(built, stage, ROWS))
    assert gradients["objectives.contrastive.log_scale"] != 0
    assert not any("language_model" in name for name in gradients)


@torch.no_grad()
def vectors_of(built, clip):
    """One clip's vectors for the language model [K, D], alone."""
    values = torch.from_numpy(clip.load(RATE))[None]
    return built.model.get_audio_features(values, torch.ones_like(values, dtype=torch.bool)).pooler_output


def test_contrastive_on_the_connector_pools_what_the_language_model_would_hear(built):
    stage = stage_model(built, "connector", contrastive={"on": "connector", "width": 8})
    loss, _, gradients = run(stage, batch_of(built, stage, ROWS[:2]))
    objective = stage.objectives["contrastive"]
    with torch.no_grad():
        sound = [F.normalize(objective.audio_head(vectors_of(built, clip).mean(0)), dim=-1) for clip in CLIPS[:2]]
        text = [pooled_words(built, objective, words) for words in WORDS[:2]]
        logits = torch.stack(sound) @ torch.stack(text).T / 0.07
        both = [F.cross_entropy(side, torch.arange(2)) for side in (logits, logits.T)]
    torch.testing.assert_close(loss, sum(both) / 2, rtol=1e-4, atol=1e-6)
    trained = {name for name, gradient in gradients.items() if gradient.any() and name.startswith("model.")}
    assert trained and all(".connector." in name for name in trained)


def test_contrastive_is_refused_where_nothing_trains_before_it():
    cls = OBJECTIVES["contrastive"]
    assert "add `encoder`, or say `on: connector`" in cls.refusal(cls.Settings(), ["connector", "lora"])
    assert "add `connector`" in cls.refusal(cls.Settings(on="connector"), ["lora"])
    assert cls.refusal(cls.Settings(on="connector"), ["encoder"]) is None
    assert cls.refusal(cls.Settings(), ["encoder"]) is None


# ------------------------------------------------------------------------------------------------------------- together


def test_clips_without_text_and_padding_change_nothing(built):
    for objective in ("ctc", "contrastive"):
        stage = stage_model(built, **{objective: {}})
        told = [one for one, words in zip(ROWS, WORDS, strict=True) if words]
        loss, _, _ = run(stage, batch_of(built, stage, told))
        torch.testing.assert_close(run(stage, batch_of(built, stage, ROWS))[0], loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("objective", "settings"), [("ctc", {}), ("contrastive", {}), ("contrastive", {"on": "connector"})]
)
@pytest.mark.parametrize("rows", [[ROWS[2]], [row(None)]], ids=["no words", "no sound"])
def test_a_batch_with_nothing_for_an_objective_gives_zero_and_zero_gradients(built, objective, settings, rows):
    stage = stage_model(built, **{objective: settings}, language_modeling={})
    select_trainable(built.model, ["encoder", "connector"])
    batch = batch_of(built, stage, rows)
    assert stage.counts(batch)[0] == 0
    _, values, gradients = run(stage, batch)
    assert values[objective] == 0
    heads = {name: gradient for name, gradient in gradients.items() if name.startswith("objectives.")}
    assert heads and all(not gradient.any() for gradient in heads.values())


def test_a_batch_of_text_alone_can_be_trained_on_when_only_the_connector_trains(built):
    stage = stage_model(built, "connector", language_modeling={})
    loss, _, gradients = run(stage, batch_of(built, stage, [row(None)]))
    assert loss > 0 and not any(gradient.any() for gradient in gradients.values())


def test_the_stage_adds_its_objectives_by_weight(built):
    both = {"ctc": {"weight": 0.5}, "contrastive": {"weight": 2.0, "width": 8}, "language_modeling": {"weight": 3.0}}
    stage = stage_model(built, **both)
    loss, values, _ = run(stage, batch_of(built, stage, ROWS))
    weighted = 0.5 * values["ctc"] + 2.0 * values["contrastive"] + 3.0 * values["language_modeling"]
    torch.testing.assert_close(loss, weighted)
    assert stage.weighted(torch.stack([*values.values()])) == pytest.approx(float(loss))
    for name, settings in both.items():
        alone = stage_model(built, **{name: settings | {"weight": 1.0}})
        torch.testing.assert_close(run(alone, batch_of(built, alone, ROWS))[0], values[name], rtol=1e-5, atol=1e-6)


def test_targets_follow_the_order_of_the_clips_in_a_packed_batch(built):
    stage = stage_model(built, ctc={}, language_modeling={})
    recordings = Recordings(ROWS, built.processor)
    examples = [recordings[0, number] for number in (3, 0, 4, 1, 2)]
    encode = built.processor.tokenizer.encode
    expected = {clip.load(RATE).shape[0]: len(encode(clip.transcript or "")) for clip in CLIPS}
    given, orders = [len(example.sounds[0]) for example in examples], set()
    for pack_tokens in range(40, 200, 10):
        collator = Collator(0, pack_tokens=pack_tokens, targets=[stage.objectives["ctc"].targets])
        batch = collator(examples)
        heard = batch["input_values_mask"].sum(-1).tolist()
        assert sorted(heard) == sorted(given)
        assert batch["ctc_lengths"].tolist() == [expected[length] for length in heard]
        orders.add(tuple(heard))
    assert len(orders) > 1  # packing brings them into other orders


def test_a_broken_clip_has_no_words(built):
    broken = AudioPart("no/such/file.wav", transcript="a dog", description="a dog")
    recordings = Recordings([row(broken)], built.processor)
    example = recordings[0, 0]
    assert "no/such/file.wav" in example.problems[0]["cause"]
    for name in ("ctc", "contrastive"):
        stage = stage_model(built, **{name: {}})
        assert stage.counts(Collator(0, targets=[stage.objectives[name].targets])([example])).tolist() == [0]


def test_an_objective_tells_whether_rows_hold_anything_for_it():
    for name, field in (("ctc", "transcript"), ("contrastive", "description")):
        cls = OBJECTIVES[name]
        settings = cls.Settings.model_validate({})
        told = row(AudioPart(None, **{field: "a dog"}))
        assert cls.has_items(settings, [row(None), told]) and not cls.has_items(settings, [row(AudioPart(None))])
    silent = Row((Message("user", (TextPart("?"),)), Message("assistant", (TextPart("no"),), loss=False)))
    cls = OBJECTIVES["language_modeling"]
    assert cls.has_items(cls.Settings(), [silent, row(None)]) and not cls.has_items(cls.Settings(), [silent])


def test_unknown_objectives_and_settings_are_told(built):
    known = "contrastive, ctc, distillation, language_modeling"
    with pytest.raises(ValueError, match=f"unknown objective 'ctcc'; known: {known}"):
        build_objective("ctcc", {}, model=built.model, processor=built.processor)
    with pytest.raises(ValidationError, match="did you mean 'temperature'"):
        build_objective("contrastive", {"temprature": 1}, model=built.model, processor=built.processor)


def test_nothing_is_heard_twice_by_two_objectives(built, monkeypatch):
    stage = stage_model(built, ctc={}, contrastive={})
    calls = []
    listen = type(built.model.model).get_audio_frames
    monkeypatch.setattr(type(built.model.model), "get_audio_frames", lambda *a: calls.append(1) or listen(*a))
    run(stage, batch_of(built, stage, ROWS))
    assert len(calls) == 1 and isinstance(stage.listen({}, stage.objectives.values()), Heard)

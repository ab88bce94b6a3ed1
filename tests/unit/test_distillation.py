"""Distillation is the KL from the model that reads the words to the one that hears, at the answers' tokens alone.

The oracle knows nothing of packing: each row is rendered and run by itself, with its sound and with its words.
"""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import RATE, tiny, tones

from audiollm.audio import write
from audiollm.conversation import AudioPart, Message, Row, TextPart
from audiollm.data.collate import Collator
from audiollm.data.dataset import Limits, Recordings
from audiollm.data.mixture import Mixture
from audiollm.data.sampling import BudgetSampler
from audiollm.data.sources import load_rows
from audiollm.data.streams import open_stream
from audiollm.models import chunked_loss
from audiollm.models.freezing import add_lora, part_of, select_trainable, without_lora
from audiollm.models.modeling import IGNORE_INDEX, AudioLLMModel
from audiollm.training.objectives import OBJECTIVES, build_objective
from audiollm.training.stage_model import StageModel

SAID = ["a dog barks", "a bell rings twice. then a dog", "high"]
CLIPS = [
    AudioPart((samples, RATE), transcript=words, description=f"describe {words}")
    for samples, words in zip(tones(3, seconds=(0.3, 1.2)), SAID, strict=True)
]
SILENT = replace(CLIPS[0], transcript=None)


def row(question, answer, *clips, **fields):
    asked = Message("user", (*clips, TextPart(question)))
    return Row((asked, Message("assistant", (TextPart(answer),))), **fields)


ROWS = [
    row("what do you hear?", "a dog barks, then a bell", CLIPS[0]),
    row("is there a bell?", "yes", CLIPS[0]),
    row("describe this sound", "a bell rings", CLIPS[1]),
    row("describe this sound", "one", CLIPS[1]),
    row("which comes first?", "the high one", CLIPS[2], CLIPS[0]),
    row("two?", "three"),
]
SETTINGS = {"temperature": 3.0, "end_of_turn_weight": 0.5}


@pytest.fixture(scope="module")
def built():
    """A model whose LoRA says something; its teacher must not hear of it."""
    made = tiny()
    add_lora(made.model, r=2, alpha=4)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in made.model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(generator=draw)
    return made


def stage_of(built, *trained, **objectives):
    made = {
        name: build_objective(name, settings, model=built.model, processor=built.processor)
        for name, settings in (objectives or {"distillation": SETTINGS}).items()
    }
    select_trainable(built.model, trained or ["connector", "lora"])
    return StageModel(built.model, made).train()


def batch_of(built, rows, layout="branches", text="transcript", pack_tokens=None):
    recordings = Recordings(rows, built.processor, teacher_text=text, share_audio=layout == "branches")
    collator = Collator(0, layout=layout, pack_tokens=pack_tokens)
    return collator([recordings[0, number] for number in range(len(recordings))])


def run(stage, batch, num_items=None):
    stage.zero_grad()
    loss, values = stage(batch, stage.counts(batch) if num_items is None else num_items)
    loss.backward()
    return loss.detach(), values, {n: p.grad.clone() for n, p in stage.named_parameters() if p.grad is not None}


def rounding(gradients):
    """What rounding may come to, by the largest of all: a bias of keys has no gradient but rounding."""
    return 1e-5 * max(float(gradient.abs().max()) for gradient in gradients.values())


def answer_logits(built, messages, clips):
    """Logits [k, V] that predict the answer's tokens, and these, of one row by itself."""
    waves = [torch.from_numpy(clip.load(RATE)) for clip in clips]
    [one] = built.processor.render(messages, [len(wave) for wave in waves])
    values = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True) if waves else None
    mask = values is not None and torch.arange(values.shape[1]) < torch.tensor([[len(wave)] for wave in waves])
    logits = built.model(torch.tensor([one.input_ids]), values, mask).logits[0]
    places = [place for place, counts in enumerate(one.supervised) if counts]
    return logits[[place - 1 for place in places]], [one.input_ids[place] for place in places]


@torch.no_grad()
def oracle(built, rows, temperature, end_of_turn_weight, field="transcript"):
    """The loss by the formula, token by token."""
    built.model.eval()
    total, count = 0.0, 0
    for one in rows:
        student, ids = answer_logits(built, one.messages, one.clips)
        with without_lora(built.model):
            teacher, same = answer_logits(built, one.with_words(field).messages, ())
        assert ids == same
        for number, (s, t) in enumerate(zip(student, teacher, strict=True)):
            p, q = (torch.softmax(side.double() / temperature, 0).tolist() for side in (t, s))
            nats = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            total += nats * (1 + end_of_turn_weight * (number == len(ids) - 1))
        count += len(ids)
    return total / count


@pytest.mark.parametrize(
    ("layout", "pack_tokens", "field"),
    [("branches", None, "transcript"), ("branches", 400, "description"), ("rows", None, "transcript")],
)
def test_it_is_the_divergence_of_each_answer_by_itself(built, layout, pack_tokens, field):
    batch = batch_of(built, ROWS, layout, field, pack_tokens)
    stage = stage_of(built, distillation=SETTINGS | {"teacher_text": field})
    expected = oracle(built, ROWS, **SETTINGS, field=field)
    assert expected > 0.01
    stage.train()
    assert float(run(stage, batch)[0]) == pytest.approx(expected, rel=2e-4)


def test_a_model_that_reads_what_its_teacher_reads_has_nothing_to_learn():
    built = tiny()
    stage = stage_of(built, "connector")
    words = [one.with_words("transcript") for one in ROWS]
    assert abs(float(run(stage, batch_of(built, words))[0])) < 1e-6
    assert float(run(stage, batch_of(built, ROWS))[0]) > 0.01


def test_one_batch_is_the_sum_of_its_micro_batches_and_teaches_what_trains_alone(built):
    stage = stage_of(built, "connector")
    whole = batch_of(built, ROWS)
    items = stage.counts(whole)
    loss, _, gradients = run(stage, whole, items)
    parts = [run(stage, batch_of(built, [one]), items) for one in ROWS]
    torch.testing.assert_close(sum(part for part, _, _ in parts), loss, rtol=1e-4, atol=1e-6)
    assert {part_of(name.removeprefix("model.")) for name in gradients} == {"connector"}
    for name, gradient in gradients.items():
        found = sum(one[name] for _, _, one in parts if name in one)
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=rounding(gradients))


def test_the_teacher_is_the_frozen_base_in_evaluation_mode_and_leaves_no_trace(built):
    built = copy.deepcopy(built)
    stage = stage_of(built)
    batch = batch_of(built, ROWS)
    modes = []
    reader = built.model.model.language_model
    hook = reader.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    heard = stage.objectives["distillation"].read(built.model, batch)
    hook.remove()
    assert modes == [False] and reader.training
    assert not heard.requires_grad and built.model.model.training and built.model.lora_scale == 1
    for name, parameter in built.model.named_parameters():
        if ".lora_" in name:
            parameter.data.zero_()
    torch.testing.assert_close(stage.objectives["distillation"].read(built.model, batch), heard, rtol=0, atol=0)
    assert all(p.requires_grad for n, p in built.model.named_parameters() if ".lora_" in n)


def test_chunks_of_logits_change_nothing(built, monkeypatch):
    stage, batch = stage_of(built), batch_of(built, ROWS)
    loss, _, gradients = run(stage, batch)
    monkeypatch.setattr(chunked_loss, "CHUNK_VALUES", 3 * built.model.config.text_config.vocab_size)
    chunked, _, found = run(stage, batch)
    with torch.no_grad():
        torch.testing.assert_close(stage(batch, stage.counts(batch))[0], loss)
    torch.testing.assert_close(chunked, loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=rounding(gradients))


def test_beside_language_modeling_each_keeps_its_value_and_the_model_hears_once(built, monkeypatch):
    batch = batch_of(built, ROWS)
    alone = {name: run(stage_of(built, **{name: {}}), batch)[0] for name in ("language_modeling", "distillation")}
    calls = []
    forward = AudioLLMModel.embed
    monkeypatch.setattr(AudioLLMModel, "embed", lambda *args: calls.append(1) or forward(*args))
    _, values, _ = run(stage_of(built, language_modeling={}, distillation={}), batch)
    assert len(calls) == 2  # once with sound, once by the teacher
    for name, value in values.items():
        torch.testing.assert_close(value, alone[name])


def test_a_row_without_the_words_is_named_and_left_out(built):
    rows = [replace(row("is there a bell?", "no", SILENT), origin="rows:7"), ROWS[2]]
    batch = batch_of(built, rows)
    assert [(bad["found"], bad["origin"]) for bad in batch["problems"]] == [("rendering", "rows:7")]
    assert "no transcript" in batch["problems"][0]["cause"]
    stage = stage_of(built)
    torch.testing.assert_close(run(stage, batch)[0], run(stage, batch_of(built, ROWS[2:3]))[0])
    some = [row("a bell?", "no", SILENT), row("a dog?", "yes", CLIPS[0])]  # of one recording
    torch.testing.assert_close(run(stage, batch_of(built, some))[0], run(stage, batch_of(built, some[1:]))[0])


def test_a_broken_clip_teaches_nothing(built):
    broken = row("is there a bell?", "no", AudioPart("no/such/file.wav", transcript="a dog"))
    stage = stage_of(built)
    batch = batch_of(built, [broken])
    assert stage.counts(batch) == 0 and run(stage, batch)[0] == 0
    mixed = batch_of(built, [broken, ROWS[0]])
    torch.testing.assert_close(run(stage, mixed)[0], run(stage, batch_of(built, ROWS[:1]))[0])


def test_a_rank_without_a_teacher_runs_what_the_others_run(built, monkeypatch):
    stage = stage_of(built)
    batch = batch_of(built, [row("is there a bell?", "no", SILENT)])
    assert not any(name.startswith("teacher_") for name in batch)
    runs = []
    forward = type(built.model.model.language_model).forward
    monkeypatch.setattr(
        type(built.model.model.language_model), "forward", lambda *a, **k: runs.append(1) or forward(*a, **k)
    )
    run(stage, batch)
    assert len(runs) == 1
    monkeypatch.setattr(AudioLLMModel, "trains_on_ranks", property(lambda model: model.training))
    loss, _, gradients = run(stage, batch)
    assert len(runs) == 3 and loss == 0
    parts = {part_of(name.removeprefix("model.")) for name in gradients}
    assert parts == {"connector", "lora"} and not any(gradient.any() for gradient in gradients.values())


def test_unequal_answers_are_told_with_both_numbers(built, monkeypatch):
    stage, batch = stage_of(built), batch_of(built, ROWS)
    first = batch["teacher_shift_labels"].ne(IGNORE_INDEX).nonzero()[0]
    batch["teacher_shift_labels"][tuple(first)] = IGNORE_INDEX
    count = int(stage.counts(batch))
    with pytest.raises(ValueError, match=f"has {count} supervised tokens, and its teacher {count - 1}"):
        run(stage, batch)
    render = type(built.processor).render

    def shorter(processor, messages, lengths, **options):
        found = render(processor, messages, lengths, **options)
        return found if lengths else [replace(one, supervised=[False] * len(one.supervised)) for one in found]

    monkeypatch.setattr(type(built.processor), "render", shorter)
    with pytest.raises(ValueError, match=r"rows:3: \d+ supervised tokens follow the sound and 0 its transcript"):
        batch_of(built, [replace(row("two?", "yes", CLIPS[0]), origin="rows:3")])


def test_what_it_can_learn_from_and_beside_what_it_is_refused():
    cls = OBJECTIVES["distillation"]
    settings = cls.Settings()
    assert cls.has_items(settings, [ROWS[0]]) and not cls.has_items(settings, [row("a", "b", SILENT), ROWS[-1]])
    assert cls.has_items(cls.Settings(teacher_text="description"), [row("a", "b", SILENT)])
    assert "take `llm` out" in cls.refusal(settings, ["connector", "llm"])
    assert cls.refusal(settings, ["connector", "lora"]) is None


# ----------------------------------------------------------------------------------------------- what the teacher reads


def tokens_in(example):
    """Tokens that a recording brings, and those of them that its teacher reads."""
    read = sum(map(len, example.teacher))
    return sum(map(len, example.sequences)) + read, read


def budgeted(recordings, budget):
    """The batches of some passes over measured recordings, each as its keys."""
    lengths = [recordings.seconds(number) for number in range(len(recordings))]
    found = []
    for epoch in range(3):
        sampler = BudgetSampler(recordings.num_tokens, lengths, budget)
        sampler.set_epoch(epoch)
        found += list(sampler)
    return found


MANY = [
    row(question, answer, replace(clip, transcript="a dog barks " * (1 + number % 5) if number % 4 else None))
    for number, clip in enumerate(AudioPart((samples, RATE)) for samples in tones(12, seconds=(0.3, 1.2)))
    for question, answer in [("what do you hear?", "a dog"), ("what barks?", "a dog does"), ("two?", "three")]
]


@pytest.mark.parametrize("questions", [None, 2, 1])
@pytest.mark.parametrize("share_audio", [True, False])
def test_what_the_teacher_reads_is_measured_as_it_is_packed(built, questions, share_audio):
    options = {"questions_per_clip": questions, "share_audio": share_audio, "teacher_text": "transcript"}
    recordings = Recordings(MANY, built.processor, **options)
    recordings.measure()
    alone = Recordings(MANY, built.processor, **options | {"teacher_text": None})
    alone.measure()
    for number in range(len(recordings)):
        taken, read = tokens_in(recordings[0, number])
        told = recordings.num_tokens((0, number))
        if recordings.groups[number][0].clips[0].transcript is None:  # silence without a teacher stands for it
            assert read == 0 and told == alone.num_tokens((0, number)) >= taken
        else:
            assert read > 0 and (told == taken if questions is None else told >= taken)
        assert told <= recordings.most_read(recordings.lengths[number])
        assert recordings.most_tokens(recordings.lengths[number]) == alone.most_tokens(alone.lengths[number])


def test_batches_hold_the_budget_of_what_is_heard_and_what_is_read_together(built):
    recordings = Recordings(MANY, built.processor, teacher_text="transcript")
    recordings.measure()
    budget = 2 * max(recordings.num_tokens((0, number)) for number in range(len(recordings)))
    taught = budgeted(recordings, budget)
    sizes = [sum(tokens_in(recordings[key])[0] for key in batch) for batch in taught]
    assert max(sizes) <= budget and max(map(len, taught)) > 1
    alone = Recordings(MANY, built.processor)
    alone.measure()
    untaught = budgeted(alone, budget)
    too_much = [sum(tokens_in(recordings[key])[0] for key in batch) for batch in untaught]
    assert max(too_much) > budget and len(untaught) < len(taught)
    assert budgeted(recordings, budget) == taught


def test_rows_on_disk_are_measured_with_what_their_teacher_reads_and_known_apart_from_those_without(built, tmp_path):
    write(tmp_path / "clip.wav", np.zeros(RATE // 2, np.float32), RATE)
    clip = {"type": "audio", "audio": "clip.wav", "duration": 0.5}
    lines = [
        {"id": str(number), "source_id": str(number // 2), "messages": [
            {"role": "user", "content": [clip | {"transcript": "a dog " * number}, {"type": "text", "text": "what?"}]},
            {"role": "assistant", "content": "a bell"},
        ]}
        for number in range(9)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {}
    for text in (None, "transcript", None):
        stream, _ = open_stream(str(tmp_path / "rows.jsonl"), tmp_path)
        groups = Mixture([stream], [1.0], 0)
        recordings = Recordings([], built.processor, groups=groups, teacher_text=text)
        recordings.measure()
        whole = Recordings(load_rows(str(tmp_path / "rows.jsonl")), built.processor, teacher_text=text)
        whole.measure()
        found[text] = [recordings.num_tokens((0, number)) for number in range(len(recordings))]
        assert found[text] == [whole.most_read(length) for length in whole.lengths]
    assert sum(found["transcript"]) > sum(found[None]) and found["transcript"] != found[None]


def test_max_tokens_is_of_what_is_heard_and_the_teacher_has_the_models_positions(built):
    rows = [row("a dog?", "yes", replace(CLIPS[0], transcript="a dog barks " * 30))]
    heard = Recordings(rows, built.processor).length(rows)
    read = Recordings(rows, built.processor, teacher_text="transcript").length(rows).teacher_branches[0]
    assert read > heard.rows[0]
    for positions, is_let_in in ((read, True), (read - 1, False)):
        limits = Limits(heard.rows[0], positions)
        recordings = Recordings(rows, built.processor, teacher_text="transcript", limits=limits)
        assert not recordings.measure()
        example = recordings[0, 0]
        assert bool(example.teacher) == is_let_in
        causes = [problem["cause"] for problem in example.problems]
        assert causes == [] if is_let_in else f"takes {read} tokens with its transcript" in causes[0]

"""Two towers: the loss is the formula, a row's vector its own, rankings are counted as by hand, mistakes are told."""

import itertools
import math
import random
import threading

import numpy as np
import pytest
import torch
from tiny import ENCODER, LLM, RATE, checksum, tiny, tokenizer, tones, unsettle
from transformers import AutoModel, AutoProcessor, BertConfig, BertModel

from audiollm import chat, inference, matching
from audiollm.conversation import AudioPart, Message, Row, TextPart
from audiollm.data.collate import Collator, pad_waveforms
from audiollm.data.pairs import Pairs, texts_of
from audiollm.evaluation import evaluate_towers, ranking
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.freezing import part_of, select_trainable
from audiollm.models.parts import Built
from audiollm.models.towers_parts import build_towers
from audiollm.models.two_towers import AudioTextModel
from audiollm.training.objectives import build_objective, info_nce
from audiollm.training.objectives.base import Heard
from audiollm.training.stage_model import StageModel

BERT = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "initializer_range": 0.3, "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
}  # fmt: skip
TEXTS = {
    "bert": {"config": BERT},
    "roberta": {"config": BERT | {"model_type": "roberta"}, "pooling": "first"},
    "qwen3": {"config": LLM | {"model_type": "qwen3", "num_hidden_layers": 1}},
}
SAID = ["a dog", "a bell rings twice.", None, "high and low", "A dog."]
CLIPS = [AudioPart((samples, RATE), description=said) for samples, said in zip(tones(5), SAID, strict=True)]


def towers(text="bert", seed=0, **more) -> Built:
    """Two tiny towers and their processor."""
    torch.manual_seed(seed)
    words = {} if "checkpoint" in TEXTS.get(text, {}) else {"tokenizer": tokenizer()}
    built = build_towers(encoder={"config": ENCODER}, text=TEXTS[text], width=8, **words, **more)
    unsettle(built.model)
    return built


@pytest.fixture(scope="module")
def built():
    return towers()


def row(clip, answer, task="caption", **fields):
    heard = Message("user", (*((clip,) if clip else ()), TextPart("what is it?")))
    return Row((heard, Message("assistant", (TextPart(answer),))), task=task, **fields)


def stage_of(built, *trained, **settings):
    """A stage's model, which trains these parts."""
    objective = build_objective(
        "contrastive", {"target": "description"} | settings, model=built.model, processor=built.processor
    )
    select_trainable(built.model, trained or ["encoder", "text", "projection"])
    return StageModel(built.model, {"contrastive": objective}).train()


def batch_of(stage, clips):
    objective = stage.objectives["contrastive"]
    pairs = Pairs([row(clip, "?") for clip in clips], objective.processor, words="description", with_text=False)
    return Collator(0, targets=[objective.targets])([pairs[0, number] for number in range(len(pairs))])


def run(stage, batch, num_items=None):
    """Loss and gradients of a batch."""
    stage.zero_grad()
    loss, _ = stage(batch, stage.counts(batch) if num_items is None else num_items)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in stage.named_parameters() if p.grad is not None}


@torch.no_grad()
def vector_of(built, clip=None, text=None):
    """One clip or text, alone."""
    inputs = built.processor(text=text, audio=None if clip is None else [clip.load(RATE)])
    embed = built.model.get_text_embeds if clip is None else built.model.get_audio_embeds
    return embed(**inputs)[0]


# -------------------------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("text", TEXTS)
def test_a_batch_of_clips_and_of_texts_is_what_each_is_alone_and_of_length_one(text):
    built = towers(text)
    said = ["a dog", "a bell rings twice.", "high and low", "yes"]
    waves = pad_waveforms([clip.load(RATE) for clip in CLIPS])
    with torch.no_grad():
        found = built.model.get_audio_embeds(**waves), built.model.get_text_embeds(**built.processor(text=said))
    alone = [[vector_of(built, clip=clip) for clip in CLIPS], [vector_of(built, text=one) for one in said]]
    for together, singles in zip(found, alone, strict=True):
        torch.testing.assert_close(together, torch.stack(singles), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.norm(dim=-1), torch.ones(len(together)))
        assert torch.pdist(together).min() > 1e-3  # a hundred times the tolerance: different ones are not the same


def test_a_text_is_the_mean_the_first_or_the_last_of_its_tokens(built):
    for text, pooled in {"bert": lambda x: x.mean(0), "roberta": lambda x: x[0], "qwen3": lambda x: x[-1]}.items():
        made = towers(text)
        inputs = made.processor(text="a bell rings twice.")
        with torch.no_grad():
            states = made.model.text_tower(**inputs).last_hidden_state[0]
            projected = made.model.projection.text(pooled(states))
        torch.testing.assert_close(vector_of(made, text="a bell rings twice."), projected / projected.norm())


def test_how_near_a_clip_is_to_a_text_is_their_product_over_the_temperature(built):
    inputs = built.processor(text=["a dog", "yes"], audio=[CLIPS[0].load(RATE)])
    expected = [vector_of(built, clip=CLIPS[0]) @ vector_of(built, text=text) / 0.07 for text in ("a dog", "yes")]
    torch.testing.assert_close(built.model(**inputs)[0].detach(), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_every_parameter_belongs_to_a_part_and_a_frozen_one_has_no_gradient(built):
    parts = {part_of(name) for name, _ in built.model.named_parameters()}
    assert parts == {"encoder", "text", "projection"}
    for trained in parts:
        _, gradients = run(stage_of(built, trained), batch_of(stage_of(built, trained), CLIPS))
        assert {part_of(name.removeprefix("model.")) for name in gradients} == {trained}
        assert any(gradient.any() for gradient in gradients.values())


# ----------------------------------------------------------------------------------------------------------------- loss


def oracle(pairs, words, scale):
    """Symmetric InfoNCE, one pair after the other; others of the same words are left out."""
    total = 0.0
    for i, (sound, text) in enumerate(pairs):
        others = [j for j in range(len(pairs)) if j == i or words[j] != words[i]]
        for scores in ([sound @ pairs[j][1] for j in others], [pairs[j][0] @ text for j in others]):
            scores = [scale * float(score) for score in scores]
            total += (math.log(sum(map(math.exp, scores))) - scores[others.index(i)]) / 2
    return total / len(pairs)


def test_the_loss_is_that_of_a_plain_loop_and_clips_without_words_have_no_part_in_it(built):
    stage = stage_of(built)
    loss, _ = run(stage, batch_of(stage, CLIPS))
    told = [clip for clip in CLIPS if clip.description]
    pairs = [(vector_of(built, clip=clip), vector_of(built, text=clip.description)) for clip in told]
    words = ["dog", "bell", "high", "dog"]  # "a dog" and "A dog." are the same words
    assert float(loss) == pytest.approx(oracle(pairs, words, 1 / 0.07), rel=1e-4)
    assert float(loss) != pytest.approx(oracle(pairs, range(4), 1 / 0.07), rel=1e-2)
    torch.testing.assert_close(run(stage, batch_of(stage, told))[0], loss, rtol=1e-4, atol=0)


def test_the_temperature_learns_and_stays_above_a_hundredth():
    made = towers()
    stage = stage_of(made)
    batch = batch_of(stage, CLIPS)
    assert run(stage, batch)[1]["model.projection.log_scale"] != 0
    assert made.model.projection.scale.item() == pytest.approx(1 / 0.07)
    made.model.projection.log_scale.data.fill_(10.0)
    assert made.model.projection.scale.item() == pytest.approx(100)
    assert math.isfinite(run(stage, batch)[0])


def test_a_batch_without_words_gives_zero_and_zero_gradients(built):
    stage = stage_of(built)
    batch = batch_of(stage, [CLIPS[2]])
    assert stage.counts(batch).tolist() == [0]
    loss, gradients = run(stage, batch)
    assert loss == 0 and gradients and not any(gradient.any() for gradient in gradients.values())


class Ranks:
    """Threads that stand for processes: a sum over them waits for all."""

    def __init__(self, number):
        self.here, self.barrier, self.given = threading.local(), threading.Barrier(number), [None] * number
        self.number = number

    def all_reduce(self, tensor):
        self.given[self.here.rank] = tensor
        self.barrier.wait(20)
        total = sum(given.clone() for given in self.given)
        self.barrier.wait(20)
        tensor.copy_(total)
        self.barrier.wait(20)

    def run(self, function):
        """What the function gives on each rank."""
        found = [None] * self.number

        def start(rank):
            self.here.rank = rank
            found[rank] = function(rank)

        threads = [threading.Thread(target=start, args=(rank,)) for rank in range(self.number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


@pytest.mark.parametrize("shares", [[slice(0, 2), slice(2, 5)], [slice(0, 5), slice(2, 3)]], ids=["unlike", "no words"])
def test_the_clips_of_all_ranks_are_negatives_with_their_gradient(shares, monkeypatch):
    """Summed over ranks, loss and gradients are those of one process that hears all; one rank may have no words."""
    made = towers()
    ranks = Ranks(2)
    monkeypatch.setattr(info_nce.dist, "all_reduce", ranks.all_reduce)
    monkeypatch.setattr(info_nce.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(info_nce.dist, "get_rank", lambda: ranks.here.rank)
    whole = stage_of(made)
    told = [clip for clip in CLIPS if clip.description]
    count = torch.tensor([float(len(told))])
    loss, gradients = run(whole, batch_of(whole, CLIPS), count)

    def of_rank(rank):
        copy = towers()
        stage = stage_of(copy)
        stage.load_state_dict(whole.state_dict())
        monkeypatch.setattr(type(copy.model), "trains_on_ranks", True)
        return run(stage, batch_of(stage, CLIPS[shares[rank]]), count)

    found = ranks.run(of_rank)
    torch.testing.assert_close(sum(one for one, _ in found), loss, rtol=1e-4, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(sum(one[name] for _, one in found), gradient, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- pairs


def test_a_clip_has_another_of_its_captions_in_each_epoch_and_the_same_for_the_same_seed(built):
    heard = [row(CLIPS[0], "one", references=("two", "three")), row(CLIPS[0], "four"), row(CLIPS[0], "no", "existence")]

    def drawn(seed):
        pairs = Pairs(heard, built.processor, words="caption", with_text=False, seed=seed)
        return [pairs[epoch, 0].clips[0].description for epoch in range(30)]

    assert len(Pairs(heard, built.processor, words="caption", with_text=False)) == 1
    assert set(drawn(0)) == {"one", "two", "three", "four"}
    assert drawn(0) == drawn(0) != drawn(1)


def test_where_the_texts_of_a_clip_stand():
    clip = AudioPart("x.wav", description=" a dog ", transcript="sit")
    every = [
        row(clip, "rain", references=("rain", "water")),
        row(clip, "yes", "existence"),
        row(clip, "pop", "music_caption"),
    ]
    assert texts_of(every, "caption") == ["rain", "water", "pop"]
    assert texts_of(every, "description") == ["a dog"] and texts_of(every, "transcript") == ["sit"]
    assert texts_of([row(clip, "rain", None)], "caption") == ["rain"]  # a table without tasks
    two = Row((Message("user", (clip, clip)), Message("assistant", (TextPart("both"),))), task="caption")
    assert texts_of([two], "caption") == [] and texts_of([two], "description", 1) == ["a dog"]


def test_a_text_that_is_too_long_and_a_broken_clip_are_named_and_have_no_words(built):
    clips = [AudioPart("no/such.wav", description="a dog"), AudioPart(CLIPS[0].audio, description="a dog " * 30)]
    pairs = Pairs([row(clip, "?") for clip in clips], built.processor, words="description", with_text=False)
    examples = [pairs[0, number] for number in range(2)]
    assert [example.clips[0].description for example in examples] == [None, None]
    assert [example.problems[0]["found"] for example in examples] == ["hearing", "measuring"]
    assert "tokens, and the text tower knows 40" in examples[1].problems[0]["cause"]


# ------------------------------------------------------------------------------------------------------------- rankings


def test_places_are_those_of_a_ranking_in_which_wrong_ones_of_the_same_score_come_first():
    draw = random.Random(0)
    for _ in range(200):
        scores = [draw.choice([0.1, 0.2, 0.3, math.nan]) for _ in range(draw.randint(1, 12))]
        right = draw.sample(range(len(scores)), draw.randint(1, len(scores)))
        ordered = sorted((n for n, s in enumerate(scores) if s == s), key=lambda n: (-scores[n], n in right))
        expected = [place for place, n in enumerate(ordered, 1) if n in right]
        assert ranking.places_of(np.array(scores), right) == expected


def test_recall_and_average_precision_of_a_ranking_by_hand():
    places = [2, 5, 11]  # of three right ones
    assert [ranking.recall(places, k) for k in (1, 2, 10)] == [0, 1, 1] and ranking.recall([], 10) == 0
    assert ranking.average_precision(places, 3, 10) == pytest.approx((1 / 2 + 2 / 5) / 3)
    assert ranking.average_precision([1, 2], 20, 10) == pytest.approx(2 / 10)


@pytest.mark.parametrize(("num_right", "candidates", "k"), [(1, 5, 1), (2, 5, 3), (3, 6, 2), (4, 4, 10)])
def test_chance_is_the_mean_over_all_orders(num_right, candidates, k):
    orders = list(itertools.permutations(range(candidates)))
    placed = [sorted(order.index(n) + 1 for n in range(num_right)) for order in orders]
    recall = sum(ranking.recall(places, k) for places in placed) / len(orders)
    precision = sum(ranking.average_precision(places, num_right, k) for places in placed) / len(orders)
    assert ranking.chance_recall(num_right, candidates, k) == pytest.approx(recall)
    assert ranking.chance_average_precision(num_right, candidates, k) == pytest.approx(precision)


class FakeMatcher:
    """Clips are told apart by the first sample, texts by their words."""

    def __init__(self, vectors):
        self.vectors, self.asked = vectors, []

    def embed_clips(self, clips, *, batch_size, advance):
        problems = {n: "broken" for n, clip in enumerate(clips) if isinstance(clip.audio, str)}
        found = [
            [math.nan] * 2 if n in problems else self.vectors[int(clip.audio[0][0])] for n, clip in enumerate(clips)
        ]
        advance(len(clips))
        return np.array(found, np.float32), problems

    def embed_texts(self, texts):
        self.asked += texts
        return np.array([self.vectors[text] for text in texts], np.float32)


def clip_of(number):
    return AudioPart((np.full(10, number, np.float32), 1000))


def score(matcher, rows, **settings):
    options = {"template": "a sound of {label}", "progress": False} | settings
    return evaluate_towers(matcher, rows, **options)


def test_retrieval_counts_several_captions_a_clip_as_the_literature_does():
    """Every caption asks for its clip, each clip for any of its own; what two clips share is one text."""
    captions = {0: ("north", "up"), 1: ("east", "Shared."), 2: ("south", "shared")}
    vectors = {0: (0, 1), 1: (1, 0), 2: (0, -1), "north": (0, 1), "up": (1, 0.5), "east": (1, 0.1), "south": (-1, -0.2)}
    vectors |= {"Shared.": (0.6, -0.5), "shared": (0.6, -0.5)}
    rows = [row(clip_of(n), first, references=(second,), id=str(n)) for n, (first, second) in captions.items()]
    found = score(FakeMatcher(vectors), rows).tasks
    # t2a: north->0 yes; up->1 no; east->1 yes; shared->1 of (1, 2) yes, twice asked; south->2 yes
    assert found["caption_t2a_R@1"].score == pytest.approx(5 / 6) and found["caption_t2a_R@1"].n == 6
    # up: clip 0 stands second; shared: clips 1 and 2 stand first and second
    assert found["caption_t2a_mAP@10"].score == pytest.approx((1 + 1 / 2 + 1 + 1 + 1 + 1) / 6)
    assert found["caption_t2a_R@1"].prior == pytest.approx((4 * 1 / 3 + 2 * 2 / 3) / 6)
    # a2t over five texts: clip 0 -> north yes; clip 1 -> up no (east and up tie at 1: the wrong one stands first);
    # clip 2 -> shared yes
    assert found["caption_a2t_R@1"].score == pytest.approx(2 / 3) and found["caption_a2t_R@1"].n == 3
    low, high = found["caption_a2t_R@1"].ci95
    assert low < 2 / 3 < high and found["caption_t2a_R@5"].score == 1


def test_a_model_that_tells_nothing_apart_earns_nothing_and_a_broken_clip_counts_as_wrong(tmp_path):
    same = {n: (1, 0) for n in range(4)} | {f"text {n}": (1, 0) for n in range(4)}
    rows = [row(clip_of(n), f"text {n}", id=str(n)) for n in range(4)]
    assert score(FakeMatcher(same), rows).tasks["caption_t2a_R@1"].score == 0
    apart = {n: (math.cos(n), math.sin(n)) for n in range(4)} | {
        f"text {n}": (math.cos(n), math.sin(n)) for n in range(4)
    }
    broken = [*rows[:3], row(AudioPart("broken.wav"), "text 3", id="3")]
    found = score(FakeMatcher(apart), broken, out=tmp_path / "out.jsonl")
    assert found.tasks["caption_t2a_R@1"].score == found.tasks["caption_a2t_R@1"].score == 3 / 4
    assert found.tasks["caption_t2a_R@10"].score == 3 / 4
    assert "1 of 4 could not be asked and count as wrong (broken)" in found.remarks[0]
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 8


def test_classification_is_among_the_choices_or_all_answers_of_the_task_in_the_words_of_the_template():
    vectors = {n: (math.cos(n), math.sin(n)) for n in range(4)}
    vectors |= {f"a sound of {name}": vectors[n] for n, name in enumerate(["dog", "bell", "rain", "cow"])}
    rows = [row(clip_of(n), name, "sound") for n, name in enumerate(["dog", "bell", "rain", "dog"])]
    choice = [
        row(clip_of(3), "dog", "sound_mcq", choices=("dog", "cow")),
        row(clip_of(0), "dog", "sound_mcq", choices=("dog", "rain")),
    ]
    yes = [row(clip_of(0), "yes", "existence"), row(clip_of(1), "no", "existence")]
    matcher = FakeMatcher(vectors)
    found = score(matcher, rows + choice + yes, blind=True)
    assert found.tasks["sound"].score == 3 / 4 and found.tasks["sound"].prior == 1 / 2
    assert found.tasks["sound_mcq"].score == 1 / 2 and set(found.tasks) == {"sound", "sound_mcq"}
    assert "a sound of cow" in matcher.asked and found.tasks["sound"].blind is not None
    assert found.remarks[0].startswith("existence: left out") and "exchanged" in found.remarks[1]


def test_with_another_clips_sound_retrieval_falls_to_chance():
    turn = 2 * math.pi / 40
    vectors = {n: (math.cos(n * turn), math.sin(n * turn)) for n in range(40)}
    vectors |= {f"text {n}": vectors[n] for n in range(40)}
    found = score(FakeMatcher(vectors), [row(clip_of(n), f"text {n}") for n in range(40)], blind=True).tasks
    for way in ("t2a", "a2t"):
        task = found[f"caption_{way}_R@10"]
        assert task.score == 1 and task.prior == pytest.approx(10 / 40)
        assert task.blind == pytest.approx(task.prior, abs=0.25)
        assert found[f"caption_{way}_R@1"].blind == 0  # no clip keeps its own sound


def test_rows_that_no_tower_can_be_judged_by_are_refused():
    with pytest.raises(ValueError, match="no row has one clip with a caption, a label or choices"):
        score(FakeMatcher({}), [row(None, "a dog")])


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def public(tmp_path):
    """A text tower as the Hub would give it."""
    torch.manual_seed(0)
    words = tokenizer()
    config = BertConfig(**{k: v for k, v in BERT.items() if k != "model_type"}, vocab_size=len(words))
    unsettle(BertModel(config)).save_pretrained(tmp_path / "bert")
    words.save_pretrained(tmp_path / "bert")
    return {"checkpoint": str(tmp_path / "bert")}


def test_a_checkpoint_gives_the_same_model_and_an_untouched_base_is_a_name(public, tmp_path):
    built = build_towers(encoder={"config": ENCODER}, text=public, width=8)
    save_checkpoint(built.model, built.processor, tmp_path / "saved", trained={"projection"})
    names = {name.split(".")[0] for name in load_names(tmp_path / "saved")}
    assert names == {"audio_tower", "projection"}
    again = AudioTextModel.from_pretrained(str(tmp_path / "saved"))
    assert checksum(again) == checksum(built.model) and again.trained_parts == {"projection"}
    assert isinstance(AutoModel.from_pretrained(tmp_path / "saved"), AudioTextModel)
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert processor.max_text_tokens == 40 and processor.text_ids("a dog") == built.processor.text_ids("a dog")
    matcher = matching.load(tmp_path / "saved", device="cpu")
    clips = [*CLIPS[:2], AudioPart("no/such.wav")]
    found, problems = matcher.embed_clips(clips, batch_size=2)
    torch.testing.assert_close(torch.tensor(found[0]), vector_of(built, clip=CLIPS[0]), rtol=1e-4, atol=1e-5)
    assert list(problems) == [2] and np.isnan(found[2]).all()
    torch.testing.assert_close(torch.tensor(matcher.embed_texts(["yes", "a dog"])[1]), vector_of(built, text="a dog"))


def test_another_base_under_the_same_name_is_refused(public, tmp_path):
    built = build_towers(encoder={"config": ENCODER}, text=public, width=8)
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    (tmp_path / "bert").rename(tmp_path / "before")  # whose file is mapped into memory
    other = BertModel(BertConfig.from_pretrained(tmp_path / "before"))
    other.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="is not the model that this checkpoint was trained with"):
        AudioTextModel.from_pretrained(str(tmp_path / "saved"))


def load_names(folder):
    """Names of the tensors in a checkpoint."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


# ------------------------------------------------------------------------------------------------------------- mistakes


def test_each_kind_of_checkpoint_is_told_from_the_other(built, tmp_path):
    save_checkpoint(built.model, built.processor, tmp_path / "towers")
    talks = tiny()
    save_checkpoint(talks.model, talks.processor, tmp_path / "talks")
    for refused in (inference.load, chat.open_talk):
        with pytest.raises(ValueError, match="holds two towers, which compare sounds with texts and answer nothing"):
            refused(tmp_path / "towers")
    with pytest.raises(ValueError, match=r"holds no two towers; audiollm.load opens an audio language model"):
        matching.load(tmp_path / "talks")
    with pytest.raises(ValueError, match=r"quantize=nf4 is about a language model, and .* holds two towers"):
        matching.load_either(tmp_path / "towers", quantize="nf4")


def test_a_text_tower_reads_text_alone(built):
    with pytest.raises(ValueError, match=r"model.text: the config is a t5, which encodes and decodes"):
        build_towers(encoder={"config": ENCODER}, text={"config": {"model_type": "t5"}}, tokenizer=tokenizer())
    with pytest.raises(ValueError, match=r"model.text: the config is a clap, which does not read text alone"):
        build_towers(encoder={"config": ENCODER}, text={"config": {"model_type": "clap"}}, tokenizer=tokenizer())
    with pytest.raises(ValueError, match="the text has no words"):
        towers("qwen3").processor.text_ids("")
    with pytest.raises(ValueError, match=r"unknown objective 'ctc'; known: contrastive"):
        build_objective("ctc", {}, model=built.model, processor=built.processor)


def test_nothing_is_heard_twice_and_frames_that_were_kept_are_taken(built):
    stage = stage_of(built, "projection")
    batch = batch_of(stage, CLIPS[:2])
    heard = stage.listen(batch, stage.objectives.values())
    assert isinstance(heard, Heard) and not heard.frames_NTC.requires_grad
    kept = {
        "audio_frames": heard.frames_NTC,
        "audio_frames_mask": heard.mask_NT,
        "audio_is_cached": torch.ones(2, dtype=torch.bool),
    }
    again = {name: value for name, value in batch.items() if not name.startswith("input_values")} | kept
    torch.testing.assert_close(run(stage, again)[0], run(stage, batch)[0])

"""The demo corpus: reproducible, balanced, and its test made of what training never had."""

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from audiollm import audio
from audiollm.data.sources import load_rows
from audiollm.resources import import_converter

demo = import_converter("demo")
from data_prep.demo import draw, music, phrasings, questions, render, scenes, sounds, voices, words  # noqa: E402

SIZES = {"clips": 16, "validation_clips": 4, "test_clips": 12, "text_scenes": 12, "seed": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    demo.prepare(out, **SIZES, workers=1)
    return out


@pytest.fixture(scope="module")
def plans() -> dict:
    """Scenes and questions of the sizes that are made by default, without sound."""
    return {"train": demo.plan("train", 8000, 0), "test": demo.plan("test", 1320, 0)}


def asked_of(plan, task: str) -> list:
    return [(item.scene, question) for item in plan for question in item.questions if question.task == task]


# ------------------------------------------------------------------------------------------------------ reproducible


def test_two_runs_give_the_same_bytes_whatever_the_number_of_workers(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "CLIPS_A_JOB", 3)
    demo.prepare(tmp_path, **SIZES, workers=2)
    assert digests(tmp_path) == digests(corpus)
    assert len(digests(corpus)) == 16 + 4 + 12 + 5


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_another_seed_gives_other_scenes():
    assert demo.plan("train", 20, 0) != demo.plan("train", 20, 1)


@pytest.mark.parametrize("variant", [name for group in voices.VARIANTS.values() for v in group.values() for name in v])
def test_what_was_said_before_does_not_change_what_is_said(variant):
    voice, other = voices.Voice("", "en", variant), voices.Voice("", "en-US", "f5")
    first, _ = voices.synthesise("seven", voice, 240, 50)
    voices.synthesise("open the red window", other, 200, 60)
    again, _ = voices.synthesise("seven", voice, 240, 50)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first).max() > 0.1


# -------------------------------------------------------------------------------------------------------- held out


def test_training_never_hears_a_voice_of_the_test(plans):
    heard = {
        split: {item.scene.voice.variant for item in plan if item.scene.voice is not None}
        for split, plan in plans.items()
    }
    assert not heard["train"] & heard["test"]
    assert heard["test"] == {"f2", "f4", "m6", "michel"}


@pytest.mark.parametrize("kind", ["sound", "speech", "music"])
def test_no_parameter_of_the_test_is_drawn_in_training(kind, monkeypatch):
    drawn = defaultdict(list)
    position = draw.Draw.position

    def recorded(self) -> float:
        drawn[self.bands].append(position(self))
        return drawn[self.bands][-1]

    monkeypatch.setattr(draw.Draw, "position", recorded)
    for split in ("train", "test"):
        rng = np.random.default_rng(0)
        for scene in [s for s in scenes.draw_scenes(split, 120, rng) if s.kind == kind]:
            render.render(scene, draw.Draw(rng, split))
    train, test = np.array(drawn[draw.BANDS["train"]]), np.array(drawn[draw.BANDS["test"]])
    assert len(train) > 100 and len(test) > 100
    assert test.min() >= 0.42 and test.max() <= 0.58
    assert not np.any((train > 0.4) & (train < 0.6))


@pytest.mark.parametrize("limits", [voices.WORDS_A_MINUTE, voices.PITCH])
def test_whole_numbers_of_the_test_are_not_drawn_in_training(limits):
    rng = np.random.default_rng(0)
    drawn = {split: {int(draw.Draw(rng, split).between(*limits)) for _ in range(2000)} for split in ("train", "test")}
    assert not drawn["train"] & drawn["test"]


def test_training_never_hears_what_is_said_in_the_test(plans):
    said = {split: {item.scene.transcript for item in plan} - {None} for split, plan in plans.items()}
    assert len(said["test"]) > 350 and not said["test"] & said["train"]
    assert not said["test"] & {item.scene.transcript for item in demo.plan("text", 20_000, 0)}


def test_test_phrasings_are_never_read_in_training():
    for task in phrasings.TASKS:
        read, unread = phrasings.PHRASINGS[task], phrasings.OTHER_PHRASINGS[task]
        assert 5 <= len(set(read)) <= 8 and len(set(unread)) >= 3
        assert not set(read) & set(unread)
        assert len({"{}" in phrasing for phrasing in (*read, *unread)}) == 1


# -------------------------------------------------------------------------------------------------- nothing to guess


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("task", ["existence", "word"])
def test_each_thing_is_asked_for_as_often_where_it_is_as_where_it_is_not(plans, split, task):
    answers = defaultdict(Counter)
    for _, question in asked_of(plans[split], task):
        answers[question.about][question.answer] += 1
    expected = {"existence": len(sounds.SOUNDS) + len(music.INSTRUMENTS), "word": len(words.VOCABULARY)}
    assert len(answers) == expected[task]
    for about, counts in answers.items():
        assert abs(counts["yes"] - counts["no"]) <= 2, (about, counts)


@pytest.mark.parametrize("task", ["existence", "word"])
def test_a_clip_is_asked_for_something_there_and_for_something_that_is_not(plans, task):
    for item in plans["train"]:
        answers = [question.answer for question in item.questions if question.task == task]
        assert answers.count("yes") == answers.count("no")
        about = [question.about for question in item.questions if question.task == task]
        assert len(set(about)) == len(about)


def test_absent_things_are_often_similar_to_those_there(plans):
    hard = [
        any(words.CLASS_OF[question.about] == words.CLASS_OF.get(word) for word in scene.words)
        for scene, question in asked_of(plans["train"], "word")
        if question.answer == "no"
    ]
    assert np.mean(hard) > 0.5


@pytest.mark.parametrize("task", ["kind", "gender", "count", "tempo", "instrument", "order"])
def test_no_answer_of_the_test_is_much_commoner_than_another(plans, task):
    counts = Counter(question.answer for _, question in asked_of(plans["test"], task))
    slack = {"order": 12}.get(task, 4)
    assert max(counts.values()) - min(counts.values()) <= slack, counts


def test_words_are_about_equally_frequent(plans):
    counts = Counter(word for item in plans["train"] for word in words.content_words(item.scene.words))
    assert set(counts) == set(words.VOCABULARY)
    assert max(counts.values()) < 2 * min(counts.values())


# ------------------------------------------------------------------------------------------------------- true answers


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_description_holds_what_the_answers_say(plans, split):
    for item in plans[split]:
        told = item.scene.description.replace(":", " ").replace(",", " ").split()
        for question in item.questions:
            assert is_told(question, told), (item.scene.description, question)


def is_told(question, told: list[str]) -> bool:
    """Whether the answer follows from the words of the description."""
    about = question.about.split()[-1] if question.about else ""
    if question.task in ("existence", "word"):
        return (about in told) == (question.answer == "yes")
    if question.task == "count":
        return len(told) - 1 == ["zero", "one", "two", "three"].index(question.answer)
    if question.task == "order":
        return told[1 if about == "first" else -1] == question.answer
    if question.task == "kind":
        return told[0].removesuffix("s") == question.answer
    grammar = {"a", "an", "then", "speaking", "melody"}
    names = [word for word in question.answer.replace(",", "").split() if word not in grammar]
    return set(names) <= set(told) if question.task == "describe" else " ".join(names) in " ".join(told)


def test_every_task_has_at_least_400_questions_in_the_test(plans):
    counts = Counter(question.task for item in plans["test"] for question in item.questions)
    assert set(counts) == set(demo.TASKS) and len(demo.TASKS) == 11
    assert min(counts.values()) >= 400 and sum(counts.values()) < 5500


def test_the_corpus_is_as_rich_as_it_should_be():
    assert len(set(words.VOCABULARY)) >= 60
    assert len(sounds.SOUNDS) >= 15 and len(music.INSTRUMENTS) >= 6
    for split, least in (("train", 12), ("test", 4)):
        genders = Counter(voice.gender for voice in voices.voices(split))
        assert genders["woman"] == genders["man"] >= least // 2


@pytest.mark.parametrize("task", questions.EASY)
def test_an_easy_question_is_asked_of_about_half_of_what_is_learned_and_of_all_that_is_tested(plans, task):
    for split, least, most in (("train", 0.45, 0.55), ("test", 1.0, 1.0)):
        asked = {item.id for item in plans[split] for question in item.questions if question.task == task}
        could = [item for item in plans[split] if task != "gender" or item.scene.voice is not None]
        number = min(len(could), demo.TEST_QUESTIONS) if split == "test" else len(could)
        assert least <= len(asked) / number <= most


def test_auxiliary_questions_are_asked_of_words_and_on_demand():
    assert asked_of(demo.plan("text", 40, 0, auxiliary=True), "after")
    for name in ("text", "train", "validation", "test"):
        assert not asked_of(demo.plan(name, 40, 0), "after")


# -------------------------------------------------------------------------------------------------------------- files


def test_clips_are_short_and_neither_silent_nor_clipped(corpus):
    for path in sorted((corpus / "clips").glob("*.flac")):
        samples = audio.load(path, 16_000)
        assert 0.3 < len(samples) / 16_000 < 3
        assert 0.2 < np.abs(samples).max() < 0.95
        assert np.sqrt(np.mean(samples**2)) > 0.01


def test_rows_of_a_clip_stand_together_and_tell_its_length(corpus):
    for name in ("train", "validation", "test", "test_phrasings"):
        rows = load_rows(corpus / f"{name}.jsonl", strict=True)
        order = [row.source_id for row in rows]
        assert sorted(order) == order and len({row.id for row in rows}) == len(rows)
        for row in rows:
            [clip] = row.clips
            assert clip.duration == pytest.approx(audio.duration(clip.audio), abs=1e-3)
            assert (clip.transcript is not None) == clip.description.startswith("speech")


def test_both_tests_ask_the_same(corpus):
    asked = [load_rows(corpus / f"{name}.jsonl", strict=True) for name in ("test", "test_phrasings")]
    for row, other in zip(*asked, strict=True):
        assert (row.id, row.target, row.clips) == (other.id, other.target, other.clips)
        assert row.question != other.question


def test_scenes_in_words_look_like_clips_told_by_their_description(corpus):
    told = json.loads((corpus / "text.jsonl").read_text().splitlines()[0])
    heard = load_rows(corpus / "train.jsonl", strict=True)[0].with_description()
    kinds = [part["type"] for message in told["messages"] for part in message["content"]]
    assert kinds == ["text", "text", "text"]
    assert [len(message.content) for message in heard.messages] == [2, 1]

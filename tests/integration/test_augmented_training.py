"""Augmentation in training: drawn by seed, epoch and clip alone, and for training alone."""

import json

import numpy as np
import pytest
from test_training import corpus, losses, recipe_of, stage  # noqa: F401  (a fixture)

from audiollm.data.dataset import Recordings
from audiollm.recipe import RecipeError
from audiollm.training import dry_run, run_recipe
from audiollm.training.stages import StageTrainer

AUGMENT = {"gain": {"probability": 1.0}, "noise": {"probability": 0.5}, "speed": {"probability": 0.5}}


def augmented(folder, corpus, *overrides, **data):  # noqa: F811
    """A stage of three epochs on augmented clips."""
    sources = {"validation": [{"path": str(corpus / "validation.jsonl")}], "augment": AUGMENT}
    trainer = {"max_steps": 12, "eval_steps": 4, "save_steps": 4}
    only = stage(corpus, ["connector"], {"language_modeling": 1}, data=sources | data, trainer=trainer)
    return recipe_of(folder, corpus, {"only": only}, *overrides)


@pytest.fixture
def heard(monkeypatch):
    """The sound of each clip, by what it is drawn by, as often as it is heard."""
    found: list[tuple[bool, tuple, bytes]] = []
    hear = Recordings.hear

    def watched(self, clip, key):
        samples = hear(self, clip, key)
        found.append((self.augment is not None, key, samples.tobytes()))
        return samples

    monkeypatch.setattr(Recordings, "hear", watched)
    return found


def test_a_clip_sounds_otherwise_in_each_epoch_and_validation_is_left_alone(corpus, tmp_path, heard, capsys):  # noqa: F811
    run_recipe(augmented(tmp_path, corpus))
    training = {key: sound for augments, key, sound in heard if augments}
    validation = {(key, sound) for augments, key, sound in heard if not augments}
    assert len({key[0] for key in training}) == 3 and len(set(training.values())) == len(training) == 48
    assert len(validation) == len({key for key, _ in validation})  # each clip the same each time
    assert "clips are augmented: speed 50%, noise 50%, gain 100%" in capsys.readouterr().out


def test_how_the_work_is_shared_and_stopped_changes_no_clip(corpus, tmp_path, heard, monkeypatch):  # noqa: F811
    run_recipe(augmented(tmp_path / "whole", corpus))
    whole = {key: sound for augments, key, sound in heard if augments}
    heard.clear()
    monkeypatch.setattr(StageTrainer, "training_step", stopped_after(StageTrainer.training_step, 6))
    with pytest.raises(KeyboardInterrupt):
        run_recipe(augmented(tmp_path / "parts", corpus))
    monkeypatch.undo()
    run_recipe(augmented(tmp_path / "parts", corpus))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert all(whole[key] == sound for augments, key, sound in heard if augments)


def stopped_after(step, number):
    calls = []

    def training_step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > number:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    return training_step


def test_lengths_are_measured_for_the_longest_that_a_clip_may_become(corpus, tmp_path):  # noqa: F811
    slower = {"speed": {"probability": 1.0, "factor": [0.5, 0.5]}}
    longer = {"batch_tokens": 200, "augment": slower}
    run_recipe(augmented(tmp_path, corpus, **longer))
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["only"]
    assert record["steps"] == 12 and record["rows_left_out"] == 0 and np.isfinite(losses(tmp_path)).all()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"cache_features": True}, "`cache_features` keeps what is heard, and `augment` changes it"),
        ({"augment": {"gian": {}}}, r"augment: 'gian' is not a setting here; did you mean 'gain'"),
        ({"augment": {"overlap": {"probability": 1.0}}}, "overlap needs other clips, and none are given"),
        ({"augment": {"noises": "nowhere", "noise": {"probability": 1.0}}}, "noises is nowhere, in which there is no"),
    ],
)
def test_augmentation_that_cannot_be_is_told_with_its_key(corpus, tmp_path, data, told):  # noqa: F811
    with pytest.raises(RecipeError, match=told):
        run_recipe(augmented(tmp_path, corpus, **data))


def test_recordings_of_a_folder_are_mixed_in(corpus, tmp_path, heard):  # noqa: F811
    mixed = {"overlap": {"probability": 1.0, "ratio_db": [0, 0]}, "others": str(corpus)}
    run_recipe(augmented(tmp_path, corpus, augment=mixed))
    assert len({sound for augments, _, sound in heard if augments}) > 16


@pytest.mark.parametrize("stream", [False, True])
def test_a_mixture_that_breaks_the_licence_policy_is_refused_with_names(corpus, tmp_path, stream, capsys):  # noqa: F811
    rows = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"source": "bells" if number % 2 else "birds", "license": "CC BY-NC 4.0" if number % 2 else "cc0-1.0"}
    path = corpus / f"licensed-{stream}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    only = stage(
        corpus, ["connector"], {"language_modeling": 1}, data={"train": [{"path": str(path), "stream": stream}]}
    )
    for policy in ("any", "research"):
        run_recipe(recipe_of(tmp_path / policy, corpus, {"only": only}, f"license_policy={policy}"))
    for start in (dry_run, run_recipe):
        with pytest.raises(
            RecipeError, match=r"license_policy .* commercial does not allow `bells` \(CC BY-NC 4.0, \d+ rows\)"
        ):
            start(recipe_of(tmp_path / "no", corpus, {"only": only}, "license_policy=commercial"))
    assert "licence is unknown" not in capsys.readouterr().out
    bare = stage(corpus, ["connector"], {"language_modeling": 1})
    run_recipe(recipe_of(tmp_path / "bare", corpus, {"only": bare}, "license_policy=research"))
    assert "lets in rows whose licence is unknown" in capsys.readouterr().out

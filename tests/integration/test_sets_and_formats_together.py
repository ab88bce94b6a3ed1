"""Public sets and other tools' files in one mixture: each brings its rows, in memory and streamed, and is learnt."""

import json

import archives  # noqa: F401  (which enters the layouts)
import pytest
from converters import ARCHIVES, examples, write_parquet
from test_training import corpus, recipe_of, stage  # noqa: F401  (a fixture)

from audiollm.curation.prepare import prepare
from audiollm.data.foreign import convert_to, file_for
from audiollm.data.sources import load_rows
from audiollm.resources import import_converter
from audiollm.training import run_recipe

ON_DISK = ("esc50", "audiocaps", "librispeech")
ON_THE_HUB = ("urbansound8k", "voice_assistant", "mls")
FOREIGN = ("ms-swift", "ltu", "openai")


@pytest.fixture(scope="module")
def sources(corpus, tmp_path_factory):  # noqa: F811
    """Name of the source -> its file of rows."""
    folder = tmp_path_factory.mktemp("mixture")
    found = {}
    for name in (*ON_DISK, *ON_THE_HUB):
        converter, made = import_converter(name), folder / name
        if name in ON_DISK:
            ARCHIVES[name](made, examples(converter))
        else:
            write_parquet(made, converter, examples(converter))
        prepare(name, folder / "rows" / name, {"source": str(made), "audio": "flac"})
        found[name] = next(str(path) for path in sorted((folder / "rows" / name).glob("t*.jsonl")))
    rows = load_rows(str(corpus / "train.jsonl"))
    for number, form in enumerate(FOREIGN):
        path = file_for(str(folder / "rows.jsonl"), form, None)
        _, unsayable = convert_to(rows[number::3], form, path)
        assert not unsayable.count
        found[form] = str(path)
    return found


@pytest.mark.parametrize("stream", [False, True], ids=["in memory", "streamed"])
def test_six_sets_and_three_foreign_formats_are_learnt_together(corpus, sources, tmp_path, stream):  # noqa: F811
    lines = {name: {"path": path, "stream": stream and path.endswith(".jsonl")} for name, path in sources.items()}
    heard = {name: len({row.clips[0].key for row in load_rows(path)}) for name, path in sources.items()}
    data = {"train": list(lines.values()), "augment": {"noise": {"probability": 0.5}}}
    trainer = {"max_steps": 60, "per_device_train_batch_size": sum(heard.values()) // 2, "logging_steps": 20}
    only = stage(corpus, ["connector", "llm"], {"language_modeling": 1}, data=data, trainer=trainer)
    run_recipe(recipe_of(tmp_path, corpus, {"only": only}))
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["only"]
    assert {source for _, source, _ in record["licences"]} >= {*ON_DISK, *ON_THE_HUB}
    assert record["rows_left_out"] == 0 and not record["problems"]
    first, *_, last = (loss for _, loss in record["loss"])
    assert last < 0.6 * first

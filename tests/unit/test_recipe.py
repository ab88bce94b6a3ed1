"""A recipe says what is wrong where it is written, and where each value came from."""

import json
import shlex
import typing
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from audiollm import cli
from audiollm.curation import prepare as preparing
from audiollm.models.configuration import PARTS
from audiollm.models.connectors import CONNECTORS
from audiollm.models.connectors.window_qformer import WindowQFormerSettings
from audiollm.recipe import (
    Part,
    Recipe,
    RecipeError,
    load_recipe,
    missing_files,
    prepare_command,
    recipe_schema,
    require_files,
)
from audiollm.recipe_trainer import OWNED_TRAINER_KEYS

TINY = """\
name: tiny
prepare: {demo: {clips: 10}}
model:
  encoder: {config: {d_model: 8}}
  connector: {name: window_qformer, num_queries: 2}
  llm: {config: {model_type: qwen3}, tokenizer: {train_on: "${data}/demo/text.jsonl"}}
stages:
  align:
    objectives: {language_modeling: 1, ctc: {weight: 0.3, label_smoothing: 0.1}}
    train: [connector]
    data: {train: ["${data}/demo/train.jsonl", {path: other.jsonl, weight: 2}]}
    trainer: {max_steps: 10, learning_rate: 2e-3}
  instruct:
    objectives: {language_modeling: 1}
    train: {connector: 5.0e-4, lora: 1.0e-3}
    data: {train: ["${data}/demo/train.jsonl"], validation: ["${data}/demo/validation.jsonl"]}
evaluate: [{path: "${data}/demo/test.jsonl", blind: true}]
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Recipes are written beside each other in the working folder."""
    monkeypatch.chdir(tmp_path)


def write(text: str = TINY, path: str = "tiny.yaml") -> str:
    """A recipe file; its path."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return path


def message_of(text: str, *overrides: str) -> str:
    """What the error says about a recipe that cannot be used."""
    with pytest.raises(RecipeError) as raised:
        load_recipe(write(text), overrides)
    return str(raised.value)


def test_interpolations_defaults_and_shorthands_are_filled_in():
    recipe = load_recipe(write())
    align, instruct = recipe.stages.values()
    assert recipe.output == "runs/tiny"
    assert [source.path for source in align.data.train] == ["data/demo/train.jsonl", "other.jsonl"]
    assert align.objectives["language_modeling"].weight == 1
    assert align.objectives["ctc"].own == {"label_smoothing": 0.1}
    assert recipe.model.connector == {"name": "window_qformer", **WindowQFormerSettings(num_queries=2).model_dump()}
    assert instruct.adapters["lora"].r == 16 and not align.adapters


def test_numbers_that_yaml_reads_as_text_are_numbers():
    trainer = load_recipe(write(TINY.replace("2e-3", "'2e-3'"))).stages["align"].trainer
    assert trainer["learning_rate"] == 0.002 and trainer["max_steps"] == 10
    assert load_recipe(write()).stages["align"].trainer["learning_rate"] == 0.002


def test_each_part_has_a_learning_rate():
    stages = load_recipe(write()).stages
    assert stages["align"].learning_rates == {"connector": 0.002}
    assert stages["instruct"].learning_rates == {"connector": 5e-4, "lora": 1e-3}
    without = load_recipe(write(TINY.replace(", learning_rate: 2e-3", ""))).stages["align"]
    assert without.learning_rates == {"connector": 5e-5}  # the default of transformers


def test_the_command_line_wins_and_says_what_the_recipe_said():
    recipe = load_recipe(write(), ["stages.align.trainer.max_steps=20", "stages.align.data.train.1.limit=3", "seed=7"])
    assert recipe.stages["align"].trainer["max_steps"] == 20
    assert recipe.stages["align"].data.train[1].limit == 3 and recipe.seed == 7
    said = recipe.provenance
    assert said["stages.align.trainer.max_steps"] == "command line (recipe: 10)"
    assert said["stages.align.data.train.1.limit"] == "command line"
    assert said["stages.align.data.train.0.path"] == "recipe"
    assert said["stages.align.data.train.0.weight"] == "default"
    assert said["stages.align.objectives.language_modeling.weight"] == "recipe"
    assert said["model.connector.num_queries"] == "recipe" and said["model.connector.window_s"] == "default"
    assert said["output"] == "default" and said.keys() == recipe.values.keys()


def test_overrides_reach_what_is_interpolated():
    assert load_recipe(write(), ["data=/elsewhere", "name=other"]).evaluate[0].path == "/elsewhere/demo/test.jsonl"
    assert load_recipe(write(), ["name=other"]).output == "runs/other"


def test_a_recipe_stands_on_its_base():
    write(path="parent/recipe.yaml")
    child = "name: child\nbase: parent\nstages: {align: {trainer: {max_steps: 99}}, instruct: null}\n"
    recipe = load_recipe(write(child, "child.yaml"), ["stages.align.trainer.learning_rate=1e-4"])
    assert recipe.output == "runs/child" and list(recipe.stages) == ["align"]
    assert recipe.stages["align"].trainer == {"max_steps": 99, "learning_rate": 1e-4}
    said = recipe.provenance
    assert said["stages.align.trainer.max_steps"] == "recipe"
    assert said["stages.align.trainer.learning_rate"] == "command line (base parent: 0.002)"
    assert said["model.encoder.config.d_model"] == "base: parent"


def test_a_recipe_with_a_base_has_its_own_name():
    write(path="parent.yaml")
    assert message_of("base: parent.yaml").startswith("tiny.yaml: name is missing")


def test_another_connector_forgets_the_settings_of_the_one_before():
    connector = load_recipe(write(), ["model.connector.name=mlp", "model.connector.stack=3"]).model.connector
    assert connector is not None and connector["stack"] == 3 and "num_queries" not in connector


def test_bases_in_a_circle_are_refused():
    write("name: b\nbase: tiny.yaml\n", "b.yaml")
    assert "leads back" in message_of("name: a\nbase: b.yaml\n")


def test_the_resolved_recipe_loads_as_the_same_recipe():
    recipe = load_recipe(write(TINY.replace("  connector:", '  system_prompt: "costs \\\\${5}"\n  connector:')))
    assert recipe.model.system_prompt == "costs ${5}"
    again = load_recipe(write(recipe.to_yaml(), "resolved.yaml"))
    assert again.model_dump() == recipe.model_dump()
    assert list(again.stages) == ["align", "instruct"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("num_queries", "num_querys", "5: model.connector.num_querys is not a setting; did you mean 'num_queries'?"),
        (
            "d_model: 8}",
            "d_model: 8}, revison: x",
            "4: model.encoder.revison is not a setting; did you mean 'revision'?",
        ),
        (
            "max_steps",
            "max_stps",
            "12: stages.align.trainer.max_stps is not a setting of transformers' TrainingArguments;",
        ),
        ("ctc:", "cct:", "9: stages.align.objectives.cct is not an objective; did you mean 'ctc'?"),
        ("[connector]", "[conector]", "10: stages.align.train: 'conector' is not a part of the model; did you mean"),
        ("[connector]", "[]", "8: stages.align: trains nothing; `train:` lists some of encoder"),
        ("[connector]", "connector", "10: stages.align.train: is a list of parts"),
        ("weight: 2", "weight: two", "11: stages.align.data.train.1.weight: input should be a valid number"),
        ("weight: 2", "wieght: 2", "11: stages.align.data.train.1.wieght is not a setting; did you mean 'weight'?"),
        ("max_steps: 10", "max_steps: ten", "12: stages.align.trainer.max_steps input should be a valid integer"),
        ("max_steps: 10", "lr_scheduler_type: cosin", "lr_scheduler_type has no value 'cosin'; did you mean 'cosine'?"),
        ("max_steps: 10", "optim: moun", "optim has no value 'moun'; did you mean 'muon'?"),
        ("max_steps: 10", "output_dir: x", "output_dir is not set here: say it at the top of the recipe"),
        ("max_steps: 10", "hub_model_id: x", "hub_model_id is not set here: training never uploads"),
        ("name: tiny", "name: a/b", "1: name: 'a/b' cannot name a folder"),
        ("name: tiny\n", "", "tiny.yaml: name is missing"),
        (
            "window_qformer,",
            "window_qforner,",
            "5: model.connector: unknown connector 'window_qforner'; did you mean 'window_qformer'",
        ),
        ("${data}/demo/text", "${dta}/demo/text", "6: model.llm.tokenizer.train_on: Interpolation key 'dta' not found"),
        ("qwen3}", "qwen3", "tiny.yaml:7: not YAML:"),
        ("name: tiny", "name: tiny\nname: b", "tiny.yaml:2: not YAML: found duplicate key name"),
        (
            "lora: 1.0e-3}",
            "lora: 1.0e-3}\n    trainer: {learning_rate: 1}",
            "13: stages.instruct: `train:` gives each part",
        ),
        ("[connector]", "[connector]\n    lora: {r: 2}", "8: stages.align: has a `lora:` block, but `lora` is not"),
        ('["${data}/demo/train.jsonl"]', "[]", "16: stages.instruct.data.train is empty"),
        ("clips: 10}}", "clips: 10}}\nevaluate: 3", "found duplicate key evaluate"),
        ("  instruct:", "  cache:", "stages: cache is a folder that every run has"),
        ('["${data}/demo/train.jsonl"]', '["a.jsonl"], temperature: 2', "`temperature` evens several sources out"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_way_out(before, after, expected):
    assert before in TINY
    assert expected in message_of(TINY.replace(before, after, 1))


def test_every_mistake_is_told_at_once():
    text = TINY.replace("num_queries", "num_querys").replace("max_steps", "max_stps")
    assert len(message_of(text).splitlines()) == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.align.trainer.max_stps=3", "command line: stages.align.trainer.max_stps is not a setting"),
        ("stages.aling.trainer.max_steps=3", "there is no stage 'aling'; did you mean 'align'?"),
        ("stages.align.trainer.num_train_epochs=0", "must be more than 0, and is 0"),
        ("stages.align.trainer.learning_rate=-1", "learning_rate must be at least 0, and is -1"),
        ("stages.align.trainer.per_device_train_batch_size=0", "must be more than 0, and is 0"),
        ("stages.align.trainer.fp16=true", "fp16 is not set here: `bf16: true`"),
        ("stages.align.trainer.max_steps=0", "must be at least 1 (or -1"),
        ("seed", "command line: 'seed' is not of the form key=value"),
        ("seed=[1", "command line: the value of 'seed=[1' is not YAML"),
        ("stages.align.data.train.5.limit=1", "the list has 2 entries, numbered from 0"),
        ("model.checkpoint=x", "tiny.yaml:3: model: give either `checkpoint` (a whole model, and a new"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_as_such(override, expected):
    assert expected in message_of(TINY, override)


def test_an_unknown_recipe_names_the_way_out():
    with pytest.raises(RecipeError, match=r"there is no recipe .*nowhere\.yaml"):
        load_recipe("nowhere.yaml")
    with pytest.raises(RecipeError, match="or give the path of a recipe file"):
        load_recipe("no_such_recipe")


def test_owned_trainer_keys_are_keys_of_training_arguments():
    from transformers import TrainingArguments

    assert set(OWNED_TRAINER_KEYS) <= set(TrainingArguments.__dataclass_fields__)


def test_parts_are_those_of_the_models():
    assert typing.get_args(Part) == PARTS


def test_missing_files_are_told_unless_they_will_be_made():
    recipe = load_recipe(write())
    (sentence,) = missing_files(recipe)
    assert sentence.startswith("tiny.yaml:11: stages.align.data.train.1.path is other.jsonl, and there is no such file")
    with pytest.raises(RecipeError, match=r"tiny\.yaml:11"):
        require_files(recipe)
    Path("other.jsonl").touch()
    require_files(recipe)
    assert missing_files(recipe) == []
    assert missing_files(load_recipe("tiny.yaml", ["stages.align.data.train.1.path=*.jsonl"])) == []
    for changed in ("prepare={}", "prepare.demo.out=elsewhere"):
        (sentence,) = missing_files(load_recipe("tiny.yaml", [changed]))
        assert sentence.endswith("`audiollm prepare demo` makes it (4 more of its files are asked for)")


def test_missing_files_of_a_public_set_are_one_sentence_with_the_command_that_makes_them():
    told = missing_files(load_recipe("slam_asr"))
    assert len(told) == 1 and "`audiollm prepare librispeech` makes it (2 more of its files are asked for)" in told[0]
    told = missing_files(load_recipe("slam_asr", ["data=/my disk"]))
    assert "`audiollm prepare librispeech --out '/my disk/librispeech'` makes it" in told[0]


def test_the_command_of_a_prepare_step_makes_the_same_rows_in_the_same_folder(monkeypatch):
    recipe = load_recipe(write(), ["prepare={demo: {clips: 100, out: 'my rows', langs: [a, b], name: x}}"])
    command = prepare_command(recipe, "demo")
    assert command == "audiollm prepare demo --out 'my rows' clips=100 'langs=[\"a\", \"b\"]' name=x"
    made = []
    monkeypatch.setattr(preparing, "prepare", lambda name, out, options, **_: made.append((name, out, options)))
    assert CliRunner().invoke(cli.app, shlex.split(command)[1:]).exit_code == 0
    assert made == [("demo", Path("my rows"), {"clips": 100, "langs": ["a", "b"], "name": "x"})]


def test_a_checkpoint_that_is_not_there_is_missing():
    text = "name: tune\nmodel: {checkpoint: runs/a/b}\n" + TINY[TINY.index("stages:") : TINY.index("evaluate:")]
    recipe = load_recipe(write(text), ["stages.instruct=null", "stages.align.data.train=[tiny.yaml]"])
    assert missing_files(recipe) == ["tiny.yaml:2: model.checkpoint is runs/a/b, and there is no such folder"]
    Path("runs/a/b").mkdir(parents=True)
    assert missing_files(recipe) == []


def test_an_error_about_a_key_names_its_line():
    error = load_recipe(write()).error("stages.align.objectives.ctc.label_smoothing", "is not a setting of ctc")
    assert str(error) == "tiny.yaml:9: stages.align.objectives.ctc.label_smoothing is not a setting of ctc"


def test_the_schema_knows_every_key_and_explains_it():
    schema = json.loads(json.dumps(recipe_schema()))
    assert "learning_rate" in schema["$defs"]["StageSettings"]["properties"]["trainer"]["properties"]
    assert "output_dir" not in schema["$defs"]["StageSettings"]["properties"]["trainer"]["properties"]
    names = [
        c["properties"]["name"]["const"]
        for c in schema["$defs"]["ModelSettings"]["properties"]["connector"]["anyOf"][:-1]
    ]
    assert names == sorted(CONNECTORS)
    for block in [schema, *schema["$defs"].values()]:
        for name, field in block["properties"].items():
            assert "description" in field, name


def test_settings_are_closed_and_frozen():
    recipe = load_recipe(write())
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3
    assert issubclass(Recipe, BaseModel) and yaml.safe_load(recipe.to_yaml())["seed"] == 0

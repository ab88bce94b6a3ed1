"""What goes to the Hub: the files that may go, with a card that says what the run knows, and nothing else."""

import json
from types import SimpleNamespace

import pytest
import yaml
from tiny import MLP, tiny
from typer.testing import CliRunner

from audiollm import cli
from audiollm.export.card import Told, better_than_guessing, checkpoint_card, stages
from audiollm.export.folder import export
from audiollm.export.push import push
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.freezing import add_lora
from audiollm.recipe import load_recipe
from audiollm.training.stages import hours_of

SCORE = {"metric": "exact", "score": 0.9, "blind": 0.3, "prior": 0.4, "n": 100, "ci95": [0.85, 0.94]}
GUESSED = {"metric": "exact", "score": 0.4, "blind": None, "prior": 0.4, "n": 50, "ci95": [0.3, 0.5]}
RECIPE = """
name: demo
license_policy: research
model: {encoder: {config: {d_model: 16}}, connector: {name: mlp}, llm: {checkpoint: Qwen/Qwen3-0.6B}}
stages:
  align: {objectives: {language_modeling: 1}, train: {connector: 1.0e-3}, data: {train: [rows.jsonl]}}
  instruct: {objectives: {language_modeling: 1}, train: {connector: 1.0e-4, lora: 2.0e-4}, data: {train: [rows.jsonl]}}
"""


class FakeHub:
    """Writes down what it is asked."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))

    def only(self, name):
        [call] = [call for call in self.calls if call[0] == name]
        return call


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two stages, with LoRA in the last one, its figures, and a resume point."""
    folder = tmp_path_factory.mktemp("push") / "demo"
    (folder / "recipe.yaml").parent.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(folder / "recipe.yaml").to_yaml()
    built = tiny(connector=MLP)
    built.model.config.bases = {"llm": {"checkpoint": "Qwen/Qwen3-0.6B", "revision": "main", "fingerprint": "0"}}
    save_checkpoint(built.model, built.processor, folder / "align", trained={"connector"}, recipe=recipe)
    built.model.config.bases = {}
    add_lora(built.model, r=2, alpha=4)
    save_checkpoint(built.model, built.processor, folder / "instruct", trained={"connector", "lora"}, recipe=recipe)
    rows = [["cc-by-4.0", "clotho", 3839], [None, "mine|yours", 12]]
    took = {"seconds": 90.0, "steps": 1200, "licences": rows, "hours": 24.5}
    took["augmentation"], instruct = "", {"hours": None, "augmentation": "noise 30%, gain 50%"}
    (folder / "run.json").write_text(json.dumps({"stages": {"align": took, "instruct": took | instruct}}))
    results = {"peak_memory_gib": 2.34, "tasks": {"sound": SCORE, "count": GUESSED}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_the_card_says_parts_stages_data_results_cost_and_limits(run):
    card = checkpoint_card(run / "instruct")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "audio-text-to-text"
    for words in (
        "# demo/instruct", "whisper encoder, mlp connector, qwen3 language model, trained in 2 stages",
        "| instruct | language_modeling | connector 0.0001, lora 0.0002 | 1,200 | 1.5 |",
        "\n\n- augmentation of align: none\n- augmentation of instruct: noise 30%, gain 50%\n",
        "| align | clotho | cc-by-4.0 | 3,839 |", "| instruct | mine\\|yours | not said | 12 |", "align 24.5 h.",
        "| `sound` (exact) | 90.0% | 85.0% to 94.0% | 30.0% | 40.0% | 100 |",
        "| `count` (exact) | 40.0% | 30.0% to 50.0% | not asked | 40.0% | 50 |",
        "3.0 minutes of training, peak memory of the process 2.3 GiB",
        "Not shown to be better than without listening: `count`.", "Asked without a blind control",
        "Some of its rows do not say their licence.", "Licence policy of the recipe: research.",
    ):  # fmt: skip
        assert words in text, words


def test_the_card_of_an_earlier_stage_has_its_own_stages_and_no_results_of_another(run):
    card = checkpoint_card(run / "align")
    assert "trained in 1 stage." in card and "| instruct |" not in card
    assert "90.0%" not in card and "how well it hears is not known" in card
    assert "`Qwen/Qwen3-0.6B` at main" in card and "base_model:\n- Qwen/Qwen3-0.6B" in card


def test_a_run_that_did_not_keep_its_augmentation_tells_none():
    recipe = SimpleNamespace(
        stages={"align": SimpleNamespace(objectives={"ctc": 1}, learning_rates={"connector": 0.1})}
    )
    told = Told("x", {}, recipe=recipe, stages={"align": {"steps": 3}})
    assert "| align | ctc |" in stages(told) and "augmentation" not in stages(told)


def recordings(*groups):
    """A stage's recordings as far as their hours go: (clips, seconds) of each."""
    rows = [[SimpleNamespace(clips=clips)] for clips, _ in groups]
    return SimpleNamespace(groups=rows, seconds=lambda number: groups[number][1])


def test_a_run_keeps_the_hours_of_a_stage_where_they_are_known():
    assert hours_of(recordings((("a",), 3600.0), ((), 0.0), (("b",), 1800.0))) == 1.5
    assert hours_of(recordings((("a",), 3600.0), (("b",), 0.0))) is None  # one does not say how long it is
    assert hours_of(recordings(((), 0.0))) is None  # text alone
    assert hours_of(SimpleNamespace(groups=object())) is None  # rows that stay on disk


def test_word_errors_are_better_when_lower():
    errors = {"metric": "wer", "score": 0.2, "blind": 1.0, "prior": 0.9, "ci95": [0.1, 0.3]}
    assert better_than_guessing(errors) and not better_than_guessing({**errors, "ci95": [0.8, 0.95]})


def test_a_checkpoint_goes_up_with_its_card_and_without_anything_else(run):
    hub = FakeHub()
    pushed = push(run, "me/demo", private=True, hub=hub)
    assert [name for name, _, _ in hub.calls] == ["create_repo", "upload_folder"]
    assert hub.only("create_repo")[1:] == (("me/demo",), {"private": True, "exist_ok": True})
    sent = hub.only("upload_folder")[2]
    assert sent["folder_path"] == str(run / "instruct") and sent["allow_patterns"] == sorted(pushed.files)
    assert {"README.md", "config.json", "model.safetensors", "adapter/adapter_model.safetensors"} <= set(pushed.files)
    assert pushed.uploaded and "uploaded to me/demo" in pushed.summary()


def test_a_dry_run_writes_the_card_lists_the_files_and_uploads_nothing(run):
    (run / "align" / "README.md").unlink(missing_ok=True)
    hub = FakeHub()
    pushed = push(run / "align", "me/demo", dry_run=True, hub=hub)
    assert not hub.calls and not pushed.uploaded and "nothing was" in pushed.summary()
    assert (run / "align" / "README.md").read_text() == checkpoint_card(run / "align")
    (run / "align" / "README.md").write_text("my own words")
    push(run / "align", "me/demo", hub=hub)
    assert (run / "align" / "README.md").read_text() == "my own words"


def test_an_export_goes_up_and_its_adapter_names_the_repository(run, tmp_path):
    folder = export(run / "instruct", tmp_path / "out")
    assert "audiollm" not in yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])["library_name"]
    assert "trained in 2 stages" in (folder / "README.md").read_text()
    hub = FakeHub()
    pushed = push(folder, "me/demo", hub=hub)
    assert {"modeling_audiollm.py", "adapter_config.json", "recipe.yaml"} <= set(pushed.files)
    sent = hub.only("upload_file")[2]
    assert sent["path_in_repo"] == "adapter_config.json"
    assert json.loads(sent["path_or_fileobj"])["base_model_name_or_path"] == "me/demo"


@pytest.mark.parametrize("name", ["trainer_state.json", "rng_state_0.pth", "global_step8/mp_rank.pt", "weights.bin"])
def test_resume_state_and_pickles_are_refused(run, name, tmp_path):
    (tmp_path / "point").mkdir()
    (tmp_path / "point" / "config.json").write_text((run / "align" / "config.json").read_text())
    (tmp_path / "point" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "point" / name).write_text("{}")
    hub = FakeHub()
    with pytest.raises(ValueError, match=f"holds {name.split('/')[0]}"):
        push(tmp_path / "point", "me/demo", hub=hub)
    assert not hub.calls and not (tmp_path / "point" / "README.md").exists()


@pytest.mark.parametrize("repo", ["demo", "me/demo/x", "/demo", "me/"])
def test_a_name_that_is_none_on_the_hub_is_refused(run, repo):
    with pytest.raises(ValueError, match="write OWNER/NAME"):
        push(run, repo, hub=FakeHub())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export", "nowhere", "--to", "out"], "there is no folder nowhere"),
        (["export", "nowhere", "--to", "out", "--format", "flamingo"], "'flamingo' is not a native architecture"),
        (["push", "nowhere", "me/demo"], "there is no folder nowhere"),
        (["push", "nowhere", "demo"], "'demo' is not a name on the Hub"),
        (["push", "rows", "me/demo"], "rows holds no checkpoint"),
        (["push", "rows", "me/demo"], "or a folder of rows that `audiollm prepare` made"),
    ],
)
def test_the_commands_tell_a_mistake_in_one_sentence(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.csv").write_text("audio,answer\n")
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2 and sentence in done.output and done.output.count("\n") == 1
    assert {path.name for path in tmp_path.rglob("*")} == {"rows", "train.csv"}


def test_the_commands_write_a_folder_and_a_dry_run(run, tmp_path):
    done = CliRunner().invoke(cli.app, ["export", str(run), "--to", str(tmp_path / "out"), "--merge"])
    assert done.exit_code == 0 and (tmp_path / "out" / "modeling_audiollm.py").is_file()
    listed = CliRunner().invoke(cli.app, ["push", str(tmp_path / "out"), "me/demo", "--dry-run"])
    assert listed.exit_code == 0 and "would be uploaded to me/demo" in listed.output

"""An encoder that a user wrote: named in a recipe, trained, saved, loaded, and not run where nobody asked for it."""

import json
import sys

import pytest
import torch
import yaml
from tiny import LLM, MLP, RATE, tokenizer, tone, write_tones

from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.encoders import encoder_of
from audiollm.models.parts import build
from audiollm.models.plugins import PLUGINS
from audiollm.models.testing import check_encoder
from audiollm.recipe import RecipeError, load_recipe
from audiollm.training import run_recipe
from audiollm.training.stages import load_built

SOURCE = """
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from audiollm.models.encoders.base import WaveformEncoder, caught, frames_mask


class MyConfig(PreTrainedConfig):
    model_type = "my_encoder"

    hidden_size: int = 16
    num_hidden_layers: int = 2


class MyEncoder(WaveformEncoder, PreTrainedModel):
    config_class = MyConfig

    def __init__(self, config):
        super().__init__(config)
        self.first = nn.Conv1d(1, config.hidden_size, 400, stride=400)
        width = config.hidden_size
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(2))
        self.post_init()

    @classmethod
    def stride(cls, config):
        return 400

    def hear(self, windows_ML, lengths_M, taps):
        windows_ML = nn.functional.pad(windows_ML * frames_mask(lengths_M, windows_ML.shape[1]), (0, 400))
        x_MTC = self.first(windows_ML[:, None]).transpose(1, 2)
        with caught(self.layers, taps) as found:
            for layer in self.layers:
                x_MTC = layer(x_MTC)
        mask_MT = frames_mask((lengths_M // 400).clamp(min=1), x_MTC.shape[1])
        return [found[tap] for tap in taps] or [x_MTC], mask_MT
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a module in it, and an installed package that gives its class a short name."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_module.py").write_text(SOURCE)
    package = folder / "my_package-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[audiollm.encoders]\nmine = my_module:MyEncoder\n")
    return folder


@pytest.fixture
def module(folder, monkeypatch):
    """The folder where a command is run, its module imported by nobody yet."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("my_module", None)
    yield folder
    sys.modules.pop("my_module", None)


@pytest.fixture(scope="module")
def trained(folder):
    """A checkpoint that was trained for two steps with the module's encoder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        checkpoint = run_recipe(recipe_of(folder, "my_module:MyEncoder"))
    del sys.modules["my_module"]
    return checkpoint


def recipe_of(folder, name):
    """Two steps over four tones, the encoder trained."""
    write_tones(folder / "sound", 4)
    rows = [
        {"messages": [{"role": "user", "content": [{"type": "audio", "audio": f"sound/{n}.wav"}]},
                      {"role": "assistant", "content": "a tone"}]}
        for n in range(4)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {
        "encoder": {"name": name, "config": {"hidden_size": 8}, "taps": [1, -1]},
        "connector": MLP,
        "llm": {"config": {"model_type": "qwen3", **LLM}, "tokenizer": {"train_on": "rows.jsonl", "vocab_size": 300}},
    }
    listen = {
        "train": ["encoder", "connector"], "objectives": {"language_modeling": 1}, "data": {"train": ["rows.jsonl"]},
        "trainer": {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1.0e-3},
    }  # fmt: skip
    written = {"name": "own", "output": "run", "model": model, "stages": {"listen": listen}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    return load_recipe(folder / "recipe.yaml")


def test_a_users_own_encoder_is_trained_saved_and_loaded(trained, module, monkeypatch):
    monkeypatch.setenv(PLUGINS, "my_module,no_such")
    with pytest.raises(ValueError, match="AUDIOLLM_PLUGINS=no_such, for the encoder: cannot import no_such"):
        load_built(trained)
    sys.modules.pop("my_module")
    monkeypatch.setenv(PLUGINS, "json,my_module")
    built = load_built(trained)
    config = built.model.config.audio_config.to_dict()
    own = sys.modules["my_module"].MyEncoder
    assert type(built.model.model.audio_tower) is own is encoder_of(config)
    assert config["encoder_class"] == "my_module:MyEncoder" and own.width(config) == 16
    values = torch.from_numpy(tone(500, 0.4))[None]
    heard = built.model.get_audio_features(values, torch.ones_like(values, dtype=torch.bool)).pooler_output
    assert len(heard) == built.model.config.num_audio_tokens(round(0.4 * RATE)) == 4
    check_encoder(own, {"hidden_size": 8})


def test_a_checkpoints_code_is_not_imported_until_the_user_says_so(trained, module):
    with pytest.raises(
        ValueError, match=r"encoder my_module:MyEncoder is code that is not imported; .*import my_module"
    ):
        load_built(trained)
    assert "my_module" not in sys.modules


def test_an_installed_packages_encoder_is_found_by_its_entry_point(module, tmp_path):
    sys.path.append(str(module))
    llm = {"config": {"model_type": "qwen3", **LLM}}
    built = build(encoder={"name": "mine", "config": {"hidden_size": 8}}, connector=MLP, llm=llm, tokenizer=tokenizer())
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    del sys.modules["my_module"]
    assert type(load_built(tmp_path / "saved").model.model.audio_tower).__name__ == "MyEncoder"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_module:Missing", "encoder my_module:Missing: my_module has no Missing"),
        ("no_module:MyEncoder", "encoder no_module:MyEncoder: cannot import no_module"),
        ("wav2vec3", "unknown encoder 'wav2vec3'; did you mean 'wav2vec2'"),
    ],
)
def test_an_encoder_that_is_not_there_is_one_sentence(module, tmp_path, name, message):
    with pytest.raises(RecipeError, match=message):
        recipe_of(tmp_path, name)

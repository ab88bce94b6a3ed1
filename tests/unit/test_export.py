"""What is exported is loaded by others: without this package, by plain transformers, by PEFT; and says what it is."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import MLP, QFORMER, RATE, tiny, tones
from transformers.dynamic_module_utils import check_imports, get_imports, get_relative_import_files

from audiollm.conversation import AudioPart, Message, TextPart
from audiollm.export.folder import export
from audiollm.export.travelling import ENTRIES, MODEL, PROCESSOR, requirements, travelling_code
from audiollm.inference import load
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.freezing import add_lora, part_of

QUESTIONS = ["what do you hear?", "which comes first, the high or the low one?"]
CLIPS = tones(3, seconds=(0.3, 1.6))
HEARD = [(0,), (1, 2)]
MODEL_FILE = f"{MODEL.file}.py"

ELSEWHERE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "audiollm":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

torch.set_num_threads(1)
folders, clips = torch.load({inputs!r})
QUESTIONS = {questions!r}
HEARD = {heard!r}
found = {{}}
for folder in folders:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True).eval()
    talks = [
        [{{"role": "user", "content": [*({{"type": "audio", "audio": clips[n].numpy()}} for n in heard),
                                      {{"type": "text", "text": question}}]}}]
        for question, heard in zip(QUESTIONS, HEARD)
    ]
    inputs = processor.apply_chat_template(
        talks, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True
    )
    with torch.no_grad():
        logits = model(**inputs).logits
        said = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    found[folder] = {{"ids": inputs["input_ids"], "logits": logits, "said": said}}
    assert type(model).__module__.startswith("transformers_modules."), type(model)
torch.save(found, {outputs!r})
assert not [name for name in sys.modules if name.split(".")[0] == "audiollm"]
"""
"""A process in which this package is not installed."""


def prompts():
    for question, heard in zip(QUESTIONS, HEARD, strict=True):
        parts = (*(AudioPart((CLIPS[number], RATE)) for number in heard), TextPart(question))
        yield (Message("user", parts),), [CLIPS[number] for number in heard]


@torch.no_grad()
def here(built) -> dict:
    """What this package makes of the prompts."""
    inputs = built.processor.collate_prompts(list(prompts()))
    said = built.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return {"ids": inputs["input_ids"], "logits": built.model(**inputs).logits, "said": said}


def elsewhere(folders: list[Path], work: Path) -> dict:
    """What transformers makes of exported folders in a process of its own, whose cache of travelling code is empty."""
    names = [str(folder) for folder in folders]
    torch.save((names, [torch.from_numpy(clip) for clip in CLIPS]), work / "inputs.pt")
    program = ELSEWHERE.format(
        inputs=str(work / "inputs.pt"), outputs=str(work / "outputs.pt"), questions=QUESTIONS, heard=HEARD
    )
    paths = os.pathsep.join([str(work), os.environ.get("PYTHONPATH", "")])
    environment = {"HF_MODULES_CACHE": str(work / "modules"), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(work / "outputs.pt")
    return {folder: found[str(folder)] for folder in folders}


def with_lora(built):
    """LoRA that changes every logit."""
    for part in ("lora", "encoder_lora"):
        add_lora(built.model, r=2, alpha=4, part=part)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in built.model.named_parameters():
        if part_of(name) in ("lora", "encoder_lora"):
            parameter.data.normal_(0, 0.1, generator=draw)
    return built


def saved(built, folder: Path, **options) -> Path:
    """A checkpoint on disk."""
    save_checkpoint(built.model, built.processor, folder, trained={"connector", "lora", "encoder_lora"}, **options)
    return folder


OWN_PART = """
import pydantic
import torch


class Every(torch.nn.Module):
    class Settings(pydantic.BaseModel):
        step: int = 3
        init: str = "text"
        mix_layers: bool = False

    def __init__(self, settings, sizes):
        super().__init__()
        self.step, self.output = settings.step, torch.nn.Linear(sizes.dim_in, sizes.dim_out)

    @staticmethod
    def num_tokens(settings, num_frames, frame_rate_hz):
        return -(-num_frames // settings.step)

    def forward(self, frames_NTC, mask_NT):
        return self.output(frames_NTC[:, :: self.step]), mask_NT[:, :: self.step]
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder for checkpoints, exports, and somebody's own connector, which can be imported from there."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "own_part.py").write_text(OWN_PART)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def exported(work):
    """Three models, one with LoRA and tied embeddings; the latter's LoRA kept and merged; what each gives here."""
    importlib.import_module("own_part")
    plain, adapted = tiny(connector=MLP), tiny("llama", QFORMER, tie_word_embeddings=True)
    before = here(adapted)["logits"]
    with_lora(adapted)
    own = tiny(connector={"name": "own_part:Every", "step": 4})
    folders = {
        "plain": export(saved(plain, work / "plain"), work / "out" / "plain"),
        "kept": export(saved(adapted, work / "adapted"), work / "out" / "kept"),
        "merged": export(work / "adapted", work / "out" / "merged", merge=True),
        "own": export(saved(own, work / "own"), work / "out" / "own"),
    }
    expected = here(adapted)
    assert (expected["logits"] - before).abs().amax() > 0.1  # or it could not be seen whether LoRA is there
    return folders, {"plain": here(plain), "kept": expected, "merged": expected, "own": here(own)}


def test_exported_folders_give_the_same_logits_and_answers_without_this_package(exported, work):
    folders, expected = exported
    found = elsewhere([folders[name] for name in ("kept", "merged", "own")], work)
    for name in ("kept", "merged", "own"):
        folder = folders[name]
        assert torch.equal(found[folder]["ids"], expected[name]["ids"])
        largest = float(expected[name]["logits"].abs().max())  # with LoRA in the weights sums are rounded otherwise
        tolerance = 1e-5 * (largest if name in ("kept", "merged") else 1.0)
        torch.testing.assert_close(found[folder]["logits"], expected[name]["logits"], atol=tolerance, rtol=0)
        assert torch.equal(found[folder]["said"], expected[name]["said"])


@torch.no_grad()
def test_this_package_reads_its_exports_too(exported):
    folders, expected = exported
    listener = load(folders["plain"], device="cpu")
    inputs = listener.processor.collate_prompts(list(prompts()))
    torch.testing.assert_close(listener.model(**inputs).logits, expected["plain"]["logits"], atol=1e-5, rtol=0)


def test_the_code_that_travels_imports_its_siblings_and_what_is_named(exported):
    folder = exported[0]["plain"]
    code = travelling_code()
    named = set(requirements(code))
    for name, text in code.items():
        assert (folder / name).read_text() == text
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                modules = [node.module] if node.module else [alias.name for alias in node.names]
                assert {f"{module}.py" for module in modules} <= set(code), name
        assert set(get_imports(folder / name)) - sys.stdlib_module_names <= named, name
    assert "audiollm" not in named and "peft" not in named


def test_transformers_finds_every_file_of_an_entry(exported):
    folder = exported[0]["plain"]
    for entry in ENTRIES:
        assert all(Path(file).is_file() for file in get_relative_import_files(folder / f"{entry.file}.py"))
    reached = {Path(f).name for e in ENTRIES for f in get_relative_import_files(folder / f"{e.file}.py")}
    assert reached | {f"{entry.file}.py" for entry in ENTRIES} == {path.name for path in folder.glob("*.py")}


class Hidden:
    """Finds no package of some names."""

    def __init__(self, *names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("folder", "entry", "missing"),
    [("plain", PROCESSOR, "soxr"), ("plain", MODEL, "pydantic"), ("kept", MODEL, "peft")],
)
def test_a_package_that_the_folder_needs_and_is_not_there_is_named(exported, folder, entry, missing, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [Hidden(missing), *sys.meta_path])
    monkeypatch.delitem(sys.modules, missing)
    with pytest.raises(ImportError, match=f"pip install {missing}"):
        check_imports(exported[0][folder] / f"{entry.file}.py")


def test_only_a_kept_adapter_needs_peft(exported):
    needing = [name for name, folder in exported[0].items() if "\nimport peft\n" in (folder / MODEL_FILE).read_text()]
    assert needing == ["kept"]


def test_somebodys_own_part_is_named_and_does_not_travel(exported):
    folder = exported[0]["own"]
    assert "own_part" in (folder / "README.md").read_text() and not (folder / "own_part.py").exists()


def test_an_exported_folder_stands_on_no_other_checkpoint(exported):
    for folder in exported[0].values():
        config = json.loads((folder / "config.json").read_text())
        assert config["bases"] is None and config["quantize"] is None
        assert not any(".lora_" in name or ".base_layer." in name for name in load_file(folder / "model.safetensors"))
    assert not (exported[0]["merged"] / "adapter_config.json").exists()


def test_weights_may_be_written_in_sixteen_bits(exported, work):
    half = export(work / "plain", work / "out" / "half", dtype="bfloat16")
    whole = load_file(exported[0]["plain"] / "model.safetensors")
    for name, tensor in load_file(half / "model.safetensors").items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, whole[name].to(torch.bfloat16))


def refused(*arguments, **options):
    with pytest.raises(ValueError) as error:
        export(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_are_told_in_one_sentence_and_leave_nothing_behind(exported, work, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    assert "is there already, and is not empty" in refused(work / "plain", tmp_path / "taken")
    assert "is there already" in refused(work / "plain", tmp_path / "taken" / "notes.txt")
    assert "there is no folder" in refused(tmp_path / "nowhere", tmp_path / "out")
    assert "is an export already" in refused(exported[0]["plain"], tmp_path / "out")
    assert "dtype 'int3' is unknown" in refused(work / "plain", tmp_path / "out", dtype="int3")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]

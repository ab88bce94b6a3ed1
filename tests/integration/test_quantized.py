"""Language models in 4 and 8 bits, and public bases in bfloat16: they train, go on exactly, are saved and answer."""

import importlib.util
import json

import pytest
import torch
import yaml
from integration import test_training
from integration.test_training import Kill, Killed, assert_same_weights, stage, weights
from safetensors.torch import load_file, save_file
from tiny import ENCODER, LLM, LLMS, MLP, WIDE, checksum, tiny, tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback, WhisperConfig, WhisperModel
from typer.testing import CliRunner

from audiollm import cli
from audiollm.inference import load
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.freezing import has_lora, merge_lora, part_of, select_trainable
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.parts import build
from audiollm.models.quantize import quantize_linears
from audiollm.recipe import RecipeError, load_recipe
from audiollm.training import run_recipe, stages
from audiollm.training.memory import linear_layers

corpus, watch = test_training.corpus, test_training.watch  # fixtures
SCHEMES = ["nf4", "int8"]
LORA = {"r": 4, "alpha": 8, "dropout": 0.1}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A tiny Whisper and a tiny Qwen2 in folders, as they come from a hub."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(1)
    WhisperModel(WhisperConfig(**ENCODER)).save_pretrained(folder / "whisper")
    words = tokenizer()
    sizes = {"vocab_size": len(words) + 20, "pad_token_id": 0, "eos_token_id": words.eos_token_id}
    config = AutoConfig.for_model(**{**LLM, **WIDE, "initializer_range": 0.1}, **LLMS["qwen2"], **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "qwen")
    words.save_pretrained(folder / "qwen")
    return folder


def recipe_on(hub, folder, stages, *overrides, quantize=None):
    """A recipe of these stages on the public parts, whose run is in the folder."""
    block = {
        "encoder": {"checkpoint": str(hub / "whisper")},
        "connector": MLP,
        "llm": {"checkpoint": str(hub / "qwen"), "quantize": quantize},
    }
    written = {"name": "held", "output": str(folder / "run"), "model": block, "stages": stages}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    return load_recipe(folder / "recipe.yaml", overrides)


def two_stages(rows, **trainer):
    """The connector, then adapters with it."""
    trainer = {"max_steps": 6, "save_steps": 2, "learning_rate": 5.0e-3, **trainer}
    language_modeling = {"language_modeling": 1}
    return {
        "align": stage(rows, ["connector"], language_modeling, trainer=trainer),
        "instruct": stage(rows, ["connector", "lora"], language_modeling, lora=LORA, trainer=trainer),
    }


@pytest.fixture(scope="module", params=SCHEMES)
def trained(request, hub, corpus, tmp_path_factory):
    """A finished run of two stages on a quantised language model."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = recipe_on(hub, folder, two_stages(corpus), quantize=request.param)
    return request.param, recipe, run_recipe(recipe)


def run_with_stops(recipe, watch):
    """Train, stopped after the first stage and in the second."""
    run_recipe(recipe, stage="align")
    with pytest.raises(Killed):
        watch(Kill(3))
        run_recipe(recipe)
    watch(TrainerCallback())
    return run_recipe(recipe)


def losses(folder):
    """The learning curve of a stage."""
    return [value for _, value in json.loads((folder.parent / "run.json").read_text())["stages"][folder.name]["loss"]]


def logits(model, dtype=torch.float32):
    """Of a fixed text."""
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        return model(input_ids=ids).logits.to(dtype)


# ------------------------------------------------------------------------------------------------- a quantised base


@pytest.mark.parametrize(("scheme", "inputs", "most"), [("nf4", 64, 0.12), ("nf4", 96, 0.12), ("int8", 96, 0.02)])
def test_every_layer_is_as_near_to_its_weights_as_so_many_bits_can_be(scheme, inputs, most):
    """Also where the inputs of some layers fill no whole blocks: those stay as they are."""
    language_model = tiny("qwen2", **WIDE | {"intermediate_size": inputs}).model.model.language_model
    before = {name: module.weight.data.clone() for name, module in linear_layers(language_model)}
    quantize_linears(language_model, scheme)
    held = dict(language_model.named_modules())
    for name, weight in before.items():
        heard = torch.eye(weight.shape[1])[None]
        bias = 0 if held[name].bias is None else held[name].bias.data
        error = ((held[name](heard)[0].float() - bias).T - weight).std() / weight.std()
        stays = scheme == "nf4" and weight.shape[1] % 64 != 0
        assert error == 0 if stays else 0 < error < most, name


def test_a_language_model_of_which_four_bits_hold_no_layer_is_refused():
    with pytest.raises(ValueError, match="no linear layer of this language model has a multiple of 64 inputs"):
        quantize_linears(tiny("qwen2").model.model.language_model, "nf4")


def test_a_quantised_language_model_is_trained_on_and_the_loss_falls(trained):
    _, _, folder = trained
    curve = losses(folder.parent / "align") + losses(folder)
    assert curve[-1] < 0.9 * curve[0]
    assert any(tensor.any() for name, tensor in weights(folder).items() if "lora_B" in name)


def test_a_checkpoint_on_a_quantised_base_holds_no_tensor_of_it_and_tells_how_it_was_held(trained, hub):
    scheme, _, folder = trained
    assert {part_of(name) for name in load_file(folder / "model.safetensors")} == {"connector"}
    config = json.loads((folder / "config.json").read_text())
    plain = build(encoder=str(hub / "whisper"), connector=MLP, llm=str(hub / "qwen")).model.config
    assert config["quantize"] == scheme and config["bases"] == plain.bases


def test_it_is_loaded_as_it_was_trained_or_as_is_asked_for(trained):
    scheme, _, folder = trained
    held, again, plain = (
        AudioLLMForConditionalGeneration.from_pretrained(folder, quantize=q) for q in (None, scheme, "none")
    )
    types = {p.dtype for p in held.model.language_model.layers.parameters() if not p.is_floating_point()}
    assert types == {torch.uint8 if scheme == "nf4" else torch.int8}
    assert torch.equal(logits(held), logits(again))
    assert all(p.dtype == torch.float32 for p in plain.parameters()) and plain.config.quantize is None
    difference = (logits(plain) - logits(held)).std() / logits(plain).std()
    assert 0 < difference < (0.3 if scheme == "nf4" else 0.05)


def test_a_stopped_run_on_a_quantised_base_ends_with_the_same_bits(trained, hub, corpus, watch, tmp_path):
    scheme, _, whole = trained
    recipe = recipe_on(hub, tmp_path, two_stages(corpus), quantize=scheme)
    assert_same_weights(run_with_stops(recipe, watch), whole)


def test_a_quantised_model_is_evaluated_and_talked_with(trained, corpus):
    _, _, folder = trained
    rows = str(corpus / "validation.jsonl")
    for more in ([], ["--quantize", "none"]):
        done = CliRunner().invoke(
            cli.app, ["evaluate", str(folder), "--data", rows, "--json", "--max-new-tokens", "2", "--limit", "2", *more]
        )
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(
        cli.app, ["chat", str(folder), "what do you hear?", "--audio", str(corpus / "0.wav"), "--max-new-tokens", "2"]
    )
    assert done.exit_code == 0, done.output


def test_adapters_are_merged_into_the_base_as_it_was_before_quantisation(trained, tmp_path):
    """The merged model is that of the adapters on the unquantised base, as far from the quantised one as that is."""
    scheme, _, folder = trained
    held = AudioLLMForConditionalGeneration.from_pretrained(folder)
    plain = AudioLLMForConditionalGeneration.from_pretrained(folder, quantize="none")
    before = logits(held)
    merge_lora(held)
    assert not has_lora(held) and held.config.quantize is None
    torch.testing.assert_close(logits(held), logits(plain), atol=1e-4, rtol=1e-4)
    assert (logits(held) - before).std() < (0.3 if scheme == "nf4" else 0.05) * before.std()
    save_checkpoint(held, load(folder, device="cpu").processor, tmp_path / "merged")
    merged = AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(merged), logits(held))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_base_under_a_quantised_checkpoint_is_refused(scheme, hub, corpus, tmp_path):
    own = tmp_path / "qwen"
    own.mkdir()
    for file in (hub / "qwen").iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    llm = {"checkpoint": str(own), "quantize": scheme}
    built = build(encoder=str(hub / "whisper"), connector=MLP, llm=llm)
    save_checkpoint(built.model, built.processor, tmp_path / "saved", trained={"connector"})
    AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "saved")
    tensors = load_file(own / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] += 0.05
    save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
    expected = built.model.config.bases["llm"]["fingerprint"]
    told = rf"{own} is not the model .* was trained with \(fingerprint \w+, expected {expected}\)"
    with pytest.raises(ValueError, match=told):
        AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_weights_are_quantised_to_the_same_bits_in_any_type(scheme, hub):
    llm = {"checkpoint": str(hub / "qwen"), "quantize": scheme}
    one, other = (
        build(encoder=str(hub / "whisper"), connector=MLP, llm=llm, dtype=dtype).model.model.language_model.layers
        for dtype in (torch.float32, torch.bfloat16)
    )
    packed = [{n: p for n, p in m.named_parameters() if not p.is_floating_point()} for m in (one, other)]
    assert len(packed[0]) == 14 and all(torch.equal(p, packed[1][name]) for name, p in packed[0].items())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_recomputed_activations_give_the_same_run_on_a_quantised_base(scheme, hub, corpus, tmp_path):
    curves = []
    for name, again in (("plain", False), ("again", True)):
        trainer = {
            "max_steps": 2, "gradient_accumulation_steps": 2, "activation_checkpointing": again, "bf16": True,
        }  # fmt: skip
        only = stage(corpus, ["lora"], {"language_modeling": 1}, lora={"r": 4}, trainer=trainer)
        folder = run_recipe(recipe_on(hub, tmp_path / name, {"only": only}, quantize=scheme))
        curves.append((losses(folder), weights(folder)))
    assert curves[0][0] == curves[1][0]
    assert all(torch.equal(tensor, curves[1][1][name]) for name, tensor in curves[0][1].items())


@pytest.mark.parametrize(("sharding", "option"), [({"fsdp": True}, "--fsdp"), ({"deepspeed": "x.json"}, "--deepspeed")])
def test_a_quantised_language_model_is_not_cut_into_shards(sharding, option, hub, corpus, tmp_path):
    recipe = recipe_on(hub, tmp_path, two_stages(corpus), quantize="nf4")
    with pytest.raises(ValueError, match=f"held in nf4, which trains under DDP alone; leave out {option}"):
        run_recipe(recipe, **sharding)


def test_a_language_model_from_scratch_is_quantised_when_it_is_loaded_and_not_saved_so(tmp_path):
    built = build(
        encoder={"config": ENCODER},
        connector=MLP,
        llm={"config": {**LLM, **WIDE, **LLMS["qwen2"]}},
        tokenizer=tokenizer(),
    )
    save_checkpoint(built.model, built.processor, tmp_path / "whole", trained={"connector"})
    held = load(tmp_path / "whole", device="cpu", quantize="nf4").model
    assert {p.dtype for p in held.model.language_model.layers[0].mlp.parameters()} == {torch.uint8}
    with pytest.raises(ValueError, match=r"held in nf4, which would be saved for its weights; load .* quantize='none'"):
        save_checkpoint(held, built.processor, tmp_path / "lost")
    with pytest.raises(ValueError, match="train: llm is held in nf4, which cannot train; train `lora` on it"):
        select_trainable(held, ["llm"])
    with pytest.raises(ValueError, match="quantize='nf5' is unknown; use nf4, int8 or none"):
        load(tmp_path / "whole", quantize="nf5")


# ------------------------------------------------------------------------------------------------ what is told before


def test_what_cannot_be_quantised_is_told_with_its_line(hub, corpus, tmp_path):
    trains = stage(corpus, ["llm"], {"language_modeling": 1})
    told = r"model\.llm\.quantize: nf4 freezes the language model, and stage only trains `llm`; train `lora`"
    with pytest.raises(RecipeError, match=told):
        recipe_on(hub, tmp_path, {"only": trains}, quantize="nf4")
    scratch = (
        "model.llm={config: {model_type: qwen3}, tokenizer: {train_on: x.jsonl}, checkpoint: null, quantize: int8}"
    )
    with pytest.raises(RecipeError, match=r"model\.llm: `quantize` holds the frozen weights of a `checkpoint`"):
        recipe_on(hub, tmp_path, two_stages(corpus), scratch)
    with pytest.raises(RecipeError, match=r"model\.llm\.quantize: .*'nf4' or 'int8'"):
        recipe_on(hub, tmp_path, two_stages(corpus), quantize="int4")
    with pytest.raises(ValueError, match="`quantize` holds a frozen language model of a `checkpoint`"):
        build(encoder=str(hub / "whisper"), llm={"config": LLM, "quantize": "nf4"}, tokenizer=tokenizer())


@pytest.fixture
def no_bitsandbytes(monkeypatch):
    """A machine without bitsandbytes."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a)
    )


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.llm.quantize=int8", "quantize=int8"),
        ("stages.align.trainer.optim=adamw_8bit", "trainer.optim=adamw_8bit"),
    ],
)
def test_a_missing_bitsandbytes_is_told_in_a_sentence_before_a_model_loads(
    hub,
    corpus,
    tmp_path,
    no_bitsandbytes,
    monkeypatch,
    override,
    told,
):
    monkeypatch.setattr(stages, "build", lambda **_: pytest.fail("the model was loaded first"))
    recipe = recipe_on(hub, tmp_path, two_stages(corpus), override)
    with pytest.raises(ImportError, match=rf"^{told} needs bitsandbytes: pip install 'audiollm\[quant\]'$"):
        run_recipe(recipe)


def test_a_missing_bitsandbytes_is_told_when_a_model_is_loaded(no_bitsandbytes, tmp_path):
    built = build(
        encoder={"config": ENCODER}, connector=MLP, llm={"config": {**LLM, **LLMS["qwen2"]}}, tokenizer=tokenizer()
    )
    save_checkpoint(built.model, built.processor, tmp_path / "saved", trained={"connector"})
    refused = CliRunner().invoke(cli.app, ["chat", str(tmp_path / "saved"), "what?", "--quantize", "nf4"])
    assert refused.exit_code == 2 and "quantize=nf4 needs bitsandbytes: pip install 'audiollm[quant]'" in refused.stderr


# ------------------------------------------------------------------------------------------------------ 8-bit AdamW


def test_adamw_in_8_bits_trains_and_goes_on_exactly(hub, corpus, watch, tmp_path):
    """The connector is wide enough that its matrices are worth 8 bits to bitsandbytes; each part has its own rate."""
    kinds = set()

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer, **_):
            kinds.update(s["state1"].dtype for s in optimizer.state.values())
            assert {group["part"] for group in optimizer.param_groups} == {"connector", "lora"}

    trainer = {"max_steps": 6, "save_steps": 2, "optim": "adamw_bnb_8bit", "weight_decay": 0.1}
    only = stage(corpus, {"connector": 5.0e-3, "lora": 1.0e-3}, {"language_modeling": 1}, lora=LORA, trainer=trainer)
    wide = "model.connector={name: mlp, stack: 4, hidden_size: 256}"
    watch(Look())
    whole = run_recipe(recipe_on(hub, tmp_path / "whole", {"only": only}, wide))
    assert kinds >= {torch.uint8} and losses(whole)[-1] < 0.9 * losses(whole)[0]
    with pytest.raises(Killed):
        watch(Kill(5))
        run_recipe(recipe_on(hub, tmp_path / "stopped", {"only": only}, wide))
    watch(TrainerCallback())
    assert_same_weights(run_recipe(recipe_on(hub, tmp_path / "stopped", {"only": only}, wide)), whole)


# ------------------------------------------------------------------------------------------------- bases in bfloat16


class Types(TrainerCallback):
    """The types in which each part is held while it trains."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model, **_):
        found = {}
        for name, parameter in model.model.named_parameters():
            found.setdefault(part_of(name), set()).add(parameter.dtype)
        self.seen.append(found)


def test_untouched_bases_are_held_in_bfloat16_and_what_trains_in_float32(hub, corpus, watch, tmp_path):
    types = Types()
    watch(types)
    folder = run_recipe(recipe_on(hub, tmp_path, two_stages(corpus, bf16=True)))
    half, full = {torch.bfloat16}, {torch.float32}
    assert types.seen[0] == {"encoder": half, "llm": half, "connector": full}
    assert types.seen[-1] == {"encoder": half, "llm": half, "connector": full, "lora": full}
    assert {tensor.dtype for tensor in weights(folder).values()} == full
    assert losses(folder)[-1] < 0.9 * losses(folder.parent / "align")[0]


@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_a_stopped_run_in_bfloat16_ends_with_the_same_bits(hub, corpus, watch, tmp_path, quantize):
    whole = run_recipe(recipe_on(hub, tmp_path / "whole", two_stages(corpus, bf16=True), quantize=quantize))
    recipe = recipe_on(hub, tmp_path / "stopped", two_stages(corpus, bf16=True), quantize=quantize)
    assert_same_weights(run_with_stops(recipe, watch), whole)


def test_a_part_that_any_stage_trains_or_trained_is_never_rounded(hub, corpus, watch, tmp_path):
    """The encoder trains in the first stage: in the second it is frozen, and not a bit of it changes on disk."""
    listen = stage(corpus, ["encoder"], {"ctc": 1}, trainer={"bf16": True, "max_steps": 2})
    align = two_stages(corpus, bf16=True)["align"]
    types = Types()
    watch(types)
    run = run_recipe(recipe_on(hub, tmp_path, {"listen": listen, "align": align})).parent
    assert types.seen[-1]["encoder"] == {torch.float32} and types.seen[-1]["llm"] == {torch.bfloat16}
    before, after = weights(run / "listen"), weights(run / "align")
    encoder = [name for name in before if part_of(name) == "encoder"]
    assert encoder and all(torch.equal(before[name], after[name]) for name in encoder)
    more = {"name": "more", "output": str(tmp_path / "more"), "model": {"checkpoint": str(run / "listen")}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(more | {"stages": {"align": align}}))
    after = weights(run_recipe(load_recipe(tmp_path / "more.yaml")))
    assert types.seen[-1]["encoder"] == {torch.float32} and types.seen[-1]["llm"] == {torch.bfloat16}
    assert all(torch.equal(before[name], after[name]) for name in encoder)


def test_without_bfloat16_in_every_stage_all_is_held_in_float32(hub, corpus, watch, tmp_path):
    types = Types()
    watch(types)
    chosen = two_stages(corpus, bf16=True, max_steps=1)
    chosen["align"]["trainer"]["bf16"] = False
    run_recipe(recipe_on(hub, tmp_path, chosen))
    assert all(found == {torch.float32} for seen in types.seen for found in seen.values())


def test_a_frozen_language_model_in_bfloat16_is_the_base_to_the_bit(hub):
    built = build(encoder=str(hub / "whisper"), connector=MLP, llm=str(hub / "qwen"), in_bfloat16=["llm"]).model
    base = AutoModelForCausalLM.from_pretrained(hub / "qwen", dtype=torch.bfloat16)
    same = {n: torch.equal(p, base.model.state_dict()[n]) for n, p in built.model.language_model.state_dict().items()}
    assert same and all(same.values())
    assert checksum(built.model.audio_tower) == checksum(WhisperModel.from_pretrained(hub / "whisper").encoder)

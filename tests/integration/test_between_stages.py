"""Between stages and beside them: LoRA is scaled and merged, text is replayed, and what is forgotten is measured."""

import json
from pathlib import Path

import pytest
import torch
from integration.test_training import Kill, Killed, corpus, losses, recipe_of, stage, watch, weights, write_jsonl
from tiny import checksum

from audiollm.conversation import parse_row
from audiollm.evaluation.judge import judge
from audiollm.inference import load
from audiollm.models.freezing import has_lora, part_of
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.recipe import RecipeError, load_recipe
from audiollm.training import dry_run, run_recipe
from audiollm.training.text_check import TextCheck, text_figures
from audiollm.training.trainer import StageTrainer

__all__ = ["corpus", "watch"]
WORDS = {"language_modeling": 1}
LORA = {"r": 2, "alpha": 4}


@pytest.fixture(scope="module")
def text(corpus):
    """Questions and answers without sound."""
    rows = [
        {"id": f"text-{number}", "messages": [
            {"role": "user", "content": f"how many is {number}?"}, {"role": "assistant", "content": answer},
        ]}
        for number, answer in enumerate(["one", "two", "three", "high", "low", "yes"])
    ]  # fmt: skip
    return write_jsonl(corpus / "text.jsonl", rows)


def few(corpus, train, objectives=WORDS, *, steps=2, **more):
    return stage(
        corpus, train, objectives, rows="eight", trainer={"max_steps": steps, **more.pop("trainer", {})}, **more
    )


def stages(corpus):
    """LoRA is trained, trained on with half of it, and merged before another one is added."""
    fast = {"trainer": {"learning_rate": 5.0e-2}}
    return {
        "instruct": few(corpus, ["lora"], lora=LORA, **fast),
        "activate": few(corpus, ["lora"], steps=1, lora_scale=0.5),
        "speak": few(corpus, ["lora"], steps=1, merge_lora=True, lora={"r": 4, "alpha": 4}),
    }


@pytest.fixture(scope="module")
def finished(corpus, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("between")
    recipe = recipe_of(folder, corpus, stages(corpus), f"text_check=[{text}]", f"evaluate=[{{path: {text}}}]")
    run_recipe(recipe)
    return recipe, folder / "run"


def figures(run):
    record = json.loads((run / "run.json").read_text())["stages"]
    return {name: one["text_check"]["text"] for name, one in record.items()}


@torch.no_grad()
def logits(model):
    return model.eval()(torch.tensor([[5, 17, 40, 8, 23]])).logits


def test_a_scale_stays_with_the_checkpoint_and_a_merged_lora_is_part_of_the_language_model(finished):
    _, run = finished
    names = ("instruct", "activate", "speak")
    manifests = {name: json.loads((run / name / "checkpoint.json").read_text()) for name in names}
    assert [one["lora"]["scale"] for one in manifests.values()] == [1.0, 0.5, 1.0]
    assert "llm" not in manifests["activate"]["trained_parts"] and "llm" in manifests["speak"]["trained_parts"]
    before, after = weights(run / "activate"), weights(run / "speak")
    changed = {name for name in before if part_of(name) == "llm" and not torch.equal(before[name], after[name])}
    assert changed and all("_proj" in name for name in changed)


def test_what_was_merged_is_what_the_adapter_made_of_it(finished):
    _, run = finished
    merged = load(run / "speak", lora_scale=0)  # the new LoRA left out
    torch.testing.assert_close(logits(merged.model), logits(load(run / "activate").model), rtol=1e-4, atol=1e-4)


def test_forgetting_is_measured_before_and_after_each_stage_and_told(finished, capsys):
    recipe, run = finished
    found = figures(run)
    first = AudioLLMForConditionalGeneration.from_pretrained(run / "instruct")
    assert has_lora(first) and found["instruct"][0] != found["instruct"][1]
    assert found["speak"][0] == pytest.approx(found["activate"][1], rel=1e-4)  # merging changes nothing
    assert abs(found["activate"][0] - found["instruct"][1]) > 1e-4  # half of the LoRA does
    judge(recipe)
    results = json.loads((run / "results.json").read_text())
    assert results["text_check"]["activate"]["text"] == found["activate"]
    page = (run / "report.html").read_text()
    assert "What it forgot" in page and f"{found['activate'][1]:.3f}" in page


def test_the_figures_are_the_loss_of_the_rows_by_themselves(finished, text):
    _, run = finished
    listener = load(run / "activate")
    total = tokens = 0.0
    for line in Path(text).read_text().splitlines():
        [one] = listener.processor.render(parse_row(json.loads(line)).messages, [])
        with torch.no_grad():
            out = listener.model(torch.tensor([one.input_ids])).logits[0].log_softmax(-1)
        for place, counts in enumerate(one.supervised):
            total -= float(out[place - 1, one.input_ids[place]]) if counts else 0.0
            tokens += counts
    assert figures(run)["activate"][1] == pytest.approx(total / tokens, rel=1e-4)


def test_a_stage_that_was_stopped_keeps_what_was_measured_before_it_and_no_weight_changes_by_it(
    finished, corpus, text, watch, tmp_path, monkeypatch
):
    _, run = finished
    measured, measure = [], TextCheck.measure

    def look(check):
        drawn, before = torch.get_rng_state(), checksum(check.trainer.stage_model)
        measure(check)
        assert torch.equal(torch.get_rng_state(), drawn) and checksum(check.trainer.stage_model) == before
        measured.append(check.trainer.state.global_step)

    monkeypatch.setattr(TextCheck, "measure", look)
    recipe = recipe_of(tmp_path, corpus, stages(corpus), f"text_check=[{text}]", "stages.instruct.trainer.save_steps=1")
    watch(Kill(1, "on_save"))
    with pytest.raises(Killed):
        run_recipe(recipe, stage="instruct")
    watch(Kill(-1))
    run_recipe(recipe, stage="instruct")
    assert measured == [0, 2] and figures(tmp_path / "run")["instruct"] == figures(run)["instruct"]
    found, expected = weights(tmp_path / "run" / "instruct"), weights(run / "instruct")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_figures_are_those_of_rows_that_were_measured_before_and_after():
    history = [{"text_a_loss": 1.0}, {"loss": 3.0}, {"text_a_loss": 2.0, "text_b_loss": 5.0}]
    assert text_figures(history, ["a", "b", "c"]) == {"a": (1.0, 2.0)}


def test_a_check_with_sound_or_without_answers_is_refused(corpus, tmp_path):
    for rows, told in ((corpus / "eight.jsonl", "holds sound"), ("nowhere.jsonl", "no such file")):
        recipe = recipe_of(tmp_path, corpus, stages(corpus), f"text_check=[{rows}]")
        with pytest.raises(RecipeError, match=rf"text_check\.0\.path is .*{told}"):
            run_recipe(recipe)


def test_merging_or_scaling_without_lora_is_told(corpus, tmp_path):
    for key, value in {"merge_lora": True, "lora_scale": 0.5}.items():
        recipe = recipe_of(tmp_path, corpus, {"only": few(corpus, ["connector"], **{key: value})})
        with pytest.raises(ValueError, match=f"{key}.* model has no LoRA"):
            run_recipe(recipe)


def test_a_dry_run_merges_and_scales_too(corpus, text, tmp_path, capsys):
    dry_run(recipe_of(tmp_path, corpus, stages(corpus), f"text_check=[{text}]"))
    assert capsys.readouterr().out.count("memory of a device") == 3


def test_a_merged_base_is_not_held_in_bfloat16_nor_quantized(corpus, tmp_path):
    three = stages(corpus)
    for one in three.values():
        one["trainer"]["bf16"] = True
    assert recipe_of(tmp_path, corpus, three).in_bfloat16 == ["encoder"]
    three["speak"]["merge_lora"] = False
    assert recipe_of(tmp_path, corpus, three).in_bfloat16 == ["encoder", "llm"]
    three["speak"]["merge_lora"] = True
    llm = "model.llm={checkpoint: org/base, quantize: nf4, config: null, tokenizer: null}"
    with pytest.raises(RecipeError, match="stage speak has `merge_lora`, which changes its whole weights"):
        recipe_of(tmp_path, corpus, three, llm)


def test_two_checks_of_one_name_are_refused(corpus, tmp_path):
    with pytest.raises(RecipeError, match="text_check: two entries have the same name"):
        recipe_of(tmp_path, corpus, stages(corpus), "text_check=[a/rows.jsonl, b/rows.jsonl]")


def distilling(corpus, text, folder, **data):
    """A connector that learns answers, and from the language model that reads, on sound and on replayed text."""
    validation = {"validation": [{"path": str(corpus / "validation.jsonl"), "limit": 6}]}
    objectives = {"language_modeling": 0.5, "distillation": {"weight": 1, "teacher_text": "description"}}
    one = few(corpus, ["connector"], objectives, trainer={"eval_steps": 2}, data=validation | data)
    one["data"] |= {"train": [{"path": str(corpus / "eight.jsonl")}, {"path": text}], "group_by_length": False}
    return recipe_of(folder, corpus, {"align": one})


def test_a_stage_distils_and_replays_text_with_and_without_kept_features(corpus, text, tmp_path, monkeypatch):
    seen, count_items = [], StageTrainer.count_items

    def note(trainer, batches, device):
        seen.append([row.startswith("text-") for batch in batches for row in batch["row_ids"]])
        return count_items(trainer, batches, device)

    monkeypatch.setattr(StageTrainer, "count_items", note)
    for name, data in (("heard", {}), ("kept", {"cache_features": True})):
        run_recipe(distilling(corpus, text, tmp_path / name, **data))
    assert all(any(step) and not all(step) for step in seen)  # both kinds of rows in one micro-batch
    heard, kept = losses(tmp_path / "heard"), losses(tmp_path / "kept")
    assert len(heard) == 3 and all(loss > 0 for loss in heard)
    assert kept == pytest.approx(heard, rel=2e-2)  # bfloat16 on disk


def test_a_teacher_that_trains_is_refused_with_the_key(corpus, tmp_path):
    recipe = recipe_of(tmp_path, corpus, {"only": few(corpus, ["llm"], {"distillation": 1})})
    with pytest.raises(
        RecipeError, match=r"stages\.only\.objectives\.distillation has the language model for its teach"
    ):
        run_recipe(recipe)
    assert load_recipe(tmp_path / "recipe.yaml").stages["only"].objectives["distillation"].weight == 1

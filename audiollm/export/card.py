"""The card of a model, from what lies in its checkpoint and in its run: parts, stages, data, results, cost, limits.

 runs/NAME/STAGE/config.json, checkpoint.json, recipe.yaml      what it is made of, and by which recipe
 runs/NAME/run.json, results.json                               what its stages took, and what it can

A figure that is not there is not told. Not here: the figures themselves (training/, evaluation/).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from audiollm.recipe import Recipe, load_recipe

USE = """\
## Use

```python
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

folder = "."  # this folder, or its name on the Hub
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
content = [{"type": "audio", "audio": "clip.wav"}, {"type": "text", "text": "What do you hear?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True).strip())
```
"""


@dataclass(frozen=True)
class Told:
    """What is known of a model, as it lies on disk."""

    name: str
    config: Mapping[str, Any]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None
    stages: Mapping[str, Any] = field(default_factory=dict)
    """The stages up to this one, with what they took."""
    results: Mapping[str, Any] = field(default_factory=dict)
    """Empty for a stage that was not the last: its run evaluates the last one."""

    @classmethod
    def read(cls, folder: Path) -> "Told":
        """Read a checkpoint's folder, and its run around it."""
        folder = folder.resolve()
        run = read_json(folder.parent / "run.json").get("stages", {})
        names = list(run)
        place = names.index(folder.name) + 1 if folder.name in names else 0
        recipe = folder / "recipe.yaml"
        return cls(
            name=f"{folder.parent.name}/{folder.name}" if place else folder.name,
            config=read_json(folder / "config.json"),
            manifest=read_json(folder / "checkpoint.json"),
            recipe=load_recipe(recipe) if recipe.is_file() else None,
            stages={name: run[name] for name in names[:place]},
            results=read_json(folder.parent / "results.json") if place and place == len(names) else {},
        )

    @property
    def bases(self) -> Mapping[str, Any]:
        """Public checkpoints that parts stand on."""
        return self.config.get("bases") or {}

    @property
    def tests(self) -> dict[str, Mapping[str, Any]]:
        """Scores by task, of every test."""
        first = self.results.get("tasks", {})
        others = self.results.get("evaluations", {})
        return {"": first} | {name: of["tasks"] for name, of in others.items()} if first else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def checkpoint_card(folder: Path) -> str:
    """The card of a small checkpoint."""
    told = Told.read(folder)
    use = f"## Use\n\n```sh\npip install audiollm\naudiollm chat {told.name} --audio clip.wav\n```\n"
    return card(told, use, library="audiollm")


def folder_card(source: Path, needs: Sequence[str]) -> str:
    """The card of an exported folder; `needs` are the packages that its code imports."""
    adapter = (
        "LoRA lies beside the weights as an adapter, which transformers loads with them; servers such as vLLM do not: "
        "export with `--merge` for them.\n"
        if "peft" in needs
        else "It has what the transformers backends of vLLM and SGLang ask for; it was run with neither.\n"
    )
    installed = " ".join(needs)
    about = f"\nThe code in this folder needs `pip install {installed}`; `audiollm` itself is not needed.\n{adapter}"
    return card(Told.read(source), USE + about, library="transformers", tags=["custom_code"])


def native_card(source: Path, name: str, use: str) -> str:
    """The card of a folder of a native architecture; `use` says who reads it."""
    return card(Told.read(source), f"## Use\n\n{use}\n", library="transformers", tags=[name])


def card(told: Told, use: str, *, library: str, tags: Sequence[str] = ()) -> str:
    """The whole card; `use` is the section that says how it is loaded."""
    sections = [front_matter(told, library, tags), f"# {told.name}\n\n{summary(told)}\n", use]
    sections += [section for section in (parts(told), stages(told), data(told), results(told), cost(told)) if section]
    return "\n".join([*sections, limits(told)])


def front_matter(told: Told, library: str, tags: Sequence[str]) -> str:
    """What the Hub reads."""
    about: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "audio-text-to-text",
        "tags": sorted({"audiollm", "audio", *tags}),
    }
    public = sorted({base["checkpoint"] for base in bases_of(told) if "/" in base["checkpoint"]})
    if public:
        about["base_model"] = public
    return f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n"


def bases_of(told: Told) -> list[Mapping[str, Any]]:
    """Every public checkpoint that a part stands on; an encoder may be several."""
    return [one for base in told.bases.values() for one in base.get("several", [base])]


def kinds(config: Mapping[str, Any]) -> dict[str, str]:
    """Encoder, connector and language model in words; those of a model that transformers has itself are its own."""
    if "connector_config" not in config:
        name = (config.get("native_config") or config)["model_type"]
        return dict.fromkeys(("encoder", "connector", "llm"), f"{name}'s own")
    encoders = config["audio_config"].get("encoders") or [config["audio_config"]]
    return {
        "encoder": " and ".join(one["model_type"] for one in encoders),
        "connector": config["connector_config"]["name"],
        "llm": config["text_config"]["model_type"],
    }


def summary(told: Told) -> str:
    """One sentence."""
    trained = f", trained in {number(len(told.stages), 'stage')}" if told.stages else ""
    words = ", ".join(f"{kind} {part}" for part, kind in kinds(told.config).items())
    return f"An audio language model: {words.replace(' llm', ' language model')}{trained}."


def parts(told: Told) -> str:
    """What it is made of."""
    trained = set(told.manifest.get("trained_parts", ()))
    named = kinds(told.config)
    if "connector_config" in told.config:
        named["connector"] = settings(told.config["connector_config"])
    if "lora" in trained:
        named["lora"] = "adapters of the language model"
    rows = []
    for part, kind in named.items():
        base = told.bases.get(part, {})
        names = ", ".join(pinned(one) for one in base.get("several", [base])) if base else ""
        rows.append([part, kind, names or ("no public checkpoint" if part in ("encoder", "llm") else "")])
        rows[-1].append("yes" if part in trained else "no")
    return section("Parts", table(["part", "kind", "stands on", "trained"], rows))


def pinned(base: Mapping[str, Any]) -> str:
    """A public checkpoint with its revision."""
    return f"`{base['checkpoint']}`" + (f" at {base['revision']}" if base.get("revision") else "")


def settings(block: Mapping[str, Any]) -> str:
    """A connector's block in one line."""
    return f"{block['name']} ({', '.join(f'{key} {value}' for key, value in block.items() if key != 'name')})"


def stages(told: Told) -> str:
    """What was trained, in which order, on what."""
    if told.recipe is None:
        return ""
    rows = []
    for name, took in told.stages.items():
        stage = told.recipe.stages[name]
        objectives = ", ".join(stage.objectives)
        rates = ", ".join(f"{part} {rate:g}" for part, rate in stage.learning_rates.items())
        rows.append([name, objectives, rates, f"{took['steps']:,}", f"{took.get('seconds', 0) / 60:.1f}"])
    head = ["stage", "objectives", "trains, at a learning rate of", "steps", "minutes"]
    return section("Stages", table(head, rows) + augmentation(told)) if rows else ""


def augmentation(told: Told) -> str:
    """How the sound of each stage was changed in training, and how often; of an earlier release that is not known."""
    lines = [
        f"- augmentation of {name}: {took['augmentation'] or 'none'}\n"
        for name, took in told.stages.items()
        if "augmentation" in took
    ]
    return "".join(["\n", *lines]) if lines else ""


def data(told: Told) -> str:
    """Which rows each stage learned from, their licences, and hours where the run knows them."""
    rows = []
    for name, took in told.stages.items():
        for license, source, count in sorted(took.get("licences", ()), key=lambda one: -one[2]):
            rows.append([name, source or "not said", license or "not said", f"{count:,}"])
    if not rows:
        return ""
    heard = {name: took["hours"] for name, took in told.stages.items() if took.get("hours")}
    hours = "; ".join(f"{name} {value:g} h" for name, value in heard.items())
    policy = f"Licence policy of the recipe: {told.recipe.license_policy}.\n" if told.recipe else ""
    about = policy + (f"Sound of its recordings: {hours}.\n" if hours else "")
    return section("Data", table(["stage", "source", "licence", "rows"], rows) + f"\n{about}")


def results(told: Told) -> str:
    """Scores beside what is reached without listening."""
    written = []
    for test, tasks in told.tests.items():
        rows = [[f"`{task}` ({score['metric']})", *figures(score)] for task, score in tasks.items()]
        head = ["task", "with audio", "95 % interval", "without audio", "commonest answer", "answers"]
        written.append((f"### {test}\n\n" if test else "") + table(head, rows))
    if not written:
        return ""
    told_of = (
        "A score that is no better than the two beside it was guessed, and not heard. Word errors: lower is better."
    )
    return section("Results", "\n".join([*written, told_of + "\n"]))


def figures(score: Mapping[str, Any]) -> list[str]:
    """A task's figures, in the order of the table."""
    low, high = score["ci95"]
    blind = "not asked" if score.get("blind") is None else f"{score['blind']:.1%}"
    return [f"{score['score']:.1%}", f"{low:.1%} to {high:.1%}", blind, f"{score['prior']:.1%}", f"{score['n']:,}"]


def cost(told: Told) -> str:
    """What the run took."""
    if not told.stages:
        return ""
    minutes = sum(took.get("seconds", 0) for took in told.stages.values()) / 60
    memory = told.results.get("peak_memory_gib")
    peak = f", peak memory of the process {memory:.1f} GiB" if memory else ""
    return section("Cost", f"{minutes:,.1f} minutes of training{peak}.\n")


def limits(told: Told) -> str:
    """What is not known of it, and what it cannot do."""
    found = []
    if not told.tests:
        found.append("No results lie beside it: how well it hears is not known.")
    for test, tasks in told.tests.items():
        guessed = [f"`{task}`" for task, score in tasks.items() if not better_than_guessing(score)]
        where = f" on {test}" if test else ""
        if guessed:
            found.append(f"Not shown to be better than without listening{where}: {', '.join(guessed)}.")
        if any(score.get("blind") is None for score in tasks.values()):
            found.append(f"Asked without a blind control{where}: some of a score may be read off the questions.")
    if told.config.get("quantize"):
        found.append(
            f"Trained with its language model in {told.config['quantize']}; in full precision it differs a little."
        )
    if any(license in (None, "unknown") for took in told.stages.values() for license, _, _ in took.get("licences", ())):
        found.append("Some of its rows do not say their licence.")
    found.append(
        "Languages, voices and sounds unlike those of its data were not tried; it may answer about what is not there."
    )
    return section("Limits", "".join(f"- {one}\n" for one in found))


def better_than_guessing(score: Mapping[str, Any]) -> bool:
    """Whether the whole interval is on the right side of what is reached without listening."""
    low, high = score["ci95"]
    without = [value for value in (score.get("blind"), score["prior"]) if value is not None]
    return bool(high < min(without) if score["metric"] == "wer" else low > max(without))


def number(count: int, what: str) -> str:
    """1 stage, 2 stages."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def section(title: str, text: str) -> str:
    """A heading and its text."""
    return f"## {title}\n\n{text}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; a bar in a cell would end it."""
    lines = [list(head), ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

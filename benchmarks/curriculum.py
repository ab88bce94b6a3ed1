"""What stages, the connector, its tokens a second and the rank of LoRA are worth, with the quickstart's parts and data.

    python benchmarks/curriculum.py --seeds 0,1,2 --out runs/curriculum --plot docs/curriculum.svg

One factor at a time differs from the quickstart's last two stages; all else, steps included, is equal. All at once
takes as many steps as all four stages, of 20 recordings each, so that it sees as many of them too. The first two stages
(reading and hearing) are trained once for each seed and reused. A trial that is done is not done again, and one that
was interrupted goes on, so that several processes may share the work by `--seeds` and `--only`. Asked are the
quickstart's test questions, of voices and parameters that were never trained on. The score of a trial is the mean of
its tasks (for transcribing: 1 - word error rate, at least 0).
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from audiollm.curation.prepare import prepare_all
from audiollm.data.sources import load_rows
from audiollm.evaluation.run import evaluate
from audiollm.inference import load
from audiollm.recipe import Recipe, load_recipe
from audiollm.training.stages import run_recipe

Found = dict[str, Any]
"""What a trial found with one seed."""
T95 = {1: 0.0, 2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Student's t for a 95 % interval of the mean of so many seeds."""


@dataclass(frozen=True)
class Trial:
    """One line of the table: what differs from the quickstart, as settings of its recipe."""

    factor: str
    name: str
    settings: tuple[str, ...] = ()
    start: str = "listen"
    """The stage whose checkpoint it starts from; empty for new parts."""

    @property
    def folder(self) -> str:
        """Where it runs, under the seed's folder."""
        return f"{self.factor}-{self.name}".replace(" ", "_").replace(",", "")


QFORMER = (
    "model.connector={name: window_qformer, window_s: 0.08, num_queries: 1, hidden_size: 128, num_layers: 2, "
    "num_heads: 4, intermediate_size: 512}"
)
SWIGLU = "model.connector={name: swiglu, stack: 2, hidden_size: 1024}"
EVERYTHING = (
    "stages.instruct.lora=null", "stages.instruct.train={encoder: 3.0e-3, connector: 3.6e-3, llm: 3.6e-3}",
    "stages.instruct.objectives={language_modeling: 1, ctc: {target: description}, contrastive: 0.1}",
    "stages.instruct.data.train=[data/demo/text.jsonl, data/demo/train.jsonl]",
    "stages.instruct.data.cache_features=false", "stages.instruct.trainer.per_device_train_batch_size=20",
)  # fmt: skip
QUICKSTART = Trial("stages", "reading, hearing, align, instruct")
TRIALS = (
    QUICKSTART,
    Trial("stages", "align and instruct at once", ("stages.align=null", "stages.instruct.trainer.max_steps=670")),
    Trial("stages", "all at once", ("stages.align=null", "stages.instruct.trainer.max_steps=2520", *EVERYTHING), ""),
    Trial("connector", "window_qformer", (QFORMER,)),
    Trial("connector", "swiglu", (SWIGLU,)),
    *(Trial("tokens a second", f"{25 / stack:g}", (f"model.connector.stack={stack}",)) for stack in (1, 5, 25)),
    Trial("rank of LoRA", "4", ("stages.instruct.lora.r=4",)),
    Trial("rank of LoRA", "64", ("stages.instruct.lora.r=64",)),
)
LIKE_QUICKSTART = {"stages": QUICKSTART.name, "connector": "mlp", "tokens a second": "12.5", "rank of LoRA": "16"}
"""How the quickstart is called among the trials of each factor."""


def first_stages(out: Path, seed: int) -> Path:
    """The run of the quickstart's first two stages."""
    folder = out / f"seed{seed}/first"
    train(load_recipe("quickstart", [f"output={folder}", f"seed={seed}", "stages.align=null", "stages.instruct=null"]))
    return folder


def recipe_of(trial: Trial, out: Path, seed: int) -> Recipe:
    """The quickstart's last two stages, but for what the trial says."""
    settings = [f"output={out / f'seed{seed}' / trial.folder}", f"seed={seed}", f"cache={out / f'seed{seed}/cache'}"]
    settings += ["stages.language=null", "stages.listen=null"]
    if trial.start:
        start = out / f"seed{seed}/first" / trial.start
        settings += [f"model.checkpoint={start}", "model.encoder=null", "model.llm=null"]
    return load_recipe("quickstart", [*settings, *trial.settings])


def train(recipe: Recipe) -> float:
    """Run what is not done yet; seconds of all its stages."""
    folder = Path(recipe.output)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a") as log, redirect_stdout(log):
        run_recipe(recipe)
    stages = json.loads((folder / "run.json").read_text())["stages"]
    return float(sum(stage["seconds"] for stage in stages.values()))


def result_of(trial: Trial, out: Path, seed: int, limit: int | None) -> Found:
    """Train and ask, or what was found before."""
    recipe = recipe_of(trial, out, seed)
    kept = Path(recipe.output, "score.json")
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    seconds = train(recipe)
    rows = load_rows(recipe.evaluate[0].path)
    found = evaluate(load(recipe.output), rows[:limit], batch_size=128, max_new_tokens=24, progress=False)
    tasks = {name: max(0.0, 1 - one.score) if one.metric == "wer" else one.score for name, one in found.tasks.items()}
    result = {"seed": seed, "score": statistics.mean(tasks.values()), "seconds": seconds, "tasks": tasks}
    kept.write_text(json.dumps(result, indent=1) + "\n")
    return result


def table(results: dict[Trial, list[Found]]) -> Iterable[str]:
    """A Markdown line for each trial, in groups that each repeat the quickstart's.

    Its difference from the quickstart is of the same seeds, which share their first stages.
    """
    yield "| factor | | score, mean | 95 % interval | less than the quickstart, 95 % interval | transcribe |"
    yield "|---|---|---|---|---|---|"
    usual = {one["seed"]: float(one["score"]) for one in results.get(QUICKSTART, ())}
    for factor, name, found in grouped(results):
        scores = [float(one["score"]) for one in found]
        words = statistics.mean(one["tasks"]["transcribe"] for one in found)
        less = [usual[one["seed"]] - float(one["score"]) for one in found if one["seed"] in usual]
        cells = (f"{100 * statistics.mean(scores):.1f} %", span(scores, most=1.0), span(less) if any(less) else "")
        yield f"| {factor} | {name} | {' | '.join(cells)} | {100 * words:.1f} % |"


def span(values: Sequence[float], most: float = math.inf) -> str:
    """The 95 % interval of the mean in percent; nothing for one value."""
    mean, half = statistics.mean(values), interval(values)
    return f"{100 * (mean - half):.1f} to {100 * min(mean + half, most):.1f}" if half else ""


def grouped(results: dict[Trial, list[Found]]) -> list[tuple[str, str, list[Found]]]:
    """Factor, name and results of each line; tokens and ranks in order."""
    lines = []
    for factor, same in LIKE_QUICKSTART.items():
        group = [(trial.name, found) for trial, found in results.items() if trial.factor == factor and found]
        if factor != QUICKSTART.factor and results.get(QUICKSTART):
            group.append((same, results[QUICKSTART]))
        if all(name.replace(".", "").isdigit() for name, _ in group):
            group.sort(key=lambda line: float(line[0]))
        lines += [(factor, name, found) for name, found in group]
    return lines


def interval(scores: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean, by Student's t; 0 for one score."""
    return T95[len(scores)] * statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else 0.0


def plot(results: dict[Trial, list[Found]]) -> str:
    """An SVG with a row for each line of the table: a dot for each seed, a bar at their mean; from the lowest on."""
    lines, left, width, row = grouped(results), 330, 760, 24
    low = math.floor(100 * min(float(one["score"]) for _, _, found in lines for one in found))
    low -= low % 2  # in steps of which there are not many
    step = max((100 - low) // 5, 1)

    def place(percent: float) -> float:
        return left + (width - left - 20) * (percent - low) / (100 - low)

    parts = []
    for tick in range(low, 101, step):
        x = place(tick)
        parts.append(f'<path d="M{x} 20V{30 + row * len(lines)}" stroke="#ccc"/>')
        parts.append(f'<text x="{x}" y="14" text-anchor="middle">{tick} %</text>')
    for number, (factor, name, found) in enumerate(lines):
        y = 38 + row * number
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(f"{factor}: {name}")}</text>')
        places = [place(100 * float(one["score"])) for one in found]
        parts += [f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="#2a6f97" fill-opacity="0.6"/>' for x in places]
        parts.append(f'<path d="M{statistics.mean(places):.1f} {y - 8}v16" stroke="#c1121f" stroke-width="2"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {44 + row * len(lines)}" font-size="12" '
    return head + 'font-family="sans-serif" fill="#333" style="background:#fff">' + "".join(parts) + "</svg>\n"


def main() -> None:
    """Run every trial for every seed, as far as they are not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/curriculum"))
    parser.add_argument("--only", default="", help="trials whose factor or name holds this")
    parser.add_argument("--limit", type=int, help="questions asked; all if not said")
    parser.add_argument("--plot", type=Path, help="an SVG file")
    options = parser.parse_args()
    recipe = load_recipe("quickstart")
    prepare_all({name: (recipe.prepared_folder(name), given) for name, given in recipe.prepare.items()})
    results: dict[Trial, list[Found]] = {}
    started = time.perf_counter()
    for seed in map(int, options.seeds.split(",")):
        first_stages(options.out, seed)
        for trial in (one for one in TRIALS if options.only in f"{one.factor}: {one.name}"):
            found = result_of(trial, options.out, seed, options.limit)
            results.setdefault(trial, []).append(found)
            minutes = (time.perf_counter() - started) / 60
            print(f"seed {seed}, {trial.factor}: {trial.name}: {100 * float(found['score']):.1f} % ({minutes:.0f} min)")
    print("\n".join(table(results)))
    if options.plot:
        options.plot.write_text(plot(results))


if __name__ == "__main__":
    main()

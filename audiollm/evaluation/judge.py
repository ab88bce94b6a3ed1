"""The end of a run: the finished model is asked what `evaluate:` of the recipe says; figures are written and shown.

runs/NAME/results.json      scores, seconds of each stage, peak memory
runs/NAME/report.html       the same for people, with curves and examples
runs/NAME/answers/*.jsonl   every answer
"""

import json
import platform
import resource
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from audiollm import __version__
from audiollm.conversation import AudioPart, Row
from audiollm.data.sources import Problems, load_rows, of_tasks
from audiollm.evaluation.results import EvaluationResult, write_results
from audiollm.evaluation.retrieval import evaluate_towers
from audiollm.evaluation.run import evaluate
from audiollm.inference import Listener
from audiollm.matching import Matcher, load_either
from audiollm.recipe import EvaluationSettings, Recipe
from audiollm.report import ReportData, choose_examples, print_scores, write_report

MOST_SOURCES = 20
"""Sources of rows that the report names for a stage."""


def judge(recipe: Recipe, *, prepare_seconds: float = 0.0) -> dict[str, EvaluationResult]:
    """Evaluate the run's last checkpoint, write results.json and report.html, and print the table."""
    if not recipe.evaluate:
        print(f"next:   {chat_command(recipe)}")
        return {}
    folder = Path(recipe.output)
    started = time.perf_counter()
    opened = load_either(folder)
    results = {entry.title: ask(opened, entry, folder / "answers") for entry in recipe.evaluate}
    stages = json.loads((folder / "run.json").read_text())["stages"]
    seconds = {"prepare": prepare_seconds} | {name: stage["seconds"] for name, stage in stages.items()}
    seconds["evaluate"] = time.perf_counter() - started
    figures = write_results(
        folder / "results.json", results, total_seconds=sum(seconds.values()), peak_memory_gib=peak_memory_gib(),
        stages=seconds, text_check=text_check_of(stages),
    )  # fmt: skip
    command = chat_command(recipe)
    data = report_data(recipe, results, figures, stages, command)
    report = write_report(folder / "report.html", data)
    print_scores(data.tasks, data.further, title=recipe.name, remarks=data.remarks)
    print(f"{figures['total_seconds'] / 60:.1f} minutes, peak memory {figures['peak_memory_gib']:.1f} GiB")
    print(f"report: {report}\nnext:   {command}")
    return results


def score(
    opened: Listener | Matcher, rows: Sequence[Row], *, max_new_tokens: int, template: str, **shared: Any
) -> EvaluationResult:
    """Whatever kind of model a checkpoint holds; `shared` are arguments that `evaluate` and `evaluate_towers` have."""
    if isinstance(opened, Matcher):
        return evaluate_towers(opened, rows, template=template, **shared)
    return evaluate(opened, rows, max_new_tokens=max_new_tokens, **shared)


def ask(opened: Listener | Matcher, entry: EvaluationSettings, answers: Path) -> EvaluationResult:
    """One entry of the recipe's `evaluate:`."""
    problems = Problems()
    every = load_rows(entry.path, problems=problems)
    rows = (every if entry.tasks is None else of_tasks(every, entry.tasks, entry.path))[: entry.limit]
    return score(
        opened,
        rows,
        template=entry.template,
        blind=entry.blind,
        batch_size=entry.batch_size,
        max_new_tokens=entry.max_new_tokens,
        out=answers / f"{entry.title}.jsonl",
        progress=sys.stderr.isatty(),
        problems=problems,
    )


def report_data(
    recipe: Recipe,
    results: Mapping[str, EvaluationResult],
    figures: Mapping[str, Any],
    stages: Mapping[str, Any],
    command: str,
) -> ReportData:
    """What the report tells of this run."""
    first = next(iter(results.values()))
    tasks, further = side_by_side(figures)
    return ReportData(
        name=recipe.name,
        tasks=tasks,
        further=further,
        examples=choose_examples(first.examples, 12),
        curves={name: {"loss": s["loss"], "validation": s["validation"]} for name, s in stages.items()},
        stage_seconds=figures["stages"],
        total_seconds=figures["total_seconds"],
        peak_memory_gib=figures["peak_memory_gib"],
        chat_command=command,
        settings=recipe.to_yaml(),
        hardware=hardware(),
        versions={"audiollm": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        learned_from={name: learned_from(stage) for name, stage in stages.items() if stage.get("licences")},
        text_check=text_check_of(stages),
        remarks=[f"{name}: {remark}" for name, result in results.items() for remark in result.remarks],
    )


def text_check_of(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Loss on rows of text before and after each stage that measured it."""
    return {name: stage["text_check"] for name, stage in stages.items() if stage.get("text_check")}


def learned_from(stage: Mapping[str, Any]) -> str:
    """The rows of a stage by source and licence, most first, and how their sound was changed."""
    most = sorted(stage["licences"], key=lambda one: -one[2])
    told = [
        f"{source or 'rows of no source'} ({license or 'licence unknown'}, {n:,} rows)" for license, source, n in most
    ]
    more = f" and {len(told) - MOST_SOURCES} more" if len(told) > MOST_SOURCES else ""
    augmented = f"; augmented: {stage['augmentation']}" if stage.get("augmentation") else ""
    return ", ".join(told[:MOST_SOURCES]) + more + augmented


def side_by_side(figures: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scores of every task, once; and by further test those of the tasks that the first test has too."""
    others = {name: values["tasks"] for name, values in figures.get("evaluations", {}).items()}
    further = {name: tasks for name, tasks in others.items() if tasks.keys() & figures["tasks"].keys()}
    only_there = {task: score for other in others.values() for task, score in other.items()}
    return figures["tasks"] | {task: only_there[task] for task in only_there if task not in figures["tasks"]}, further


def chat_command(recipe: Recipe) -> str:
    """What to type next: a question about a clip of the test, or of the training where there is none."""
    if recipe.model.is_two_towers:
        data = recipe.evaluate[0].path if recipe.evaluate else "ROWS"
        return f"audiollm evaluate {recipe.output} --data {shlex.quote(data)} --blind"
    if recipe.evaluate:
        rows = load_rows(recipe.evaluate[0].path, problems=Problems())
    else:
        source = list(recipe.stages.values())[-1].data.train[0]
        rows = load_rows(source.path, format=source.format, problems=Problems())
    heard = ((clip.audio, row.question) for row in rows for clip in row.clips if is_recording(clip))
    name, asked = next(heard, ("recording.wav", "What do you hear?"))
    path = Path(str(name))
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    question = " ".join(asked.split())
    quoted = f'"{question}"' if not set('"$`\\!') & set(question) else shlex.quote(question)
    return f"audiollm chat {recipe.output} --audio {shlex.quote(str(shown))} {quoted}"


def is_recording(clip: AudioPart) -> bool:
    """Whether a clip is a file that can be heard, as far as its header tells."""
    return isinstance(clip.audio, str) and AudioPart(clip.audio).seconds() > 0


def show_answers(model: Any, processor: Any, rows: Sequence[Row], count: int = 3) -> None:
    """Print the model's answers to some rows, one of each task, beside the right ones."""
    picked = list({row.task: row for row in rows}.values())[:count]
    answers = Listener(model, processor).answer([row.prompt for row in picked], max_new_tokens=64)
    for row, answer in zip(picked, answers, strict=True):
        print(f"  {row.question}  {shortened(answer.text)!r}  (right: {shortened(row.target)!r})")


def shortened(text: str, most: int = 100) -> str:
    """A text that does not fill the screen."""
    return text if len(text) <= most else f"{text[:most]} ..."


def peak_memory_gib() -> float:
    """The most memory that this process or one of its children held, in GiB; on a GPU the most that it allocated."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB here
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return most * unit / 2**30


def hardware() -> str:
    """One line about the machine."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, no GPU"

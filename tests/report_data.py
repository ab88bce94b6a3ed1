"""Made-up figures, curves and clips for the tests of the report."""

import math

import numpy as np

from audiollm.conversation import AudioPart, Message, Row, TextPart
from audiollm.report import Example, ReportData

TASKS = tuple(
    ["transcribe", "describe", "event", "existence", "count", "order", "kind", "gender", "word", "instrument", "tempo"]
)
HOSTILE = (
    "Is <b>this</b> \"quoted\"? <script>document.title = 'taken'</script> "
    "<img src=x onerror=\"document.title='taken'\"> \u202e"
)


def make_row(task: str, number: int = 0, *, question: str = "What do you hear?", seconds: float = 0.4) -> Row:
    time_L = np.arange(int(16000 * seconds)) / 16000
    samples_L = 0.5 * np.sin(2 * np.pi * (300 + 50 * number) * time_L).astype(np.float32)
    parts = (AudioPart((samples_L, 16000)), TextPart(question))
    messages = (Message("user", parts), Message("assistant", (TextPart("a dog"),)))
    return Row(messages, id=f"{task}-{number}", task=task, source_id=f"{task}-{number}")


def make_examples(count: int = 12) -> list[Example]:
    tasks = [TASKS[number % len(TASKS)] for number in range(count)]
    return [
        Example(make_row(task, number), "a dog" if number % 3 else "rain", number % 3 > 0, "a bell", False, task)
        for number, task in enumerate(tasks)
    ]


def make_tasks(score: float = 0.95) -> dict[str, dict]:
    tasks: dict[str, dict] = {}
    for task in TASKS:
        metric = {"transcribe": "wer", "describe": "f1"}.get(task, "exact")
        tasks[task] = {
            "metric": metric,
            "score": score,
            "blind": 0.5,
            "prior": 0.48,
            "n": 400,
            "ci95": [score - 0.03, score + 0.02],
        }
    tasks["transcribe"] |= {"score": 0.15, "ci95": [0.12, 0.18], "blind": 1.2, "prior": 1.05}
    tasks["existence"] |= {"yes_recall": 0.96, "no_recall": 0.912}
    return tasks


def make_report(**changes) -> ReportData:
    loss = [(step, 5 * math.exp(-step / 200) + 0.1) for step in range(1, 1000, 5)]
    settings = {
        "name": "quickstart",
        "tasks": make_tasks(),
        "further": {"phrasings never read": make_tasks(0.81)},
        "examples": make_examples(),
        "curves": {"language": {"loss": loss}, "align": {"loss": loss, "validation": loss[19::40]}},
        "stage_seconds": {"language": 180.0, "align": 95.5},
        "total_seconds": 754.0,
        "peak_memory_gib": 2.94,
        "chat_command": 'audiollm chat runs/quickstart --audio x.wav "What do you hear?"',
        "settings": "name: quickstart\n",
        "hardware": "2 CPU cores",
        "versions": {"audiollm": "0.1.0"},
    }
    return ReportData(**(settings | changes))

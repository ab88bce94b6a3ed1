"""The report of a run: one HTML file that needs nothing else, neither network nor other files.

Not here: words and looks (templates/), curves (plots.py), pictures of sound (spectrogram.py), which examples are shown
(examples.py).
"""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from audiollm import audio
from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, RowError
from audiollm.files import write_whole
from audiollm.report import figures, spectrogram
from audiollm.report.examples import Example
from audiollm.report.plots import Point, drawable, line_chart
from audiollm.report.table import Tasks

TEMPLATES = Path(__file__).with_name("templates")
PLAYER_RATE = 16000
"""Samples a second of the players; enough for what models hear."""
PLAYER_SECONDS = 12.0
"""Longer clips are shown by their beginning, so that twelve examples stay below eight megabytes, whatever they hold."""


@dataclass(frozen=True)
class ReportData:
    """What a report tells; what is empty is left out of the page."""

    name: str
    """The recipe or the model that the report is about."""
    tasks: Tasks
    """Scores of the main test, in the form of results.json: task -> {"metric", "score", "blind", "prior" ...}."""
    further: Mapping[str, Tasks] = field(default_factory=dict)
    """Scores of other tests, shown beside the main one under these names."""
    examples: Sequence[Example] = ()
    curves: Mapping[str, Mapping[str, Sequence[Point]]] = field(default_factory=dict)
    """Stage -> name of a curve ("loss", "validation" ...) -> (step, value)."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    total_seconds: float | None = None
    peak_memory_gib: float | None = None
    chat_command: str = ""
    """What to type next."""
    settings: str = ""
    """The resolved recipe, as YAML."""
    hardware: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    learned_from: Mapping[str, str] = field(default_factory=dict)
    """Stage -> its rows by source and licence, and how their sound was changed."""
    text_check: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """Stage -> name of rows without sound -> nats a token before and after the stage."""
    remarks: Sequence[str] = ()
    """What a reader of the scores should know, such as rows that could not be asked."""
    created: datetime = field(default_factory=lambda: datetime.now().astimezone())


def write_report(path: str | os.PathLike[str], data: ReportData) -> Path:
    """Write the page; a report that is already there is replaced when the new one is complete."""
    return write_page(path, render(data))


def write_page(path: str | os.PathLike[str], page: str) -> Path:
    """Write a page whole or not at all; what is no Unicode in it (lone surrogates of JSON) becomes a question mark."""
    path = Path(path)
    write_whole(path, page.encode(errors="replace"))
    return path


def page_environment() -> Environment:
    """Templates into which all text is put escaped, and with what it hides in sight."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_in_sight,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _in_sight(value: Any) -> Any:
    if isinstance(value, Markup):
        return Markup(figures.visible(value))
    return figures.visible(value) if isinstance(value, str) else value


def render(data: ReportData) -> str:
    """The page as text. All text of rows and answers is escaped, and the page runs no script but its own."""
    environment = page_environment()
    environment.filters |= {"percent": figures.percent, "interval": figures.interval, "duration": figures.duration}
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        data=data,
        tasks=[_task_view(name, task, data.further) for name, task in data.tasks.items()],
        summary=_summary(data.tasks),
        curves={
            stage: {"names": list(drawable(series)), "chart": line_chart(series, title=f"Learning curve of {stage}")}
            for stage, series in data.curves.items()
            if drawable(series)
        },
        examples=[_example_view(example) for example in data.examples],
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


# --- scores -----------------------------------------------------------------------------------------------------------


def _task_view(name: str, task: Mapping[str, Any], further: Mapping[str, Tasks]) -> dict[str, Any]:
    note = figures.metric_note(task["metric"])
    low, high = task["ci95"]
    return {
        **task,
        "name": name,
        "note": note.words,
        "lower_is_better": note.lower_is_better,
        "recalls": {word: task[f"{word}_recall"] for word in ("yes", "no") if task.get(f"{word}_recall") is not None},
        "bar": {
            "score": _place(task["score"]),
            "low": _place(low),
            "width": round(_place(high) - _place(low), 2),
            "blind": None if task["blind"] is None else _place(task["blind"]),
            "prior": _place(task["prior"]),
        },
        "further": [other.get(name) for other in further.values()],
    }


def _place(fraction: float) -> float:
    """Where a score stands on its bar, in percent; a word error rate above 1 stands at the end."""
    return round(100 * min(max(fraction, 0.0), 1.0), 2)


def _summary(tasks: Tasks) -> dict[str, Any] | None:
    """The means over the tasks in which higher is better; None where there is no such task."""
    chosen = [task for task in tasks.values() if not figures.metric_note(task["metric"]).lower_is_better]
    if not chosen:
        return None
    blind = [task["blind"] for task in chosen if task["blind"] is not None]
    return {
        "tasks": len(chosen),
        "score": float(np.mean([task["score"] for task in chosen])),
        "prior": float(np.mean([task["prior"] for task in chosen])),
        "blind": float(np.mean(blind)) if len(blind) == len(chosen) else None,
    }


# --- examples ---------------------------------------------------------------------------------------------------------


def _example_view(example: Example) -> dict[str, Any]:
    return {
        "task": example.task or example.row.task or "",
        "question": example.row.question,
        "target": example.row.target,
        "answer": example.answer,
        "correct": example.correct,
        "blind_answer": example.blind_answer,
        "blind_correct": example.blind_correct,
        "clips": [_clip_view(clip, PLAYER_SECONDS / len(example.row.clips)) for clip in example.row.clips],
    }


def _clip_view(clip: AudioPart, longest_s: float) -> dict[str, Any]:
    """Player and picture of a clip; the reason where it cannot be read."""
    try:
        samples_L = clip.load(PLAYER_RATE)
    except (AudioError, RowError) as error:
        return {"error": str(error)}
    samples_L, shown = beginning(samples_L, longest_s)
    picture = spectrogram.png(spectrogram.log_mel(samples_L, PLAYER_RATE))
    return {
        "error": None,
        "seconds": shown,
        "audio": data_uri("audio/flac", audio.encode(samples_L, PLAYER_RATE, "FLAC")),
        "picture": data_uri("image/png", picture),
    }


def beginning(samples_L: np.ndarray, longest_s: float) -> tuple[np.ndarray, str]:
    """What a player gets of a clip at PLAYER_RATE, and how long it and the clip are in words."""
    seconds = len(samples_L) / PLAYER_RATE
    shown = f"{seconds:.1f} s" if seconds <= longest_s else f"first {longest_s:.0f} s of {seconds:.0f} s"
    return samples_L[: max(int(longest_s * PLAYER_RATE), 1)], shown


def data_uri(kind: str, content: bytes) -> str:
    """Content within a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

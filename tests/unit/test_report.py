"""The report: all that it should show is there, what users typed stays text, and the pictures are pictures."""

import base64
import io
import math
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from report_data import HOSTILE, TASKS, make_examples, make_report, make_row, make_tasks
from rich.console import Console

from audiollm.conversation import AudioPart, Message, Row, TextPart
from audiollm.report import Example, choose_examples, print_scores, write_report
from audiollm.report.figures import duration, interval, percent
from audiollm.report.html import render
from audiollm.report.plots import line_chart, linear_ticks, log_ticks, smoothed
from audiollm.report.spectrogram import RANGE_DB, log_mel, png

VOID = {"meta", "img", "br", "link", "input"}
SVG_LEAVES = {"line", "polyline", "circle"}


class Page(HTMLParser):
    """Elements and text of a page; fails where a tag is closed that is not the innermost open one."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(make_report()))


def test_every_tag_is_closed_where_it_should_be(page):
    assert page.open == []


def test_the_table_has_a_row_for_each_task_with_its_figures(page):
    assert [attributes["data-task"] for attributes in page.all("tr") if "data-task" in attributes] == list(TASKS)
    for figure in ("95.0%", "92.0–97.0%", "50.0%", "48.0%", "81.0%", "n = 400", "“no” right 91.2%", "120.0%"):
        assert figure in page.words
    assert "word errors, lower is better" in page.words


def test_the_bars_are_as_long_as_their_figures_say_and_never_longer_than_the_track():
    html = render(make_report())
    assert 'class="fill" style="width: 95.0%"' in html
    assert 'class="blind" style="left: 100.0%"' in html  # a word error rate of 1.2


def test_there_are_twelve_players_that_hold_the_clip(page):
    players = [attributes["src"] for attributes in page.all("audio")]
    assert len(players) == len(set(players)) == 12
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(players[0].removeprefix("data:audio/flac;base64,"))))
    assert (rate, len(samples)) == (16000, 6400)
    assert samples == pytest.approx(make_row("any", 0).clips[0].load(16000), abs=1e-4)


def test_it_says_what_to_type_how_long_it_took_and_with_what(page):
    for words in (
        'audiollm chat runs/quickstart --audio x.wav "What',
        "12 min 34 s",
        "2.9 GiB",
        "2 CPU cores",
        "3 min 0 s",
    ):
        assert words in page.words


def test_there_is_a_curve_for_each_stage(page):
    charts = [attributes["aria-label"] for attributes in page.all("svg")]
    assert charts == ["Learning curve of language", "Learning curve of align"]


def test_a_curve_without_points_is_not_named():
    curves = {"align": {"loss": [(0, 2.0), (1, 1.0)], "validation": []}, "language": {"loss": []}}
    page = Page(render(make_report(curves=curves, stage_seconds={}, settings="")))
    assert [a["aria-label"] for a in page.all("svg")] == ["Learning curve of align"]
    assert "validation" not in page.words


def test_nothing_is_fetched_from_elsewhere(page):
    for _, attributes in page.elements:
        assert "href" not in attributes
        assert attributes.get("src", "data:").startswith("data:")
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize(
    "place", ["question", "answer", "task", "name", "stage", "settings", "command", "test", "remark"]
)
def test_what_users_wrote_stays_text(place):
    example = make_examples(1)[0]
    if place == "question":
        example = Example(make_row("event", question=HOSTILE), "rain", True)
    if place == "answer":
        example = Example(example.row, HOSTILE, False, HOSTILE, False)
    changes = {
        "task": {"tasks": {HOSTILE: make_tasks()["event"]}},
        "name": {"name": HOSTILE},
        "stage": {"curves": {HOSTILE: {HOSTILE: [(0, 1), (1, 2)]}}, "stage_seconds": {HOSTILE: 1.0}},
        "settings": {"settings": HOSTILE},
        "command": {"chat_command": HOSTILE},
        "test": {"further": {HOSTILE: make_tasks()}},
        "remark": {"remarks": [HOSTILE]},
    }.get(place, {})
    hostile = Page(render(make_report(**({"examples": [example]} | changes))))
    assert " ".join(HOSTILE.split()).replace("\u202e", r"\u202e") in hostile.words
    assert "\u202e" not in hostile.words and r"\u202e" in hostile.words
    assert len(hostile.all("script")) == 1
    assert not [
        attributes for _, attributes in hostile.elements if "onerror" in attributes or attributes.get("src") == "x"
    ]


def test_what_was_forgotten_stands_stage_by_stage():
    shown = Page(render(make_report(text_check={"align": {"<b>": [1.25, 1.5]}, "instruct": {"<b>": [1.5, 2.0]}})))
    assert all(words in shown.words for words in ("What it forgot", "1.250", "1.500", "2.000", "<b>"))
    assert "What it forgot" not in Page(render(make_report())).words


def test_what_is_absent_leaves_no_empty_place():
    bare = make_report(
        examples=(),
        curves={},
        stage_seconds={},
        further={},
        chat_command="",
        settings="",
        versions={},
        total_seconds=None,
    )
    tasks = {name: task | {"blind": None} for name, task in make_tasks().items()}
    page = Page(render(bare))
    assert not page.all("audio") and not page.all("svg") and not page.all("pre")
    without_blind = Page(render(make_report(tasks=tasks, examples=())))
    assert "None" not in without_blind.words and "nan" not in without_blind.words


def test_a_clip_that_cannot_be_read_is_named_where_it_would_stand(tmp_path):
    parts = (AudioPart(str(tmp_path / "gone.wav")), TextPart("What is it?"))
    row = Row((Message("user", parts), Message("assistant", (TextPart("rain"),))), task="event")
    page = Page(render(make_report(examples=[Example(row, "gone.wav: missing", False)])))
    assert "gone.wav" in page.words and not page.all("audio")


def test_a_long_clip_is_shown_by_its_beginning(tmp_path):
    long = Example(make_row("event", seconds=40), "a dog", True)
    path = write_report(tmp_path / "report.html", make_report(examples=[long] * 12))
    assert "first 12 s of 40 s" in path.read_text()
    assert path.stat().st_size < 8_000_000


def test_twelve_noisy_pairs_of_clips_stay_below_eight_megabytes(tmp_path):
    noise = np.random.default_rng(0).uniform(-1, 1, 16 * 16000).astype(np.float32)
    clips = (AudioPart((noise, 16000)), AudioPart((noise[::-1].copy(), 16000)))
    messages = (Message("user", (*clips, TextPart("?"))), Message("assistant", (TextPart("x"),)))
    path = write_report(tmp_path / "report.html", make_report(examples=[Example(Row(messages), "x", True)] * 12))
    assert path.stat().st_size < 8_000_000


def test_a_report_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "run" / "report.html"
    write_report(path, make_report(name="first"))
    write_report(path, make_report(name="second"))
    assert "<h1>second</h1>" in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


# --- examples ---------------------------------------------------------------------------------------------------------


def answers(correct=lambda number: True, tasks=TASKS, each=20):
    places = [(task, number) for task in tasks for number in range(each)]
    return [Example(make_row(*place, seconds=0.01), "?", correct(place[1]), task=place[0]) for place in places]


def test_there_is_an_example_of_each_task():
    chosen = choose_examples(answers())
    assert len(chosen) == 12 and {example.task for example in chosen} == set(TASKS)


def test_a_failure_is_shown_where_there_is_one():
    chosen = choose_examples(answers(lambda number: number != 7, tasks=TASKS[:1], each=100), 4)
    assert sum(not example.correct for example in chosen) == 1


def test_a_failure_has_a_place_also_where_there_are_more_tasks_than_places():
    crowded = answers(tasks=[f"t{n}" for n in range(30)]) + answers(lambda number: False, tasks=["hard"])
    chosen = choose_examples(crowded, 12)
    assert len(chosen) == 12 and chosen[-1].task == "hard"


def test_failures_are_not_piled_up():
    chosen = choose_examples(answers(lambda number: number > 0))
    assert 1 <= sum(not example.correct for example in chosen) <= 3


def test_no_example_stands_twice_and_recordings_differ_where_they_can():
    shared = [Example(make_row("event", number // 5, seconds=0.01), "?", True, task="event") for number in range(40)]
    chosen = choose_examples(shared, 8)
    assert len({example.row.source_id for example in chosen}) == 8
    assert len({id(example) for example in choose_examples(shared, 40)}) == 40


def test_few_answers_are_all_shown():
    few = answers(tasks=("event",), each=3)
    assert sorted(map(id, choose_examples(few))) == sorted(map(id, few))
    assert choose_examples([]) == []


def test_the_choice_is_the_same_every_time():
    many = answers()
    assert choose_examples(many) == choose_examples(many)


# --- pictures ---------------------------------------------------------------------------------------------------------


def tone(hertz, seconds=1.0, rate=16000):
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def test_a_higher_tone_stands_higher_in_the_picture():
    bands = [int(log_mel(tone(hertz), 16000).mean(axis=1).argmax()) for hertz in (200, 800, 3000, 7000)]
    assert bands == sorted(set(bands))


def test_time_runs_to_the_right():
    picture = log_mel(np.concatenate([np.zeros(16000, np.float32), tone(500)]), 16000)
    half = picture.shape[1] // 2
    assert picture[:, : half - 5].max() == -RANGE_DB and picture[:, half + 5 :].max() > -1


@pytest.mark.parametrize("seconds", [0, 0.001, 0.4, 15])
def test_a_clip_of_any_length_has_a_picture_of_bounded_width(seconds):
    picture = log_mel(tone(440, seconds), 16000)
    assert picture.shape[0] == 80 and 1 <= picture.shape[1] <= 480
    assert np.isfinite(picture).all() and picture.min() >= -RANGE_DB and picture.max() <= 0


def test_silence_is_dark_and_a_quiet_sound_is_not():
    assert (log_mel(np.zeros(16000, np.float32), 16000) == -RANGE_DB).all()
    assert log_mel(0.001 * tone(440), 16000).max() == 0


def test_the_png_holds_the_picture_upside_up():
    decibels = np.full((3, 5), -RANGE_DB)
    decibels[0] = 0.0  # the lowest band is loud
    picture = png(decibels)
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and picture[16:24] == (5).to_bytes(4, "big") + (3).to_bytes(4, "big")
    data = picture[picture.index(b"IDAT") + 4 :]
    assert zlib.decompressobj().decompress(data) == bytes([0] * 12 + [0] + [255] * 5)


# --- curves -----------------------------------------------------------------------------------------------------------


def points_of(chart):
    return [
        [tuple(map(float, point.split(","))) for point in line.split()]
        for line in re.findall(r'points="([^"]*)"', str(chart))
    ]


def test_a_falling_loss_falls_on_the_page_inside_the_frame():
    [line] = points_of(line_chart({"loss": [(0, 4.0), (10, 2.0), (20, 1.0)]}, title="x"))
    xs, ys = zip(*line, strict=True)
    assert list(xs) == sorted(xs) and list(ys) == sorted(ys)
    assert all(44 <= x <= 448 for x in xs) and all(12 <= y <= 220 for y in ys)


def test_a_loss_that_falls_far_is_drawn_on_a_logarithmic_scale():
    [line] = points_of(line_chart({"loss": [(0, 100.0), (1, 10.0), (2, 1.0)]}, title="x"))
    ys = [y for _, y in line]
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.2)


def test_values_that_are_no_numbers_are_left_out():
    chart = line_chart({"loss": [(0, 1.0), (1, math.nan), (2, math.inf), (3, 0.5)], "empty": []}, title="x")
    assert [len(line) for line in points_of(chart)] == [2]
    assert line_chart({"loss": [(0, math.nan)]}, title="x") == ""


@pytest.mark.parametrize("values", [[2.0], [1.0, 1.0], [0.0, 0.0], [-1.0, 1e-9], [1e9, 1.0]])
def test_odd_curves_are_drawn_too(values):
    chart = str(line_chart({"loss": list(enumerate(values))}, title="x"))
    assert "nan" not in chart and "inf" not in chart and "polyline" in chart


def test_a_long_curve_keeps_its_end_and_stays_small():
    chart = line_chart({"loss": [(step, 1.0 + 1 / (1 + step)) for step in range(100_001)]}, title="x")
    assert len(chart) < 30_000
    assert points_of(chart)[0][-1][0] == pytest.approx(448, abs=0.1)


def test_ticks_are_round_numbers_inside_the_range():
    assert linear_ticks(0, 4.3) == [0, 1, 2, 3, 4]
    assert linear_ticks(0, 0.07) == [0, 0.02, 0.04, 0.06]
    assert log_ticks(0.3, 18) == [0.2, 0.5, 1, 2, 5, 10, 20]
    assert log_ticks(1e-4, 90) == [1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100]


def test_smoothing_keeps_the_mean_of_a_noisy_line():
    noisy = [(step, 1.0 + (-1) ** step) for step in range(200)]
    assert all(abs(y - 1) < 0.3 for _, y in smoothed(noisy)[5:-5])


# --- words ------------------------------------------------------------------------------------------------------------


def test_figures_read_as_people_write_them():
    assert (percent(0.9731), percent(1.0), percent(None)) == ("97.3%", "100.0%", "–")
    assert interval((0.951, 0.982)) == "95.1–98.2%"
    assert [duration(s) for s in (0.25, 8.4, 59.7, 754, 3599.8, 7322)] == [
        "0.2 s", "8 s", "1 min 0 s", "12 min 34 s", "1 h 0 min", "2 h 2 min"
    ]  # fmt: skip


def test_the_terminal_table_fits_into_80_columns_and_says_what_is_better():
    console = Console(width=80, record=True, file=io.StringIO())
    print_scores(
        make_tasks(),
        {"phrasings never read": make_tasks(0.8)},
        title="[quickstart]",
        remarks=["[x] 3 failed"],
        console=console,
    )
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for words in (
        "transcribe ↓",
        "word errors, lower is better",
        "92.0–97.0%",
        "120.0%",
        "[quickstart]",
        "[x] 3 failed",
        "no: 91.2%",
    ):
        assert words in text
    assert all(task in text for task in TASKS)

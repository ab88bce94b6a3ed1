"""Evaluation: every row is asked, every answer is kept, nothing leaves the denominator."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from audiollm.conversation import AudioPart, Message, Row, RowError, TextPart
from audiollm.data.sources import Problems
from audiollm.evaluation import EvaluationResult, evaluate, retrieval, write_results
from audiollm.evaluation.metrics import LOWER_IS_BETTER
from audiollm.evaluation.tasks import METRICS, TASK_METRICS
from audiollm.report import figures


@dataclass(frozen=True)
class Answer:
    text: str
    num_new_tokens: int = 1
    truncated: bool = False
    error: str | None = None


@dataclass
class FakeListener:
    """Answers by the question and whether there is sound; remembers what it was asked."""

    heard: dict[str, str | Answer] = field(default_factory=dict)
    guess: str = "dog"
    asked: list = field(default_factory=list)
    settings: list = field(default_factory=list)

    def answer(self, prompts, *, batch_size=16, **generation):
        self.settings.append({"batch_size": batch_size, **generation})
        for prompt in prompts:
            self.asked.append(prompt)
            has_audio = any(message.clips for message in prompt)
            answer = self.heard.get(prompt[-1].text, self.guess) if has_audio else self.guess
            yield answer if isinstance(answer, Answer) else Answer(answer)


def make_row(question, target, task="event", *, seconds=1.0, recording=None, **fields):
    clip = AudioPart((np.zeros(int(1000 * seconds), np.float32), 1000))
    messages = (Message("user", (clip, TextPart(question))), Message("assistant", (TextPart(target),)))
    return Row(messages, id=question, task=task, source_id=recording or question, **fields)


def run(listener, rows, **settings) -> EvaluationResult:
    return evaluate(listener, rows, progress=False, **settings)


def test_results_come_in_the_order_of_the_rows_though_alike_ones_are_asked_together():
    rows = [make_row(f"q{n}", "dog", "event" if n % 2 else "kind", seconds=1 + n) for n in range(6)]
    listener = FakeListener({f"q{n}": f"answer {n}" for n in range(6)})
    result = run(listener, rows)
    assert [answer.prediction for answer in result.answers] == [f"answer {n}" for n in range(6)]
    assert [prompt[-1].text for prompt in listener.asked] == ["q5", "q3", "q1", "q4", "q2", "q0"]


def test_settings_reach_the_listener():
    listener = FakeListener()
    run(listener, [make_row("q", "dog")], batch_size=3, max_new_tokens=7)
    assert listener.settings == [{"batch_size": 3, "max_new_tokens": 7}]


def test_the_model_sees_the_question_and_never_the_answer():
    listener = FakeListener()
    run(listener, [make_row("q", "the secret")], blind=True)
    assert all("secret" not in message.text for prompt in listener.asked for message in prompt)


def test_the_blind_pass_asks_the_same_without_sound():
    rows = [make_row(f"q{n}", "rain" if n else "dog") for n in range(4)]
    listener = FakeListener({f"q{n}": "rain" for n in range(1, 4)})
    task = run(listener, rows, blind=True).tasks["event"]
    assert (task.score, task.blind, task.prior) == (1.0, 0.25, 0.75)
    assert [bool(prompt[-1].clips) for prompt in listener.asked] == [True] * 4 + [False] * 4


def test_without_the_blind_pass_its_score_is_absent_and_not_zero():
    assert run(FakeListener(), [make_row("q", "dog")]).tasks["event"].blind is None


def test_a_broken_clip_is_named_and_counts_as_wrong():
    rows = [make_row("q0", "dog"), make_row("q1", "dog")]
    listener = FakeListener({"q1": Answer("", error="b.wav: not an audio file")})
    result = run(listener, rows)
    task = result.tasks["event"]
    assert (task.score, task.n, task.errors) == (0.5, 2, 1)
    assert "b.wav: not an audio file" in result.remarks[0]


def test_a_broken_clip_is_all_deletions_in_a_transcript():
    listener = FakeListener({"q1": Answer("", error="broken")}, guess="one two three")
    rows = [make_row(f"q{n}", "one two three", "transcribe", language="en") for n in range(2)]
    assert run(listener, rows).tasks["transcribe"].score == 0.5


def test_a_file_that_does_not_exist_does_not_stop_the_evaluation(tmp_path):
    messages = (
        Message("user", (AudioPart(str(tmp_path / "missing.wav")), TextPart("q"))),
        Message("assistant", (TextPart("dog"),)),
    )
    listener = FakeListener({"q": Answer("", error="missing.wav: no such file")})
    assert run(listener, [Row(messages, task="event")]).tasks["event"].errors == 1


def test_answers_are_written_as_they_come(tmp_path):
    path = tmp_path / "deep" / "answers.jsonl"
    seen = []

    class Watching(FakeListener):
        def answer(self, prompts, **settings):
            for answer in super().answer(prompts, **settings):
                seen.append(len(path.read_text().splitlines()))
                yield answer

    run(Watching({"q0": "<think>hm</think> The Dog."}, guess="cat"), [make_row("q0", "dog")], blind=True, out=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert seen == [0, 1]
    assert lines[0] == {
        "id": "q0",
        "task": "event",
        "question": "q0",
        "target": "dog",
        "prediction": "<think>hm</think> The Dog.",
        "normalised": "dog",
        "correct": True,
        "score": 1.0,
        "blind": False,
        "truncated": False,
        "error": None,
    }
    assert (lines[1]["blind"], lines[1]["prediction"], lines[1]["correct"]) == (True, "cat", False)


def test_yes_no_tasks_show_both_classes_and_what_could_not_be_read():
    rows = [make_row(f"q{n}", "yes" if n < 2 else "no", "existence") for n in range(4)]
    listener = FakeListener({"q0": "Yes.", "q1": "no", "q2": "No, nothing.", "q3": "perhaps"})
    result = run(listener, rows)
    task = result.tasks["existence"]
    assert (task.score, task.yes_recall, task.no_recall, task.unparsed) == (0.5, 0.5, 0.5, 0.25)
    assert {"yes_recall", "no_recall"} <= set(result.to_json()["tasks"]["existence"])
    assert "25.0%" in result.remarks[0]


def test_always_saying_yes_shows_in_the_recalls():
    rows = [make_row(f"q{n}", "Yes." if n < 9 else "No.", "word") for n in range(10)]
    task = run(FakeListener(guess="yes"), rows).tasks["word"]
    assert (task.score, task.prior, task.yes_recall, task.no_recall) == (0.9, 0.9, 1.0, 0.0)


def test_a_choice_is_scored_by_the_one_option_that_is_named():
    rows = [make_row(f"q{n}", "rain", "quiz", choices=("dog", "rain")) for n in range(3)]
    listener = FakeListener({"q0": "I hear rain.", "q1": "dog or rain", "q2": "a dog"})
    task = run(listener, rows).tasks["quiz"]
    assert (task.score, task.unparsed) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_the_right_option_is_the_answer_field_where_there_is_one():
    row = make_row("q", "It sounds like rain on a roof.", "quiz", choices=("dog", "rain"), answer="rain")
    assert run(FakeListener({"q": "rain"}), [row]).tasks["quiz"].score == 1


def test_further_references_are_right_too():
    row = make_row("q", "an automobile", references=("a car",))
    assert run(FakeListener({"q": "car"}), [row]).tasks["event"].score == 1


def test_the_commonest_answer_is_found_by_its_meaning_and_scored_by_the_metric_of_the_task():
    targets = ["A dog, then rain.", "a dog, then rain", "rain", "a bell"]
    rows = [make_row(f"q{n}", target, "describe") for n, target in enumerate(targets)]
    assert run(FakeListener(), rows).tasks["describe"].prior == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)


def test_without_listening_word_errors_may_exceed_one():
    rows = [make_row(f"q{n}", "stop" if n < 2 else "go", "transcribe") for n in range(3)]
    task = run(FakeListener(guess="turn it off now"), rows, blind=True).tasks["transcribe"]
    assert task.blind == 4.0 and task.prior == pytest.approx(1 / 3)


def test_the_interval_is_wider_when_the_questions_share_recordings():
    def width(recording):
        rows = [make_row(f"q{n}", "dog", recording=recording(n)) for n in range(200)]
        low, high = run(FakeListener({f"q{n}": "cat" for n in range(0, 200, 20)}), rows).tasks["event"].ci95
        return high - low

    listened = width(lambda n: f"r{n % 20}")  # all ten wrong answers are about one recording
    assert listened > 2 * width(str)


def test_the_metric_of_a_task_can_be_chosen():
    rows = [make_row("q", "rain and wind", "event")]
    listener = FakeListener({"q": "wind, rain"})
    assert run(listener, rows).tasks["event"].score == 0
    assert run(listener, rows, metrics={"event": "f1"}).tasks["event"].score == 1


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"task 'event'.*'blue'; known: exact, f1, wer"):
        run(FakeListener(), [make_row("q", "dog")], metrics={"event": "blue"})


def test_no_rows_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"no rows.*limit"):
        run(FakeListener(), [])


def test_a_listener_that_loses_answers_is_noticed():
    class Losing(FakeListener):
        def answer(self, prompts, **settings):
            return iter(list(super().answer(prompts, **settings))[:-1])

    with pytest.raises(ValueError):
        run(Losing(), [make_row("q0", "dog"), make_row("q1", "dog")])


def test_cut_answers_are_counted():
    result = run(FakeListener({"q": Answer("dog dog dog", truncated=True)}), [make_row("q", "dog")])
    assert result.tasks["event"].truncated == 1
    assert "max_new_tokens" in result.remarks[0]


def test_the_json_holds_these_figures_and_no_others():
    result = run(FakeListener(), [make_row("q", "dog")], blind=True)
    [figures_of_task] = result.to_json()["tasks"].values()
    assert list(figures_of_task) == ["metric", "score", "blind", "prior", "n", "ci95"]
    assert result.to_json().keys() == {"tasks"}


def test_rows_that_were_left_out_are_told_with_the_scores():
    problems = Problems()
    problems.add(RowError("rows.csv:7", "question", "is empty"))
    result = run(FakeListener(), [make_row("q", "dog")], problems=problems)
    assert result.to_json()["remarks"][0] == "rows left out: 1 problem:\n  rows.csv:7: question: is empty"
    with pytest.raises(ValueError, match=r"no row could be used; 1 problem:\n  rows.csv:7"):
        run(FakeListener(), [], problems=problems)


def test_results_are_written_with_the_first_evaluation_in_front(tmp_path):
    first, second = (run(FakeListener(), [make_row("q", target)]) for target in ("dog", "cat"))
    path = tmp_path / "run" / "results.json"
    write_results(
        path, {"test": first, "other": second}, total_seconds=12.34, peak_memory_gib=1.5, stages={"align": 3.21}
    )
    figures = json.loads(path.read_text())
    assert list(figures) == ["total_seconds", "peak_memory_gib", "stages", "tasks", "evaluations"]
    assert (figures["tasks"]["event"]["score"], figures["evaluations"]["other"]["tasks"]["event"]["score"]) == (1, 0)
    assert (figures["total_seconds"], figures["stages"]) == (12.3, {"align": 3.2})
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_examples_hold_both_answers():
    [example] = run(FakeListener({"q": "rain"}, guess="dog"), [make_row("q", "rain")], blind=True).examples
    assert (example.answer, example.correct, example.blind_answer, example.blind_correct) == (
        "rain",
        True,
        "dog",
        False,
    )


def test_every_metric_has_its_words_in_the_report():
    assert set(figures.METRICS) == {*METRICS, *retrieval.METRICS} and set(TASK_METRICS.values()) <= set(METRICS)
    assert {name for name, note in figures.METRICS.items() if note.lower_is_better} == LOWER_IS_BETTER

"""Rows as a model gets them on the page of `inspect`: what is marked there is what training learns, to the token."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

from audiollm.cli import app
from audiollm.conversation import Row, parse_row
from audiollm.curation.inspecting import inspect_rows
from audiollm.curation.reading import read_rows, reader_of
from audiollm.data.dataset import Recordings
from audiollm.models.prompts import load_prompts
from audiollm.report import inspection
from audiollm.report.inspection import Reading, render_inspection

THINKING = (
    "{%- for message in messages -%}{%- set said = message.content.split('</think>')[-1] if not loop.last"
    " else message.content -%}{{ '<|' + message.role + '|>' + said }}{{ '<|end|>' if message.role == 'assistant' }}"
    "{%- endfor -%}{{ '<|assistant|>' if add_generation_prompt }}"
)
"""Takes thoughts out of earlier answers, so that each answer is learned in a sequence of its own."""
HOSTILE = "<script>document.title = 'taken'</script> & <|end|> <|audio|> </code></pre>"


class Rendered(HTMLParser):
    """The rendered texts of a page, and of each what is marked and what is framed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.marked: list[str] = []
        self.framed: list[list[str]] = []
        self.inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        kind = dict(attrs).get("class") or tag
        if kind == "rendered":
            self.inside = [tag]
            self.texts.append("")
            self.marked.append("")
            self.framed.append([])
        elif self.inside:
            self.inside.append(kind)
            if kind in ("control", "sound"):
                self.framed[-1].append("")

    def handle_endtag(self, tag):
        if self.inside:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            return
        self.texts[-1] += data
        if "mark" in self.inside:
            self.marked[-1] += data
        if {"control", "sound"} & set(self.inside):
            self.framed[-1][-1] += data


def said(role: str, text: str, clips: int = 0, **about) -> dict:
    heard = [{"type": "audio", "audio": f"{number}.wav"} for number in range(clips)]
    return {"role": role, "content": [*heard, {"type": "text", "text": text}], **about}


CONVERSATIONS = {
    "one": [said("user", "What do you hear?", 1), said("assistant", "a dog — 犬\nbarks")],
    "hostile": [said("user", HOSTILE, 2), said("assistant", HOSTILE)],
    "system": [said("system", "Listen."), said("user", "What?", 1), said("assistant", " two bells ")],
    "turns": [
        said("user", "one?", 1),
        said("assistant", "<think>a dog?</think>one"),
        said("user", "two?", 1),
        said("assistant", "not learned", loss=False),
        said("user", "three?"),
        said("assistant", "three"),
    ],
    "nothing": [said("user", "What?", 1), said("assistant", "not learned", loss=False)],
    "text": [said("user", "What?"), said("assistant", "a bell")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two recordings, a checkpoint's processor, a tokenizer alone, and a run whose stage has a rewriting template."""
    folder = tmp_path_factory.mktemp("reading")
    tiny.write_tones(folder, 2)
    built = tiny.tiny()
    save(built, folder / "checkpoint")
    built.processor.chat_template = THINKING
    save(built, folder / "run" / "align")
    (folder / "run" / "run.json").write_text(json.dumps({"stages": {"align": {}}}))
    tiny.tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def save(built, folder: Path) -> None:
    built.processor.save_pretrained(folder)
    built.model.config.save_pretrained(folder)


def rows_of(folder: Path, *names: str) -> list[Row]:
    return [parse_row({"id": name, "messages": CONVERSATIONS[name]}, folder=folder) for name in names or CONVERSATIONS]


def page_of(rows: list[Row], tokenizer: Path | None, supervise: str | None = None) -> str:
    found, _ = inspect_rows([{"messages": [{"role": "assistant", "content": "a"}]}])
    reader = reader_of(None if tokenizer is None else str(tokenizer), supervise)
    found, readings = read_rows(found, rows, reader)
    return render_inspection(found, rows, readings)


def taught(rows: list[Row], processor, supervise: str) -> list[list[int]]:
    """The supervised tokens of each sequence that training makes of the rows."""
    recordings = Recordings(rows, processor, supervise=supervise)
    sequences = []
    for row in rows:
        lengths = [len(clip.load(processor.sampling_rate)) for clip in row.clips]
        for one in recordings.render(row, lengths):
            sequences.append([token for token, yes in zip(one.input_ids, one.supervised, strict=True) if yes])
    return sequences


@pytest.mark.parametrize("supervise", ["last", "all"])
@pytest.mark.parametrize("name", ["checkpoint", "run", "tokenizer"])
def test_what_is_marked_is_what_training_learns(folder, name, supervise):
    rows = rows_of(folder)
    processor = load_prompts(str(folder / name))
    expected = [processor.tokenizer.decode(ids) for ids in taught(rows, processor, supervise)]
    assert Rendered(page_of(rows, folder / name, supervise)).marked == expected
    assert len(expected) == {"last": 5, "all": 6 if name == "run" else 5}[supervise]
    assert not any("not learned" in text for text in expected)
    assert any("one" in text for text in expected) == (supervise == "all")


def test_the_text_is_all_that_the_model_gets_with_its_sound_counted(folder):
    rows = rows_of(folder, "one", "hostile", "turns")
    processor = load_prompts(str(folder / "checkpoint"))
    for row, text in zip(rows, Rendered(page_of(rows, folder / "checkpoint")).texts, strict=True):
        samples = [len(clip.load(processor.sampling_rate)) for clip in row.clips]
        whole = processor.tokenizer.decode(processor.render(row.messages, samples)[0].input_ids)
        typed = text.count("<|audio|>") - len(samples)
        assert typed == 2 * (row.id == "hostile")
        for number in samples:
            count = processor.num_audio_tokens(number)
            text = text.replace(f"<|audio|> × {count}", "<|audio|>" * count, 1)
        assert text == whole


def test_what_looks_like_a_control_token_and_was_typed_is_not_framed(folder):
    [framed] = Rendered(page_of(rows_of(folder, "hostile"), folder / "tokenizer")).framed
    assert framed == ["<|user|>", "<|audio|>", "<|audio|>", "<|assistant|>", "<|end|>"]


def test_text_of_rows_is_escaped_where_it_is_rendered(folder):
    page = page_of(rows_of(folder), folder / "checkpoint")
    assert "<script>document" not in page
    assert page.count("<script") == 1
    assert page.count("</pre>") == page.count('<pre class="rendered">') == 5


def test_a_row_that_cannot_be_rendered_is_told_and_the_others_are_shown(folder):
    rows = [*rows_of(folder, "one"), parse_row({"id": "broken", "messages": CONVERSATIONS["one"]}, folder="/gone")]
    found, _ = inspect_rows([{"messages": [{"role": "assistant", "content": "a"}]}])
    found, readings = read_rows(found, rows, reader_of(str(folder / "checkpoint")))
    page = render_inspection(found, rows, readings)
    assert len(Rendered(page).texts) == 1
    assert "Cannot be rendered: /gone/0.wav" in page
    [note] = found.notes
    assert note.startswith("1 of 2 rows drawn cannot be rendered") and "the first, broken: /gone/0.wav" in note


def test_a_tokenizer_without_a_chat_template_counts_and_says_why_nothing_is_rendered(folder, tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    page = page_of(rows_of(folder), tmp_path)
    assert page.count("has no chat template") == len(CONVERSATIONS) + 1  # the cards, and the note


def test_a_row_of_which_nothing_is_learned_is_told(folder):
    assert "nothing of it is learned" in page_of(rows_of(folder, "nothing"), folder / "checkpoint")


def test_without_a_tokenizer_a_line_says_how_to_see_the_rendered_text(folder):
    without, with_one = page_of(rows_of(folder), None), page_of(rows_of(folder), folder / "checkpoint")
    assert without.count("audiollm inspect ROWS --tokenizer CHECKPOINT") == 1
    assert not Rendered(without).texts
    assert "--tokenizer CHECKPOINT" not in with_one


def test_how_many_tokens_sound_takes_is_not_made_up_for_a_tokenizer_alone(folder):
    page = page_of(rows_of(folder, "one"), folder / "tokenizer")
    assert "this is a tokenizer alone" in page
    assert not any("×" in text for text in Rendered(page).texts)
    assert "this is a tokenizer alone" not in page_of(rows_of(folder, "one"), folder / "checkpoint")


def test_a_long_text_is_shown_by_its_beginning_and_the_rest_is_counted(folder, monkeypatch):
    monkeypatch.setattr(inspection, "RENDERED_CHARACTERS", 20)
    rows = rows_of(folder, "text")
    processor = load_prompts(str(folder / "tokenizer"))
    whole = processor.tokenizer.decode(processor.render(rows[0].messages, [])[0].input_ids)
    page = page_of(rows, folder / "tokenizer")
    assert Rendered(page).texts == [whole[:20]]
    assert f"… {len(whole) - 20} characters more" in page


def test_readings_are_of_the_rows_shown(folder):
    found, _ = inspect_rows([{"messages": [{"role": "assistant", "content": "a"}]}])
    readings = inspection.Readings("tiny", "last", True, (Reading(),))
    with pytest.raises(ValueError, match="zip"):
        render_inspection(found, rows_of(folder), readings)


def test_the_command_renders_the_rows_and_refuses_what_it_does_not_know(folder, tmp_path):
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": name, "messages": said}) + "\n" for name, said in CONVERSATIONS.items()))
    out = ["--out", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, ["inspect", str(rows), "--tokenizer", str(folder / "run"), *out])
    assert done.exit_code == 0, done.output
    assert len(Rendered((tmp_path / "page.html").read_text()).texts) == 5
    for wrong, told in (
        (["--supervise", "all"], "--tokenizer"),
        (["--supervise", "some", "--tokenizer", str(folder / "run")], "last or all"),
        (["--tokenizer", str(tmp_path)], "has no tokenizer"),
    ):
        done = CliRunner().invoke(app, ["inspect", str(rows), *wrong, *out])
        assert done.exit_code == 2 and told in " ".join(done.output.split()), done.output

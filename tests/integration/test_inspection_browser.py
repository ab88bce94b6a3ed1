"""The page about rows in a real browser: Chromium opens the file from the disk, draws it and plays its sound."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_report_browser import chromium

from audiollm import audio
from audiollm.curation.inspecting import inspect_rows
from audiollm.curation.reading import read_rows, reader_of
from audiollm.report.inspection import write_inspection

pytestmark = pytest.mark.browser

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
RATE = 16_000


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Forty rows about ten tones and a recording that is not there, in the chat template of a tokenizer."""
    folder = tmp_path_factory.mktemp("inspection")
    for number in range(10):
        time = np.arange(RATE // 2) / RATE
        audio.write(folder / f"{number}.flac", 0.3 * np.sin(2 * np.pi * (200 + 90 * number) * time), RATE)
    rows = []
    for number in range(40):
        clip = {"type": "audio", "audio": str(folder / f"{number % 11}.flac")}
        question = {"type": "text", "text": f"Question {number}"}
        turns = [
            {"role": "user", "content": [clip, question]},
            {"role": "assistant", "content": f"{HOSTILE} {number} {'long' * 50}"},
        ]
        rows.append({"id": f"row-{number}", "task": f"task-{number % 3}", "source": "tones " * 20, "messages": turns})
    tiny.tokenizer().save_pretrained(folder)
    found, examples = inspect_rows(rows)
    found, readings = read_rows(found, examples, reader_of(str(folder)))
    return write_inspection(folder / "inspection.html", found, examples, readings)


def test_the_page_shows_thirty_rows_and_its_tables(page):
    shown = chromium(page, "--dump-dom")
    assert len(re.findall(r"<article ", shown)) == 30
    assert len(re.findall(r"<audio ", shown)) == len(re.findall(r'<svg class="wave"', shown)) > 20
    assert len(re.findall(r"<tr [^>]*data-task=", shown)) == 3
    assert set(re.findall(r'data-groups="(\w+)"', shown)) == {"source", "task", "language", "license"}
    assert "Broken recordings: 1" in shown


def test_an_answer_with_a_script_is_inert(page):
    shown = chromium(page, "--dump-dom")
    assert "· rows</title>" in shown
    assert "&lt;script&gt;document.title" in shown


def test_each_row_that_can_be_read_is_rendered_and_folds_without_a_script(page):
    shown = chromium(page, "--dump-dom")
    rendered = re.findall(
        r'<details class="reads" open="">\s*<summary>.*?<pre class="rendered"><code>.*?</pre>', shown, re.S
    )
    assert len(rendered) == 30 - shown.count("Cannot be rendered") > 20
    assert all(text.count("<mark>") == text.count("&lt;|end|&gt;</b></mark>") == 1 for text in rendered)


def test_the_sound_can_be_played(page):
    """Each player knows how long its sound is only when the browser has decoded its header."""
    frame = page.with_name("playing.html")
    script = (
        "<script>addEventListener('load', () => setTimeout(() => { const all = [...document.querySelectorAll('audio')];"
        " document.title = 'playable ' + (all.length > 20 && all.every(one => one.duration > 0.4)); }, 1000));</script>"
    )
    without_policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    frame.write_text(without_policy.replace("</body>", f"{script}</body>"))
    assert "<title>playable true</title>" in chromium(frame, "--dump-dom")


@pytest.mark.parametrize("width", [500, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_drawn(page, width, scheme):
    picture = page.with_name(f"{scheme}-{width}.png")
    preference = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    chromium(page, f"--screenshot={picture}", f"--window-size={width},1600", preference)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (width, 1600)
    assert picture.stat().st_size > 40_000  # an empty page has a few kilobytes


def test_nothing_is_wider_than_the_window(page):
    frame = page.with_name("narrow.html")
    source = page.as_uri()
    frame.write_text(
        f'<iframe id="f" width="400" height="800" src="{source}"></iframe><script>'
        "const f = document.getElementById('f');"
        "f.onload = () => document.title = `width ${f.contentDocument.documentElement.scrollWidth}`;</script>"
    )
    shown = chromium(frame, "--dump-dom", "--allow-file-access-from-files")
    assert "<title>width 400</title>" in shown

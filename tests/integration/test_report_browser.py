"""The report in a real browser: Chromium opens the file from the disk and draws it, without a network."""

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from report_data import HOSTILE, make_examples, make_report, make_row

from audiollm.report import Example, write_report

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium(page: Path, *arguments: str) -> str:
    """What Chromium prints about a page, after its scripts have run."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program, f"these tests need Chromium on the PATH, under one of the names {', '.join(NAMES)}"
    settings = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=2000")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [program, *settings, profile, *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    examples = [*make_examples(11), Example(make_row("word", question=HOSTILE), "yes", True)]
    return write_report(tmp_path_factory.mktemp("report") / "report.html", make_report(examples=examples))


def test_the_page_shows_the_table_and_twelve_players(page):
    shown = chromium(page, "--dump-dom")
    assert len(re.findall(r"<tr [^>]*data-task=", shown)) == 11
    assert len(re.findall(r"<audio ", shown)) == 12
    assert len(re.findall(r'<svg class="chart"', shown)) == 2


def test_a_question_with_a_script_is_inert(page):
    shown = chromium(page, "--dump-dom")
    assert "<title>quickstart · report</title>" in shown
    assert "&lt;script&gt;document.title" in shown


def test_the_own_script_of_the_page_is_allowed_to_run(page):
    """It hides nothing: the copy button appears only when the script has run."""
    assert re.search(r'<button type="button" data-copy="">Copy</button>', chromium(page, "--dump-dom"))


@pytest.mark.parametrize("width", [500, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_drawn(page, width, scheme):
    picture = page.with_name(f"{scheme}-{width}.png")
    preference = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    chromium(page, f"--screenshot={picture}", f"--window-size={width},1600", preference)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (width, 1600)
    assert picture.stat().st_size > 40_000  # an empty page has a few kilobytes


def test_nothing_is_wider_than_a_telephone(page):
    """The page in a frame of 400 pixels, measured by its own scroll bar: Chromium's windows are never that narrow."""
    frame = page.with_name("frame.html")
    source = json.dumps(page.read_text()).replace("</", "<\\/")
    frame.write_text(
        '<iframe id="f" width="400" height="800" srcdoc=""></iframe><script>'
        "const f = document.getElementById('f');"
        "f.onload = () => document.title = `width ${f.contentDocument.documentElement.scrollWidth}`;"
        f"f.srcdoc = {source};</script>"
    )
    assert "<title>width 400</title>" in chromium(frame, "--dump-dom")

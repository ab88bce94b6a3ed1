"""How figures and foreign texts read: counts, percentages, durations, what each metric means, what a text hides.

Not here: where the figures come from (audiollm/evaluation).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f\ud800-\udfff]"
)
"""Controls but for tabs and line feeds, marks that turn the direction, marks without width that join nothing, and lone
surrogates: what a text may hold and does not show."""


class MetricNote(NamedTuple):
    """A metric in the words of a table."""

    words: str
    lower_is_better: bool = False


METRICS = {
    "exact": MetricNote("right answers"),
    "f1": MetricNote("F1 of the things named"),
    "R@1": MetricNote("queries whose right one is found first; by chance as in the last column"),
    "R@5": MetricNote("within the first five"),
    "R@10": MetricNote("within the first ten"),
    "mAP@10": MetricNote("mean average precision of the first ten"),
    "wer": MetricNote("word errors, lower is better", lower_is_better=True),
}


def metric_note(metric: str) -> MetricNote:
    """The words for a metric; its own name where there are none."""
    return METRICS.get(metric, MetricNote(metric))


def counted(number: int, noun: str) -> str:
    """A number of things: 1 "row" -> "1 row", 1200 -> "1,200 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(fraction: float | None) -> str:
    """0.973 -> "97.3%"; an absent figure is a dash."""
    return "–" if fraction is None else f"{100 * fraction:.1f}%"


def interval(ci95: Sequence[float]) -> str:
    """(0.951, 0.982) -> "95.1–98.2%"."""
    low, high = ci95
    return f"{100 * low:.1f}–{100 * high:.1f}%"


def duration(seconds: float) -> str:
    """Seconds as one says them: 8.4 -> "8 s", 754 -> "12 min 34 s", 7322 -> "2 h 2 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def visible(text: str) -> str:
    """A text in which nothing is hidden, and nothing moves the cursor or turns lines about: U+202E reads `\\u202e`."""
    return HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)

"""How right an answer is: pure functions of texts and counts.

Every metric turns one answer into a Count, `got` out of `of`, so that all are summed and resampled in the same way:

    exact   1 or 0               of 1
    f1      F1 of this answer    of 1
    wer     word errors          of the words in the reference      (lower is better, may exceed 1)

Not here: which task has which metric (tasks.py), where answers come from (run.py).
"""

import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from typing import Literal, NamedTuple

import jiwer
import numpy as np

YesNo = Literal["yes", "no"]

ARTICLES = frozenset({"a", "an", "the"})
# Signs that change the meaning of an answer (C# minor, 50 %, -5, 1.5) survive; other punctuation does not.
MEANINGFUL_SIGNS = frozenset("#♯♭%+°")
THINKING = re.compile(r"<think>.*?(</think>|$)|^.*</think>", re.DOTALL)
APOSTROPHES = re.compile("['’ʼ`]")
NUMBER_SIGNS = re.compile(r"(?<!\w)-(?=\d)|(?<=\d)\.(?=\d)")
BETWEEN_THINGS = re.compile(r"[,;.\n]|\b(?:then|and|over|with)\b", re.IGNORECASE)
# Whisper's own list: words are not separated by spaces, so that characters are counted instead.
LANGUAGES_WITHOUT_SPACES = frozenset({"zh", "yue", "ja", "th", "lo", "my"})
LOWER_IS_BETTER = frozenset({"wer"})


class Count(NamedTuple):
    """One answer under one metric: `got` out of `of`."""

    got: float
    of: float


def is_better(metric: str, score: float, than: float) -> bool:
    """Whether `score` is the better of the two under this metric."""
    return score < than if metric in LOWER_IS_BETTER else score > than


# --- text -------------------------------------------------------------------------------------------------------------


def final_answer(text: str) -> str:
    """The answer without a reasoning model's `<think>` part, closed or not."""
    return THINKING.sub("", text).strip()


def normalise(text: str) -> str:
    """The form in which labels are compared: lower case, no punctuation, no articles, single spaces.

    Milder than Whisper's normaliser, which rewrites numbers and spellings and deletes words and brackets: right for
    transcripts, wrong for labels. An answer of nothing but an article ("A") stays as it is.
    """
    text = APOSTROPHES.sub("", unicodedata.normalize("NFKC", text).casefold()).replace("−", "-")
    kept = {match.start() for match in NUMBER_SIGNS.finditer(text)}
    spaced = "".join(
        character if index in kept or not _is_punctuation(character) else " " for index, character in enumerate(text)
    )
    words = spaced.split()
    return " ".join([word for word in words if word not in ARTICLES] or words)


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS" and character not in MEANINGFUL_SIGNS


def yes_or_no(text: str) -> YesNo | None:
    """`yes` or `no` as the first word, or as the only one of the two in the text; None where neither holds."""
    words = normalise(text).split()
    said = set(words[:1]) & {"yes", "no"} or set(words) & {"yes", "no"}
    if len(said) != 1:
        return None
    return "yes" if "yes" in said else "no"


def things_named(text: str) -> frozenset[str]:
    """The things that a description lists: "A dog, then rain over speech." -> {dog, rain, speech}."""
    return frozenset(filter(None, map(normalise, BETWEEN_THINGS.split(text))))


def chosen_option(text: str, options: Sequence[str]) -> str | None:
    """The one option (normalised) that the text names; None where it names none or several.

    Whole words only ("1" is not in "12"), and the longest wins ("dog barking" does not name "dog"). A bare letter,
    "B" or "(b)", is the option at that place.
    """
    answer = normalise(text)
    known = list(dict.fromkeys(map(normalise, options)))
    spans = {option: _spans(option, answer) for option in known}
    named = [option for option in known if any(not _inside_longer(span, spans) for span in spans[option])]
    if len(named) == 1:
        return named[0]
    place = ord(answer) - ord("a") if not named and len(answer) == 1 else -1
    return normalise(options[place]) if 0 <= place < len(options) else None


def _spans(option: str, answer: str) -> list[tuple[int, int]]:
    if not option:
        return []
    return [match.span() for match in re.finditer(rf"(?<!\S){re.escape(option)}(?!\S)", answer)]


def _inside_longer(span: tuple[int, int], spans: dict[str, list[tuple[int, int]]]) -> bool:
    start, end = span
    return any(a <= start and end <= b and b - a > end - start for others in spans.values() for a, b in others)


# --- metrics: (answer, right answers) -> Count ------------------------------------------------------------------------


def exact(answer: str, references: Sequence[str]) -> Count:
    """1 where the normalised answer equals any reference."""
    return Count(float(normalise(answer) in set(map(normalise, references))), 1)


def exact_yes_no(answer: str, references: Sequence[str]) -> Count:
    """1 where the answer says yes or no, and says the same as the first reference."""
    said = yes_or_no(answer)
    return Count(float(said is not None and said == yes_or_no(references[0])), 1)


def exact_option(answer: str, right: str, options: Sequence[str]) -> Count:
    """1 where the one option that the answer names is the right one."""
    chosen = chosen_option(answer, options)
    return Count(float(chosen is not None and chosen == (chosen_option(right, options) or normalise(right))), 1)


def f1(answer: str, references: Sequence[str]) -> Count:
    """F1 of the set of things named; the best over the references."""
    named = things_named(answer)
    return Count(max(_set_f1(named, things_named(reference)) for reference in references), 1)


def _set_f1(named: frozenset[str], right: frozenset[str]) -> float:
    return 2 * len(named & right) / (len(named) + len(right)) if named or right else 1.0


def wer(answer: str, references: Sequence[str], language: str | None = None) -> Count:
    """Word errors, and words in the reference, after Whisper's normaliser has been applied once (it is not idempotent).

    English rows (`language` "en") get the English normaliser, without its table of British spellings (it comes with
    Whisper's checkpoints, not with transformers); all others, also rows without a language, get the basic one. Where a
    language has no spaces, characters are counted. Of several references the one with the lowest rate counts.
    """
    counts = [_word_errors(answer, reference, language) for reference in references]
    return min(counts, key=lambda count: count.got / max(count.of, 1))


def _word_errors(answer: str, reference: str, language: str | None) -> Count:
    said, right = (transcript_form(text, language) for text in (answer, reference))
    aligned = jiwer.process_words(right, said)
    errors = aligned.substitutions + aligned.deletions + aligned.insertions
    return Count(errors, aligned.hits + aligned.substitutions + aligned.deletions)


def transcript_form(text: str, language: str | None = None) -> str:
    """A transcript as Whisper's normaliser leaves it."""
    code = (language or "").lower().replace("_", "-").split("-")[0]
    return _normaliser(code == "en", code in LANGUAGES_WITHOUT_SPACES)(text).strip()


@cache
def _normaliser(english: bool, split_letters: bool):  # type: ignore[no-untyped-def]  # two unrelated classes, both str -> str
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer({}) if english else BasicTextNormalizer(split_letters=split_letters)


# --- many answers -----------------------------------------------------------------------------------------------------


def total(counts: Iterable[Count]) -> float:
    """The score of a task: all that was got, over all that there was to get."""
    got, of = np.sum([tuple(count) for count in counts], axis=0, dtype=float)
    return float(got / of) if of else float(got > 0)


def confidence_interval(
    counts: Sequence[Count], groups: Sequence[Hashable], *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of `total`, from resampling whole groups: the questions about one recording are not independent.

    Where every group scores alike (all right, all wrong) resampling knows no doubt; there the interval reaches as far
    as Wilson's for that many groups.
    """
    sums = _sum_by_group(counts, groups)  # [G, 2]: got, of
    rng = np.random.default_rng(seed)
    block = max(1, 4_000_000 // len(sums))  # bounds the memory: a block of resamples holds [block, G] indices
    scores: list[np.ndarray] = []
    for start in range(0, resamples, block):
        picked = rng.integers(len(sums), size=(min(block, resamples - start), len(sums)))
        drawn = sums[picked].sum(axis=1)
        scores.append(drawn[:, 0] / np.maximum(drawn[:, 1], 1e-9))
    low, high = np.percentile(np.concatenate(scores), [2.5, 97.5])
    score, doubt = total(counts), 1.96**2 / (len(sums) + 1.96**2)
    return float(min(low, 1 - doubt) if score == 1 else low), float(max(high, doubt) if score == 0 else high)


def _sum_by_group(counts: Sequence[Count], groups: Sequence[Hashable]) -> np.ndarray:
    place = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(place), 2))
    np.add.at(sums, [place[group] for group in groups], np.array([tuple(count) for count in counts], dtype=float))
    return sums

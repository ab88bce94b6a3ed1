"""Questions out of labels: open, multiple choice, yes or no, counting, order; and what no recording tells.

Each takes the row's `Draw`, so that the same row gives the same questions. Labels are words as a person says them.
Not here: ways of asking (prompts.py), which labels a set has (data_prep/).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from audiollm.curation.dataset import Ask, Draw, Dropped

NUM_CHOICES = 4
HARD_SHARE = 0.5
NUM_COMMON = 10
FEELINGS = (
    "anger angry frustrated disgust",
    "fear fearful sad sadness surprise surprised",
    "happy joy excited neutral calm",
)
SIMILAR_EMOTIONS = {one: {*group.split()} for group in FEELINGS for one in group.split()}
"""What is often taken for an emotion by its sound, in the words of all sets that have emotions."""


def words_of(label: str) -> str:
    """A label as words: `dog_bark` -> `dog bark`."""
    return " ".join(label.replace("_", " ").replace("/", " or ").split())


def described(draw: Draw, task: str, captions: Iterable[str | None]) -> Ask:
    """One question about a clip with several captions: the first is the answer, the others are as right.

    Dropped where none has a word.
    """
    answer, *others = dict.fromkeys(caption.strip() for caption in captions if caption and caption.strip()) or [""]
    if not answer:
        raise Dropped("no caption")
    return Ask(task, draw.phrase(task), answer, references=tuple(others))


def classify(
    draw: Draw, task: str, label: str, labels: Sequence[str],
    *, similar: Mapping[str, Collection[str]] | None = None, common: Collection[str] = (),
) -> list[Ask]:  # fmt: skip
    """An open question, a multiple choice, and a yes and a no, about the one label of a recording."""
    return [
        draw.ask(task, label),
        multiple_choice(draw, task, label, labels, similar=similar),
        *yes_and_no(draw, [label], labels, similar=similar, common=common),
    ]


def multiple_choice(
    draw: Draw, task: str, right: str, labels: Sequence[str],
    *, similar: Mapping[str, Collection[str]] | None = None, num_choices: int = NUM_CHOICES,
) -> Ask:  # fmt: skip
    """The task's question with some options, the right one at a random place.

    About half of the wrong ones are hard: of `similar` to the right one, as far as there are any. Dropped for a label
    that is none of `labels`.
    """
    if right not in labels:
        raise Dropped("a label that the set does not have")
    wrong = [label for label in dict.fromkeys(labels) if label != right]
    hard = [label for label in wrong if label in (similar or {}).get(right, ())]
    number = min(num_choices - 1, len(wrong))
    chosen = draw.sample(hard, min(len(hard), round(number * HARD_SHARE)))
    easy = [label for label in wrong if label not in chosen]
    options = [*chosen, *draw.sample(easy, number - len(chosen))]
    draw.shuffle(options)
    options.insert(draw.randrange(len(options) + 1), right)
    return with_choices(draw, task, draw.phrase(task), options, right)


def with_choices(draw: Draw, task: str, question: str, options: Sequence[str], right: str) -> Ask:
    """A question with its options; the answer is the text of the right one."""
    asked = draw.phrase("choices", question=question, options=draw.choice(("; ", "\n")).join(options))
    return Ask(f"{task}_mcq", asked, right, choices=tuple(options))


def yes_and_no(
    draw: Draw, present: Sequence[str], labels: Sequence[str],
    *, similar: Mapping[str, Collection[str]] | None = None, common: Collection[str] = (),
) -> list[Ask]:  # fmt: skip
    """Whether something is there: one question with yes, and one with no where anything is absent.

    What is absent is by turns any label, one that is `common` in the set, or one that is like something present.
    Dropped for a label without a word.
    """
    if not all(label.strip() for label in present):
        raise Dropped("an empty label")
    asks = [draw.ask("existence", "yes", label=draw.choice(list(present)))] if present else []
    absent = [label for label in dict.fromkeys(labels) if label not in present]
    if absent:
        asks.append(draw.ask("existence", "no", label=absent_one(draw, present, absent, similar or {}, common)))
    return asks


def absent_one(
    draw: Draw, present: Sequence[str], absent: Sequence[str],
    similar: Mapping[str, Collection[str]], common: Collection[str],
) -> str:  # fmt: skip
    """Something that is not there: at random, popular, or adversarial, where these can be had."""
    like = [label for label in absent if any(label in similar.get(one, ()) for one in present)]
    popular = [label for label in absent if label in common]
    return draw.choice(draw.choice([pool for pool in (absent, popular, like) if pool]))


def commonest(labels: Iterable[str], among: Collection[str]) -> tuple[str, ...]:
    """Those of `among` that occur most often in the labels of a whole table; of equals the first in the alphabet.

    For `yes_and_no(common=...)`: call it where an archive's table is read, so that no chunk or process plays a part.
    """
    counts = Counter(label for label in labels if label in among)
    return tuple(sorted(counts, key=lambda label: (-counts[label], label))[:NUM_COMMON])


def count(draw: Draw, events: Sequence[tuple[str, float, float]]) -> list[Ask]:
    """How often something is heard, out of events (label, onset, offset); one label of them."""
    if not events:
        return []
    label = draw.choice(sorted({label for label, _, _ in events}))
    return [draw.ask("count", str(sum(label == other for other, _, _ in events)), label=label)]


def order(draw: Draw, events: Sequence[tuple[str, float, float]]) -> list[Ask]:
    """Which of two comes first, where that is clear: each is heard once, and one begins before the other."""
    once = [event for event in events if sum(event[0] == other[0] for other in events) == 1]
    if len(once) < 2:
        return []
    one, two = draw.sample(once, 2)
    if one[1] == two[1]:
        return []
    return [draw.ask("order", min(one, two, key=lambda event: event[1])[0], first=one[0], second=two[0])]


def grounding(draw: Draw, events: Sequence[tuple[str, float, float]]) -> list[Ask]:
    """When something is heard: all spans of one label, in seconds."""
    if not events:
        return []
    label = draw.choice(sorted({label for label, _, _ in events}))
    spans = sorted((onset, offset) for other, onset, offset in events if other == label)
    return [draw.ask("grounding", "; ".join(f"{onset:.1f}-{offset:.1f} s" for onset, offset in spans), label=label)]


def unheard(draw: Draw) -> Ask:
    """A question that no recording answers, about what is seen, owned or known, and an answer that says so."""
    return Ask("unheard", draw.phrase("unheard"), draw.phrase("unheard_answer"), language="en")

"""Rows as training hands them to a model: rendered by its chat template, with what is supervised in them.

Not here: the rendering (models/rendering.py, by way of inference.py), the page (report/inspection.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from audiollm.conversation import Row
from audiollm.report.inspection import Inspection, Reading, Readings

if TYPE_CHECKING:
    from audiollm.inference import PromptWriter

SUPERVISE = ("last", "all")


@dataclass(frozen=True)
class Reader:
    """Renders rows for one model as training does."""

    name: str
    """Its checkpoint, or a tokenizer alone."""
    processor: "PromptWriter"
    knows_audio: bool
    """Whether it is known how many tokens a clip takes; a tokenizer alone does not say."""
    supervise: str

    def read(self, row: Row) -> Reading:
        """A row in pieces, as `Recordings.render` renders it, or why it cannot be rendered."""
        try:
            num_samples = []
            for clip in row.clips:
                num_samples.append(len(clip.load(self.processor.sampling_rate)))
                self.processor.refuse_longer(clip, num_samples[-1])
            sequences = self.processor.render(row.messages, num_samples, supervise=self.supervise)
        except ValueError as error:
            return Reading(error=str(error))
        pieces = self.processor.renderer.pieces
        return Reading(tuple(tuple(pieces(one.input_ids, one.supervised)) for one in sequences))


def reader_of(tokenizer: str | None, supervise: str | None = None) -> Reader | None:
    """A reader for a checkpoint or a tokenizer alone, None for none; ValueError where that or `supervise` is wrong.

    supervise: which answers are learned, "last" (if not said) or "all", as in a recipe's `data`.
    """
    if tokenizer is None:
        if supervise is not None:
            raise ValueError("supervise says what is marked in a chat template; name whose by --tokenizer CHECKPOINT")
        return None
    if supervise not in (None, *SUPERVISE):
        raise ValueError(f"supervise={supervise} is none; it is {' or '.join(SUPERVISE)}")
    from audiollm.inference import TokenizerAlone, load_prompts  # takes torch along, which figures do not need

    processor = load_prompts(tokenizer)
    return Reader(tokenizer, processor, not isinstance(processor, TokenizerAlone), supervise or "last")


def read_rows(found: Inspection, rows: Sequence[Row], reader: Reader | None) -> tuple[Inspection, Readings | None]:
    """The rows as the reader's model gets them, and the figures with a note where some cannot be rendered."""
    if reader is None:
        return found, None
    read = tuple(reader.read(row) for row in rows)
    notes = (*found.notes, *_notes(reader.name, rows, read))
    return replace(found, notes=notes), Readings(reader.name, reader.supervise, reader.knows_audio, read)


def _notes(name: str, rows: Sequence[Row], read: Sequence[Reading]) -> Iterator[str]:
    refused = [(row, one.error) for row, one in zip(rows, read, strict=True) if one.error is not None]
    if refused:
        row, error = refused[0]
        first = f"the first, {row.id or row.origin}: {error}"
        yield f"{len(refused):,} of {len(rows):,} rows drawn cannot be rendered for {name}; {first}"

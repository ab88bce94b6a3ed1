"""Where audio vectors take the place of placeholders in the prompt. Pure functions.

Shapes: B rows, S tokens, D width, M audio vectors.
"""

from collections.abc import Sequence

from torch import Tensor


def splice(text_BSD: Tensor, is_audio_BS: Tensor, audio_MD: Tensor) -> Tensor:
    """Put M audio vectors, in order, at the M True positions; ValueError with both numbers if they differ."""
    num_slots = int(is_audio_BS.sum())
    if num_slots != len(audio_MD):
        raise ValueError(
            f"prompt has {num_slots} audio slots, connector made {len(audio_MD)} vectors; "
            "both sides must call num_audio_tokens()"
        )
    return text_BSD.masked_scatter(is_audio_BS[..., None], audio_MD.to(text_BSD.dtype))


def repeat_by_row(slots: Sequence[int], vectors: Sequence[int], times: int) -> list[int]:
    """The order of clips when each row is repeated: rows with `slots` placeholders, clips of `vectors` each.

    Row a with clips 0 and 1, row b with clip 2, times=2:   a a b b   ->   0 1 0 1 2 2
    """
    order, clip = [], 0
    for wanted in slots:
        first, found = clip, 0
        while found < wanted and clip < len(vectors):
            found, clip = found + vectors[clip], clip + 1
        order += [*range(first, clip)] * times
    return order

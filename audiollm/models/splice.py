"""Where audio vectors take the place of placeholders in the prompt. Pure functions.

Shapes: B rows, S tokens, D width, M audio vectors.
"""

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

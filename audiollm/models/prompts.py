"""What writes the prompts of a model, without the model: of a checkpoint, or a tokenizer of which no model is known.

Not here: how they are written (processing.py, rendering.py).
"""

from pathlib import Path
from typing import Any

from transformers import AddedToken, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from audiollm.models.configuration import AudioLLMConfig
from audiollm.models.control_tokens import AUDIO_TOKEN
from audiollm.models.locate import resolve_checkpoint
from audiollm.models.native.loading import native_config_of
from audiollm.models.native.processing import NativeProcessor
from audiollm.models.native.table import NATIVE, NATIVES
from audiollm.models.processing import AudioLLMProcessor, PromptWriter


class TokenizerAlone(PromptWriter):
    """Prompts by a tokenizer and its chat template: it is not known how long a clip is, and it stands as one token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if AUDIO_TOKEN not in tokenizer.get_vocab():
            tokenizer.add_tokens([AddedToken(AUDIO_TOKEN, special=True, normalized=False)], special_tokens=True)
        self.tokenizer = tokenizer
        self.chat_template = tokenizer.chat_template
        self.chat_template_kwargs: dict[str, Any] = {}
        self.system_prompt = None

    @property
    def sampling_rate(self) -> int:
        """Hz; any will do."""
        return 16_000

    def num_audio_tokens(self, num_samples: int) -> int:
        """One, whatever its length."""
        return 1


def load_prompts(name: str) -> PromptWriter:
    """The processor of a checkpoint (a stage, a run, a name on the hub), or else a tokenizer; no weights are read.

    ValueError where there is neither.
    """
    try:
        folder = Path(name).expanduser()
        where = str(resolve_checkpoint(folder)) if (folder / "run.json").is_file() else str(folder)
        kind = _model_type_of(where)
        if kind == AudioLLMConfig.model_type:
            return AudioLLMProcessor.from_pretrained(where)
        if kind in (NATIVE, *NATIVES):
            return NativeProcessor.from_pretrained(where, native_config_of(where).model_type)
        return TokenizerAlone(AutoTokenizer.from_pretrained(where))
    except (OSError, ValueError, KeyError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"tokenizer={name} has no tokenizer that can be read ({cause}); give a checkpoint") from None


def _model_type_of(where: str) -> str | None:
    """What config.json says; None where there is none, as beside a tokenizer alone."""
    try:
        found: Any = PreTrainedConfig.get_config_dict(where)[0].get("model_type")
    except OSError:
        return None
    return None if found is None else str(found)

"""What families of pretrained encoders share: nothing random but dropout, and a front end that is the published one.

Not here: the families (one file each).
"""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import AutoConfig

from audiollm.models.encoders.base import SAMPLING_RATE, WaveformEncoder
from audiollm.models.encoders.loading import extractor_settings, refuse_missing
from audiollm.models.encoders.registry import audio_config_of

log = logging.getLogger(__name__)

STEADY = {
    "layerdrop": 0.0, "mask_time_prob": 0.0, "mask_feature_prob": 0.0, "add_adapter": False,
    "use_intermediate_ffn_before_adapter": False,
}  # fmt: skip
"""What a config is set to: each layer runs, on every rank and for every tap; frames are not masked at random, since
sound is augmented before it gets here; and frames are shortened by the connector, not by an adapter."""


class SteadyEncoder(WaveformEncoder):
    """A family whose published models drop layers, mask frames or count the statistics of a batch while they train."""

    kept: ClassVar[tuple[str, ...]] = ()
    """What a checkpoint's feature extractor says and our config keeps."""

    @classmethod
    def computed(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """What a feature extractor must say, since it is what we compute."""
        return {}

    @classmethod
    def load(cls, checkpoint: str, revision: str | None = None) -> Any:
        """The encoder of a checkpoint, without the head of a fine-tuned one; ValueError for one that is not ours."""
        revision = revision or "main"
        config = audio_config_of(AutoConfig.from_pretrained(checkpoint, revision=revision), checkpoint)
        said = checked_settings(checkpoint, revision, cls.computed(config.to_dict()))
        config.update({key: said[key] for key in cls.kept if key in said})
        library: Any = cls
        encoder, found = library.from_pretrained(
            checkpoint, config=config, revision=revision, dtype="auto", output_loading_info=True
        )
        refuse_missing(found["missing_keys"], checkpoint, cls)
        return encoder

    def __init__(self, config: Any) -> None:
        if getattr(config, "add_adapter", False):
            log.warning("the encoder's adapter is left out (add_adapter): it is the connector that shortens frames")
        config.update({key: value for key, value in STEADY.items() if hasattr(config, key)})
        library: Any = super()
        library.__init__(config)

    def library_forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of transformers' own model, in whose place ours stands."""
        library: Any = super(WaveformEncoder, self)
        return library.forward(*args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        """Training mode; batch norms keep the statistics that they have, or a clip would hear its neighbours."""
        library: Any = super()
        library.train(mode)
        modules: Any = self
        for module in modules.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        return self


def checked_settings(checkpoint: str, revision: str | None, ours: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's feature extractor says; ValueError where it is not the one that we compute."""
    said = extractor_settings(checkpoint, revision)
    for key, value in {"sampling_rate": SAMPLING_RATE, **ours}.items():
        if said.get(key, value) != value:
            raise ValueError(
                f"{checkpoint}: its feature extractor has {key}={said[key]}, and only {value} is computed here; "
                "write an encoder of your own with that front end (package.module:Class)"
            )
    return said


def own_moments(x: Tensor, mask: Tensor, dim: int, spared: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance along a dimension over what the mask says is a clip's own; `spared` degrees of freedom."""
    count = mask.sum(dim, keepdim=True)
    mean = (x * mask).sum(dim, keepdim=True) / count
    return mean, ((x - mean) * mask).square().sum(dim, keepdim=True) / (count - spared)

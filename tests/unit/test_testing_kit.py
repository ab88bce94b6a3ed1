"""The kit that parts are checked with: ours pass it, and each property that is broken on purpose is told."""

import pytest
import torch
from encoders import CONFIGS, IMAGES
from tiny import CONNECTOR_BLOCKS, ENCODER, sections_of

from audiollm.models.connectors import CONNECTORS
from audiollm.models.connectors.mlp import MLPConnector
from audiollm.models.encoders import ENCODERS
from audiollm.models.encoders.self_supervised import Wav2Vec2Encoder
from audiollm.models.testing import check_connector, check_encoder

ELSEWHERE = {"wav2vec2-large", "hubert-large", "conformer-relative"}
"""Variants that are only compared with the original model, alone and in a batch, which takes less time."""
CHECKED = [(kind, config) for variant, (kind, config) in CONFIGS.items() if variant not in ELSEWHERE]
CHECKED += [*IMAGES.items(), ("openai_whisper", ENCODER)]


@pytest.mark.parametrize(("kind", "config"), CHECKED, ids=[kind for kind, _ in CHECKED])
def test_our_encoders_keep_the_contract(kind, config):
    check_encoder(ENCODERS[kind], config)


def test_every_encoder_is_checked():
    assert {kind for kind, _ in CHECKED} == set(ENCODERS) - {"audiollm_encoders"}


@pytest.mark.parametrize("name", CONNECTORS)
def test_our_connectors_keep_the_contract(name):
    block = CONNECTOR_BLOCKS[name]
    settings = {key: value for key, value in block.items() if key != "name"}
    check_connector(CONNECTORS[name], settings, sections=sections_of(block, 16))


# ----------------------------------------------------------------------------------------------------- broken encoders
class OneFrameMore(Wav2Vec2Encoder):
    @classmethod
    def num_frames(cls, config, num_samples):
        return super().num_frames(config, num_samples) + (num_samples > 2000)


class NoneForTheShortest(Wav2Vec2Encoder):
    def hear(self, windows_ML, lengths_M, taps):
        states, mask_MT = super().hear(windows_ML, lengths_M, taps)
        return states, mask_MT & (lengths_M >= 400)[:, None]


class Wide(Wav2Vec2Encoder):
    @classmethod
    def layer_width(cls, config):
        return 32


class Fast(Wav2Vec2Encoder):
    @classmethod
    def frame_rate_hz(cls, config):
        return 100.0


class Integers(Wav2Vec2Encoder):
    def forward(self, values, mask):
        frames, mask = super().forward(values, mask)
        return frames, mask.long()


class Unended(Wav2Vec2Encoder):
    def forward(self, values, mask):
        frames, mask = super().forward(values, mask)
        return frames + 1, mask


class PaddedNorm(Wav2Vec2Encoder):
    """As in the library: the first norm counts the padding."""

    def hear(self, windows_ML, lengths_M, taps):
        states, mask_MT = super().hear(windows_ML, torch.full_like(lengths_M, windows_ML.shape[1]), taps)
        frames_M = torch.tensor([self.num_frames(self.config.to_dict(), n) for n in lengths_M.tolist()])
        return states, torch.arange(mask_MT.shape[1]) < frames_M[:, None]


class ReadsPadding(Wav2Vec2Encoder):
    def forward(self, values, mask):
        frames, kept = super().forward(values, mask)
        return frames + (values * ~mask).sum(-1)[:, None, None] * kept[..., None], kept


class TapsInOrder(Wav2Vec2Encoder):
    def hear(self, windows_ML, lengths_M, taps):
        return super().hear(windows_ML, lengths_M, sorted(taps))


class OneLayer(Wav2Vec2Encoder):
    def hear(self, windows_ML, lengths_M, taps):
        return super().hear(windows_ML, lengths_M, taps[:1])


class Silent(Wav2Vec2Encoder):
    def __init__(self, config):
        super().__init__(config)
        self.unused = torch.nn.Linear(2, 2)


class NotANumber(Wav2Vec2Encoder):
    def forward(self, values, mask):
        frames, mask = super().forward(values, mask)
        return frames / (frames[:, :1, :1] * 0 + (values.shape[1] != 399)), mask


class HalfDetached(Wav2Vec2Encoder):
    def forward(self, values, mask):
        frames, kept = super().forward(values, mask)
        return (frames if len(values) == 1 else frames * 0.5 + frames.detach() * 0.5), kept


class LastLayerForAll(Wav2Vec2Encoder):
    def hear(self, windows_ML, lengths_M, taps):
        return super().hear(windows_ML, lengths_M, [2] * len(taps))


class Detached(Wav2Vec2Encoder):
    def forward(self, values, mask):
        frames, mask = super().forward(values, mask)
        return frames.detach(), mask


BROKEN = {
    LastLayerForAll: "layer 1 and the last give the same",
    Detached: "what comes out has no gradient",
    OneFrameMore: "num_frames says .* come out",
    NoneForTheShortest: "num_frames says 1 for 1 samples, and 0 come out",
    Wide: "width says 32, and frames have 16",
    Fast: "frame_rate_hz says 100",
    Integers: "the mask is torch.int64, not bool",
    Unended: "frames after a clip's end are not zero",
    PaddedNorm: "a batch is not what its clips are alone: clip 0",
    ReadsPadding: "what lies in the padding changes a clip",
    TapsInOrder: r"taps \[-1, 1\] are not layer -1 beside layer 1",
    OneLayer: r"taps \[-1, 1\] should be 32 wide, and are 16",
    Silent: "no gradient reaches unused.weight",
    NotANumber: "a frame is not finite for 399 samples",
    HalfDetached: "the gradient of .* in a batch is not the sum of the clips'",
}


@pytest.mark.parametrize("encoder", BROKEN, ids=lambda encoder: encoder.__name__)
def test_a_broken_encoder_is_told_by_what_is_broken(encoder):
    with pytest.raises(AssertionError, match=BROKEN[encoder]):
        check_encoder(encoder, CONFIGS["wav2vec2"][1])


# --------------------------------------------------------------------------------------------------- broken connectors
class VectorMore(MLPConnector):
    @staticmethod
    def num_tokens(settings, num_frames, frame_rate_hz):
        return num_frames // settings.stack + 1


class ReadsMaskedFrames(MLPConnector):
    def forward(self, frames_NTC, mask_NT):
        vectors_NKD, mask_NK = super().forward(frames_NTC, mask_NT)
        return vectors_NKD + frames_NTC.mean(), mask_NK


class NotTheLast(MLPConnector):
    def forward(self, frames_NTC, mask_NT):
        vectors_NKD, mask_NK = super().forward(frames_NTC, mask_NT)
        return vectors_NKD.tanh(), mask_NK


class Narrow(MLPConnector):
    def forward(self, frames_NTC, mask_NT):
        vectors_NKD, mask_NK = super().forward(frames_NTC, mask_NT)
        return vectors_NKD[..., 1:], mask_NK


class Nameless(MLPConnector):
    def __init__(self, settings, sizes):
        super().__init__(settings, sizes)
        self.last = self.output
        del self.output


class Undeclared(torch.nn.Module):
    pass


BROKEN_CONNECTORS = {
    Nameless: "a connector's last layer is its `output`",
    Undeclared: "Undeclared.Settings must be a subclass of ConnectorSettings",
    VectorMore: "num_tokens says .* come out",
    ReadsMaskedFrames: "a batch is not what its clips are alone",
    NotTheLast: "`output` is not the last layer",
    Narrow: "vectors are 23 wide, not 24",
}


@pytest.mark.parametrize("connector", BROKEN_CONNECTORS, ids=lambda connector: connector.__name__)
def test_a_broken_connector_is_told_by_what_is_broken(connector):
    with pytest.raises(AssertionError, match=BROKEN_CONNECTORS[connector]):
        check_connector(connector, {"stack": 4, "hidden_size": 16})


def test_what_is_no_encoder_and_a_misspelt_size_are_told():
    with pytest.raises(AssertionError, match="MLPConnector has no config_class: subclass WaveformEncoder first"):
        check_encoder(MLPConnector, {})
    with pytest.raises(AssertionError, match="d_modle is not in"):
        check_encoder(ENCODERS["whisper"], ENCODER | {"d_modle": 3})

"""Whether an encoder or a connector keeps its contract: for ours, and for one of your own, in a test of yours.

    from audiollm.models.testing import check_connector, check_encoder

    def test_my_encoder_keeps_the_contract():
        check_encoder(MyEncoder, {"hidden_size": 16, ...})      # a tiny config, random weights

AssertionError says which property is broken, and for which length. Not here: equality with an original model.
Shapes: N clips, L samples, T frames, C width, K vectors, D language model width.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from audiollm.models.connectors import ConnectorSettings, Sizes
from audiollm.models.encoders.base import frames_mask
from audiollm.models.listening import LISTENING, listening

SECONDS = (0.00007, 0.02, 0.0251, 0.34, 0.7777)
"""Of the clips that an encoder hears together: shorter than any window, ragged, and long."""
FRAMES = (1, 2, 3, 16, 17, 18, 50, 101)
"""Of the clips that a connector reads together."""
Hear = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Values of a batch and their mask to what is heard and its mask."""


def check_encoder(encoder_class: type[Any], config: Any, *, tolerance: float = 1e-4) -> None:
    """AssertionError with the property that an encoder with random weights breaks.

    `config`: an object of its `config_class`, or that one's arguments; tiny, so that the check takes a second.
    `tolerance`: how far frames may differ that should be equal, relative to the largest: rounding.
    """
    for name in ("config_class", "sampling_rate", "stride", "num_frames", "hear"):
        assert hasattr(encoder_class, name), f"{encoder_class.__name__} has no {name}: subclass WaveformEncoder first"
    if isinstance(config, Mapping):
        known = {*encoder_class.config_class().to_dict(), *encoder_class.more_sizes}
        assert not (unknown := sorted(set(config) - known)), f"{unknown[0]} is not in {encoder_class.config_class}"
        config = encoder_class.config_class(**config)
    config = deepcopy(config)
    encoder = made(lambda: encoder_class(config))
    rate = encoder_class.sampling_rate
    lengths = [max(1, round(seconds * rate)) for seconds in SECONDS]
    values_NL, mask_NL = noise(lengths), frames_mask(torch.tensor(lengths), max(lengths))
    check_lengths(encoder, lengths)
    check_own_result(encoder, values_NL, mask_NL, tolerance)
    check_gradients(encoder, values_NL, mask_NL, tolerance)
    check_taps(encoder_class, encoder, values_NL, mask_NL, tolerance)
    check_windows(encoder_class, config, lengths)


def check_connector(
    connector_class: type[Any],
    settings: Mapping[str, Any] | None = None,
    *,
    sections: Sequence[int] = (16,),
    dim_out: int = 24,
    frame_rate_hz: float = 50.0,
    tolerance: float = 1e-4,
) -> None:
    """AssertionError with the property that a connector with random weights breaks.

    `settings`: what its block in a recipe says, but for the name. `sections`: widths of the layers side by side in
    the frames that it reads, for one that needs several. `tolerance`: as above.
    """
    declared = getattr(connector_class, "Settings", None)
    assert isinstance(declared, type) and issubclass(declared, ConnectorSettings), (
        f"{connector_class.__name__}.Settings must be a subclass of ConnectorSettings"
    )
    checked = declared.model_validate(settings or {})
    sizes = Sizes(sum(sections), dim_out, frame_rate_hz, tuple(sections))
    connector = made(lambda: connector_class(checked, sizes))
    assert isinstance(getattr(connector, "output", None), nn.Module), "a connector's last layer is its `output`"
    frames_NTC = torch.stack([noise([max(FRAMES)] * len(FRAMES), seed) for seed in range(sum(sections))], dim=-1)
    mask_NT = frames_mask(torch.tensor(FRAMES), max(FRAMES))
    check_counts(connector, checked, frame_rate_hz, frames_NTC, dim_out)
    check_own_result(connector, frames_NTC, mask_NT, tolerance)
    check_gradients(connector, frames_NTC, mask_NT, tolerance)
    check_last_layer(connector, frames_NTC, mask_NT, tolerance)


# ------------------------------------------------------------------------------------------------- what both must keep
def check_own_result(hear: Hear, values: Tensor, mask: Tensor, tolerance: float) -> None:
    """What is heard of a clip depends on nothing else: not on its neighbours, and not on what lies in the padding."""
    alone = each_alone(hear, values, mask)
    together = kept(*run(hear, values, mask))
    assert_same(together, alone, "a batch is not what its clips are alone", tolerance)
    extra = values.shape[1] // 3 + 7
    longer, longer_mask = pad(values, extra), pad(mask, extra)
    assert_same(kept(*run(hear, longer, longer_mask)), alone, "more padding changes a clip", tolerance)
    draw = torch.Generator().manual_seed(1)
    other = torch.where(like(mask, values), values, torch.randn(values.shape, generator=draw) * 9)
    assert_same(kept(*run(hear, other, mask)), alone, "what lies in the padding changes a clip", tolerance)


def check_gradients(module: Any, values: Tensor, mask: Tensor, tolerance: float) -> None:
    """The gradient of a batch is the sum of its clips', it is finite, and it reaches each weight."""
    together = gradients(module, [(values, mask)])
    alone = gradients(module, [cut(values, mask, number) for number in range(len(values))])
    for name, gradient in together.items():
        assert gradient is not None, f"no gradient reaches {name}: make it none of the parameters, or use it"
        assert bool(torch.isfinite(gradient).all()), f"the gradient of {name} is not finite"
    missing = [name for name, gradient in alone.items() if gradient is None]
    assert not missing, f"no gradient reaches {missing[0]} where clips are heard alone"
    scale = max(float(gradient.abs().max()) for gradient in together.values() if gradient is not None)
    assert scale > 0, "no gradient reaches any weight"
    for name, gradient in together.items():
        off = float((gradient - alone[name]).abs().max())
        assert off <= tolerance * scale, f"the gradient of {name} in a batch is not the sum of the clips' ({off:.2g})"


# --------------------------------------------------------------------------------------------------------- an encoder
def check_lengths(encoder: Any, lengths: Sequence[int]) -> None:
    """Frames are as many and as wide as is said without weights; each is a number; after a clip's end there is zero."""
    config = encoder.config.to_dict()
    stride, least = encoder.stride(config), encoder.receptive_field(config)
    borders = [least + extra for extra in (-1, 0, stride - 1, stride)]
    for length in sorted({*lengths, *borders} - {0}):
        frames_1TC, mask_1T = run(encoder, noise([length]), torch.ones(1, length, dtype=torch.bool))
        said, place = encoder.num_frames(config, length), f"for {length} samples"
        assert mask_1T.dtype == torch.bool, f"the mask is {mask_1T.dtype}, not bool"
        assert frames_1TC.shape[:2] == mask_1T.shape, f"frames {list(frames_1TC.shape)} and mask {list(mask_1T.shape)}"
        assert int(mask_1T.sum()) == said, f"num_frames says {said} {place}, and {int(mask_1T.sum())} come out"
        assert said >= 1, f"there is no frame {place}; the shortest clip needs one"
        width = encoder.width(config)
        assert frames_1TC.shape[-1] == width, f"width says {width}, and frames have {frames_1TC.shape[-1]}"
        assert bool(torch.isfinite(frames_1TC).all()), f"a frame is not finite {place}"
    per_second = encoder.num_frames(config, 100 * encoder.sampling_rate) / 100
    rate = encoder.frame_rate_hz(config)
    assert abs(per_second - rate) < 0.02 * rate, f"frame_rate_hz says {rate:g}, and {per_second:g} come a second"
    check_end(encoder, lengths)


def check_end(encoder: Any, lengths: Sequence[int]) -> None:
    """In a batch the mask of a clip is True up to its last frame, and its frames are zero after that."""
    frames_NTC, mask_NT = run(encoder, noise(lengths), frames_mask(torch.tensor(lengths), max(lengths)))
    config = encoder.config.to_dict()
    said_N = torch.tensor([encoder.num_frames(config, length) for length in lengths])
    expected_NT = frames_mask(said_N, mask_NT.shape[1])
    assert bool((mask_NT == expected_NT).all()), "in a batch, a clip's mask is not True up to its last frame alone"
    assert float((frames_NTC * ~mask_NT[..., None]).abs().max()) == 0, "frames after a clip's end are not zero"


def check_taps(encoder_class: type[Any], encoder: Any, values: Tensor, mask: Tensor, tolerance: float) -> None:
    """Layers are heard side by side in the order in which they are named; an encoder may have none that can be."""
    depth, config = encoder.num_layers(encoder.config.to_dict()), encoder.config
    if depth == 0:
        return
    width = encoder_class.layer_width(config.to_dict())
    said = listening(config.to_dict())
    heard = {}
    for taps in ([1], [-1], [-1, 1]):
        setattr(config, LISTENING, {"taps": taps})
        frames_NTC, _ = run(encoder, values, mask)
        wide = len(taps) * width
        assert frames_NTC.shape[-1] == wide, f"taps {taps} should be {wide} wide, and are {frames_NTC.shape[-1]}"
        heard[tuple(taps)] = frames_NTC
    both = torch.cat([heard[-1,], heard[1,]], dim=-1)
    differ = depth == 1 or not torch.equal(heard[-1,], heard[1,])
    assert differ, "layer 1 and the last give the same: hear() must give the layers that are asked for"
    assert_same([heard[-1, 1]], [both], "taps [-1, 1] are not layer -1 beside layer 1", tolerance)
    setattr(config, LISTENING, {"taps": [depth]})
    assert_same([run(encoder, values, mask)[0]], [heard[-1,]], f"tap -1 is not layer {depth}", tolerance)
    setattr(config, LISTENING, said.model_dump(exclude_defaults=True))


def check_windows(encoder_class: type[Any], config: Any, lengths: Sequence[int]) -> None:
    """A clip in windows, overlapping or not, has as many frames as one that is heard whole."""
    rate = encoder_class.frame_rate_hz(config.to_dict())
    encoder = made(lambda: encoder_class(config))
    said = getattr(config, LISTENING, None)
    for overlap in (0, 2):
        setattr(encoder.config, LISTENING, {"window_s": 5 / rate, "overlap_s": overlap / rate})
        frames_NTC, mask_NT = run(encoder, noise(lengths), frames_mask(torch.tensor(lengths), max(lengths)))
        expected = [encoder_class.num_frames(config.to_dict(), length) for length in lengths]
        assert mask_NT.sum(-1).tolist() == expected, f"in windows of 5 frames that share {overlap}, frames are missing"
        assert bool(torch.isfinite(frames_NTC).all()), f"in windows of 5 frames that share {overlap}, one is not finite"
    setattr(encoder.config, LISTENING, said)


# -------------------------------------------------------------------------------------------------------- a connector
def check_counts(connector: Any, settings: Any, rate: float, frames_NTC: Tensor, dim_out: int) -> None:
    """Vectors are as many as is said without weights, and as wide as the language model; each is a number."""
    for length in sorted({*FRAMES, *range(1, 20)}):
        vectors_1KD, mask_1K = run(connector, frames_NTC[:1, :length], torch.ones(1, length, dtype=torch.bool))
        said, place = connector.num_tokens(settings, length, rate), f"for {length} frames"
        assert mask_1K.dtype == torch.bool, f"the mask is {mask_1K.dtype}, not bool"
        assert vectors_1KD.shape[:2] == mask_1K.shape, f"vectors {list(vectors_1KD.shape)}, mask {list(mask_1K.shape)}"
        assert int(mask_1K.sum()) == said, f"num_tokens says {said} {place}, and {int(mask_1K.sum())} come out"
        assert said >= 1, f"there is no vector {place}; the shortest clip needs one"
        assert vectors_1KD.shape[-1] == dim_out, f"vectors are {vectors_1KD.shape[-1]} wide, not {dim_out}"
        assert bool(torch.isfinite(vectors_1KD).all()), f"a vector is not finite {place}"


@torch.no_grad()
def check_last_layer(connector: Any, frames: Tensor, mask: Tensor, tolerance: float) -> None:
    """`output` is the last layer: what scales its weights scales the vectors, by which they start as loud as text."""
    before = kept(*run(connector, frames, mask))
    for parameter in connector.output.parameters():
        parameter.mul_(2.0)
    after = kept(*run(connector, frames, mask))
    doubled = [one * 2.0 for one in before]
    assert_same(after, doubled, "`output` is not the last layer: doubled, it does not double the vectors", tolerance)


# -------------------------------------------------------------------------------------------------------------- tools
def made(make: Callable[[], Any]) -> Any:
    """A module, the same in each call; every bias and norm is off its start, behind which a missing mask could hide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make()
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.data.add_(torch.randn(parameter.shape), alpha=0.3)
    return module.eval()


def noise(lengths: Sequence[int], seed: int = 0) -> Tensor:
    """Clips of noise of different loudness [N, L], zero after each end; a clip is the same in every batch."""
    clips = [
        torch.randn(length, generator=torch.Generator().manual_seed(97 * seed + number)) * (0.1 + 0.2 * number)
        for number, length in enumerate(lengths)
    ]
    return nn.utils.rnn.pad_sequence(clips, batch_first=True)


@torch.no_grad()
def run(hear: Hear, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What is heard, without a graph."""
    return hear(values, mask)


def each_alone(hear: Hear, values: Tensor, mask: Tensor) -> list[Tensor]:
    """What is heard of each clip by itself, without padding."""
    return [kept(*run(hear, *cut(values, mask, number)))[0] for number in range(len(values))]


def cut(values: Tensor, mask: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """One clip of a batch, without padding."""
    length = int(mask[number].sum())
    return values[number : number + 1, :length], mask[number : number + 1, :length]


def kept(heard: Tensor, mask: Tensor) -> list[Tensor]:
    """What is heard of each clip, without padding."""
    return [one[keep] for one, keep in zip(heard, mask, strict=True)]


def pad(values: Tensor, extra: int) -> Tensor:
    """A batch with more padding in its second dimension."""
    return torch.cat([values, values.new_zeros(len(values), extra, *values.shape[2:])], dim=1)


def like(mask: Tensor, values: Tensor) -> Tensor:
    """A mask of a batch in the shape of its values."""
    return mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim)).expand(values.shape)


def gradients(module: Any, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """The gradient of each weight that trains, over all batches, for a sum of everything that is heard."""
    module.zero_grad(set_to_none=True)
    for values, mask in batches:
        heard, keep = module(values, mask)
        assert heard.requires_grad, "what comes out has no gradient: it is detached, or nothing before it trains"
        weights = torch.linspace(0.5, 1.5, heard.shape[-1])
        (heard[keep] * weights).square().sum().backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    found = {name: None if gradient is None else gradient.clone() for name, gradient in found.items()}
    module.zero_grad(set_to_none=True)
    return found


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor], broken: str, tolerance: float) -> None:
    """AssertionError that says what is broken, by how much, and in which clip."""
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one.shape == other.shape, f"{broken}: clip {number} is {list(one.shape)}, not {list(other.shape)}"
        off = float((one - other).abs().max())
        allowed = tolerance * max(1.0, float(other.abs().max()))
        assert off <= allowed, f"{broken}: clip {number} ({len(other)} long) differs by {off:.2g}"

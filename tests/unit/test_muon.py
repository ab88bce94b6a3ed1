"""Muon steps as torch's own does, and as AdamW where it has no matrix."""

import pytest
import torch
from torch import nn

from audiollm.training import muon
from audiollm.training.muon import Muon, by_its_square, by_itself, matrices, orthogonal

SHAPES = [(48, 32), (48, 32), (32, 48), (32, 32)]


def parameters(shapes, seed=0):
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def run(optimizer, trained, steps=3):
    """Steps with the same gradients for everybody."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in trained:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_matrices_move_as_under_the_muon_of_torch(monkeypatch):
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    in_bfloat16 = lambda given, dtype: orthogonal(given, torch.bfloat16)  # noqa: E731  (as torch computes)
    settings = {"lr": 0.01, "weight_decay": 0.1}
    run(torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw"), theirs)
    monkeypatch.setattr(muon, "orthogonal", in_bfloat16)
    run(Muon([{"params": ours, "muon": True}], **settings), ours)
    for one, other, start in zip(ours, theirs, parameters(SHAPES), strict=True):
        assert (one - other).norm() < 0.01 * (other - start).norm()


def test_everything_else_moves_as_under_adamw():
    shapes = [(7,), (4, 5), (3, 2, 2)]
    ours, theirs = parameters(shapes), parameters(shapes)
    settings = {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}
    run(torch.optim.AdamW(theirs, **settings), theirs)
    run(Muon(ours, **settings), ours)
    assert all(one.equal(other) for one, other in zip(ours, theirs, strict=True))


def test_groups_of_both_kinds_keep_their_own_rates_and_what_has_no_gradient_stays():
    matrix, bias, idle = parameters([(8, 4), (8,), (8, 4)])
    before = idle.clone()
    groups = [{"params": [matrix, idle], "muon": True, "lr": 0.0}, {"params": [bias], "lr": 0.5}]
    optimizer = Muon(groups, lr=0.1)
    start = [matrix.clone(), bias.clone()]
    run(optimizer, [matrix, bias])
    assert matrix.equal(start[0]) and not bias.isclose(start[1]).any() and idle.equal(before)
    assert len(optimizer.param_groups) == 2 and optimizer.state[matrix].keys() == {"momentum_buffer"}


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (40, 40)])
def test_an_update_keeps_singular_vectors_and_has_singular_values_near_one(shape):
    torch.manual_seed(0)
    given = torch.randn(3, *shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(given, full_matrices=False)
    found = u.mT @ orthogonal(given, torch.float64) @ v.mT
    values = found.diagonal(dim1=1, dim2=2)
    assert (found - torch.diag_embed(values)).abs().max() < 1e-9
    large = s / s.norm(dim=1, keepdim=True) > 0.02  # smaller ones are still on their way after five rounds
    assert values[large].min() > 0.6 and values.max() < 1.25


def test_rounds_on_the_square_give_what_rounds_on_the_matrix_give():
    torch.manual_seed(0)
    wide = torch.randn(4, 32, 128)
    wide[:, 1] = wide[:, 0] * 1.001  # of nearly lower rank
    wide /= wide.norm(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(by_its_square(wide), by_itself(wide), rtol=1e-3, atol=1e-4)


def test_it_moves_linear_layers_that_train_and_nothing_that_embeds_or_gives_logits():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Embedding(9, 4), nn.LayerNorm(4)
            self.middle, self.frozen, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 9)
            self.frozen.requires_grad_(False)

        def get_output_embeddings(self):
            return self.head

    model = nn.ModuleDict({"audio": nn.Sequential(nn.Conv1d(2, 2, 3), nn.Linear(2, 4)), "words": Language()})
    assert matrices(model) == {model["audio"][1].weight, model["words"].middle.weight}
    tied = Language()
    tied.middle.weight = tied.embed.weight
    assert matrices(tied) == set()

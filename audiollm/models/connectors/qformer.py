"""Learned queries that read frames: their settings, and the Q-Former that three connectors are made of.

The transformer is transformers' `Blip2QFormerModel`; the queries are ours.
"""

from typing import Any, Self

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from audiollm.models.connectors.base import ConnectorSettings


class QuerySettings(ConnectorSettings):
    """What a connector's block may say if learned queries read its frames."""

    num_queries: PositiveInt = 64
    """Learned queries a window, which is also the number of audio tokens that a window costs."""
    query_std: PositiveFloat = 1.0
    """Standard deviation from which the queries start."""
    window_s: PositiveFloat | None = None
    """Seconds of a clip that the queries read at a time; null reads the whole clip, however long, with one set."""
    hidden_size: PositiveInt = 768
    """Width inside."""
    num_layers: PositiveInt = 2
    """Layers."""
    num_heads: PositiveInt = 12
    """Attention heads."""
    intermediate_size: PositiveInt = 3072
    """Inner width of the feed-forward part."""

    @model_validator(mode="after")
    def heads_divide_width(self) -> Self:
        """Refuse a width that the heads cannot share."""
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"connector.hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}"
            )
        return self


class QFormerSettings(QuerySettings):
    """The same, for a Q-Former: queries that attend to each other and to the frames, and feed-forward parts."""

    dropout: NonNegativeFloat = 0.1
    """Dropout inside the Q-Former, in training."""


def make_queries(settings: QuerySettings, sets: int = 1) -> nn.Parameter:
    """Learned queries [sets, Q, H]."""
    queries = torch.empty(sets, settings.num_queries, settings.hidden_size)
    return nn.Parameter(nn.init.normal_(queries, std=settings.query_std))


def make_qformer(settings: QFormerSettings, dim_in: int, cross_attention_every: int = 1) -> Any:
    """A new Q-Former that reads frames of width `dim_in` in its first layer and in every n-th from there."""
    config = Blip2QFormerConfig(
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=settings.intermediate_size,
        encoder_hidden_size=dim_in,
        cross_attention_frequency=cross_attention_every,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
    )
    return Blip2QFormerModel(config)

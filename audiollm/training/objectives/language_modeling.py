"""Next-token prediction of the assistant's words; the loss itself is the model's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from audiollm.conversation import Row
from audiollm.models.modeling import IGNORE_INDEX
from audiollm.training.objectives.base import ARGUMENTS, Heard, Objective


class LanguageModeling(Objective):
    """Cross-entropy over supervised tokens."""

    needs = "rows in which the assistant answers, and that are not all marked `loss: false`"
    needs_text = True

    @classmethod
    def has_items(cls, settings: Any, rows: Sequence[Row]) -> bool:
        """Whether any answer is to be learned."""
        return any(message.role == "assistant" and message.loss for row in rows for message in row.messages)

    def count(self, batch: Mapping[str, Any]) -> int:
        """Supervised tokens."""
        return int((batch["shift_labels"] != IGNORE_INDEX).sum())

    def forward(self, heard: Heard, batch: Mapping[str, Any], num_items: Tensor) -> Tensor:
        """Nats a supervised token."""
        if heard.hidden_BSD is not None:
            model: Any = heard.model
            return model.loss(heard.hidden_BSD, batch["shift_labels"], num_items)
        arguments = {name: batch[name] for name in ARGUMENTS if name in batch}
        return heard.model(**arguments, num_items_in_batch=num_items).loss

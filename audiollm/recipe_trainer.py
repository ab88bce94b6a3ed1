"""The `trainer:` block of a stage: keys of transformers' TrainingArguments, but those that this package owns.

Not here: what becomes of them (training/).
"""

import dataclasses
import enum
import functools
import typing
from typing import Any

from pydantic import TypeAdapter, ValidationError

from audiollm.models.settings import nearest, refuse, refuse_unknown

OWNED_TRAINER_KEYS = {
    "output_dir": "say it at the top of the recipe: `output: FOLDER`",
    "seed": "say it at the top of the recipe: `seed: 1`",
    "data_seed": "say it at the top of the recipe: `seed: 1`",
    "disable_tqdm": "progress is shown where there is a terminal",
    "run_name": "a run is named after the recipe's `name` and the stage",
    "deepspeed": "say it on the command line: `audiollm train RECIPE --deepspeed zero2`",
    "fsdp": "say it on the command line: `audiollm train RECIPE --fsdp`",
    "fsdp_config": "FSDP2 is applied by this package: `audiollm train RECIPE --fsdp`",
    "parallelism_config": "say it to the launcher, such as `accelerate launch`",
    "accelerator_config": "the batches are made, and dealt to the ranks, by this package",
    "local_rank": "the launcher says it",
    "fp16": "`bf16: true` halves memory too, and its range needs no scaling of the loss",
    "do_train": "a stage trains; leave it out",
    "do_eval": "give the stage rows to validate on: `data: {validation: [{path: ...}]}`",
    "do_predict": "list the rows under `evaluate:` at the top of the recipe",
    "save_strategy": "a stage saves every `save_steps` and at its end",
    "save_only_model": "a checkpoint always holds what an exact resume needs; a finished stage keeps the model alone",
    "save_on_each_node": "a checkpoint is written once",
    "enable_jit_checkpoint": "give the same command again: an interrupted stage continues from its last checkpoint",
    "resume_from_checkpoint": "give the same command again: an interrupted stage continues from its last checkpoint",
    "ignore_data_skip": "a resumed stage goes on at the very row where it stopped",
    "restore_callback_states_from_checkpoint": "a resumed stage always does",
    "load_best_model_at_end": "with validation rows a stage always keeps its best checkpoint",
    "metric_for_best_model": "the best checkpoint is the one of the lowest validation loss",
    "greater_is_better": "the best checkpoint is the one of the lowest validation loss",
    "remove_unused_columns": "what reaches the model is decided by this package",
    "label_names": "what reaches the model is decided by this package",
    "length_column_name": "the lengths of rows are known to this package",
    "train_sampling_strategy": "use `data: {pack_tokens: ...}` of the stage, and the `weight` of its sources",
    "label_smoothing_factor": "the loss is that of the stage's `objectives:`",
    "prediction_loss_only": "validation of a stage is its loss; answers are scored by `evaluate:`",
    "include_for_metrics": "validation of a stage is its loss; answers are scored by `evaluate:`",
    "batch_eval_metrics": "validation of a stage is its loss; answers are scored by `evaluate:`",
    "eval_do_concat_batches": "validation of a stage is its loss; answers are scored by `evaluate:`",
    "eval_use_gather_object": "validation of a stage is its loss; answers are scored by `evaluate:`",
    "include_num_input_tokens_seen": "tokens and seconds of audio are always counted",
    **dict.fromkeys(
        [
            "push_to_hub",
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
        ],
        "training never uploads; share a finished checkpoint yourself",
    ),
}
"""Keys of TrainingArguments that a recipe cannot set, and the right place to say each (hub_* is as push_to_hub)."""

MORE_THAN_0 = frozenset(
    ("num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size", "adam_epsilon",
     "gradient_accumulation_steps", "logging_steps", "save_steps", "eval_steps", "save_total_limit")
)  # fmt: skip
AT_LEAST_0 = frozenset(("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "dataloader_num_workers"))

MUON = "muon"
"""An `optim` of this package's own (training/muon.py)."""


def check_trainer(values: dict[str, Any]) -> dict[str, Any]:
    """The trainer block, its numbers read as numbers; refuses unknown keys, keys that we own and wrong values."""
    known = trainer_types()
    owned = {key: f"is not set here: {place}" for key in values if (place := owner(key))}
    if owned:
        refuse(owned, title="trainer")
    refuse_unknown(values, [*known], title="trainer", what="a setting of transformers' TrainingArguments")
    return {key: check_trainer_value(key, value, known[key]) for key, value in values.items()}


def owner(key: str) -> str | None:
    """Where to say what the key would say, if it is one that we own."""
    return OWNED_TRAINER_KEYS.get("push_to_hub" if key.startswith("hub_") else key)


def check_trainer_value(key: str, value: Any, expected: Any) -> Any:
    """The value as TrainingArguments expects it: a number that was written as text becomes one."""
    choices = [str(member.value) for kind in typing.get_args(expected) if is_enum(kind) for member in kind]
    choices += [MUON] if key == "optim" else []
    if choices and value not in choices:
        refuse({key: f"has no value {value!r}; {nearest(value, choices)}"}, title="trainer")
    if key == "optim" and value == MUON:
        return value
    try:
        read = TypeAdapter(expected).validate_python(value)
    except ValidationError as error:
        cause = error.errors()[0]["msg"]
        refuse({key: f"{cause[:1].lower()}{cause[1:]}, and not {value!r}"}, title="trainer")
    if key in MORE_THAN_0 and not read > 0:
        refuse({key: f"must be more than 0, and is {value}"}, title="trainer")
    if key in AT_LEAST_0 and read < 0:
        refuse({key: f"must be at least 0, and is {value}"}, title="trainer")
    if key == "max_steps" and read < 1 and read != -1:
        refuse(
            {key: f"must be at least 1 (or -1, which leaves it to num_train_epochs), and is {value}"}, title="trainer"
        )
    return read if isinstance(value, str) and isinstance(read, int | float) else value


def is_enum(kind: Any) -> bool:
    """Whether a type is a closed list of words."""
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


@functools.cache
def trainer_types() -> dict[str, Any]:
    """Every key of TrainingArguments that a recipe may set, and its type."""
    from transformers import TrainingArguments

    fields = {field.name: field.type for field in dataclasses.fields(TrainingArguments)}
    return {name: kind for name, kind in fields.items() if owner(name) is None}


@functools.cache
def default_learning_rate() -> float:
    """What TrainingArguments takes when nobody says."""
    from transformers import TrainingArguments

    return float(TrainingArguments.learning_rate)

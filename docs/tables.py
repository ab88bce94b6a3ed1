"""What the documentation generates from the package when it is built: tables, and the code of its examples.

    <!-- table: connectors -->      in a page becomes that table
    --8<-- encoder                  in a block becomes that part of examples/loudness.py

`python docs/tables.py connectors` prints one. mkdocs calls `on_page_markdown`.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package of this checkout

from audiollm.resources import about_recipe, packaged_files

DOCS = Path(__file__).parent
SHARED = "tests/integration/test_shared_audio.py::"
LAYOUTS = "tests/integration/test_layouts.py::"
QUANTIZED = "tests/integration/test_quantized.py::"
RANKS = "tests/distributed/test_ranks.py::"
SUPPORT = (
    ("questions share their audio", "attention by blocks (default), SDPA, eager", "Llama, Qwen2, Qwen3, Mistral, Phi3, Gemma 2 and 3, Granite, SmolLM3, OLMo2; with a sliding window or without", f"{SHARED}test_packed_questions_have_the_loss_and_gradients_of_separate_rows"),
    ("questions share their audio", "flex attention, forward alone", "Qwen3, Mistral, Qwen2, Gemma 2 and 3, Granite", f"{LAYOUTS}test_flex_attention_has_the_loss_of_eager_attention"),
    ("questions share their audio", "flex attention, training", "Qwen3, Mistral, Qwen2", ""),
    ("questions one after another", "flash attention 2", "Qwen3, Mistral, Qwen2", f"{LAYOUTS}test_under_flash_attention_questions_stand_one_after_another_told_apart_by_lengths"),
    ("each question a row", "the model's own", "Qwen3-Next, Qwen3.5, Mamba2, Bamba, Jamba, Falcon-H1, Granite 4, LFM2", f"{LAYOUTS}test_questions_of_a_model_that_takes_no_mask_are_rows_with_the_loss_and_gradients_of_each_alone"),
    ("LoRA", "blocks, SDPA, eager", "Qwen3", f"{SHARED}test_adapters_are_trained_exactly"),
    ("LoRA on nf4, int8", "blocks, eager", "Qwen3", f"{SHARED}test_adapters_on_a_quantised_language_model_are_trained_exactly"),
    ("recomputed activations", "nf4, int8", "Qwen3", f"{SHARED}test_recomputed_activations_of_a_quantised_language_model_are_exact"),
    ("DDP, ZeRO-2, ZeRO-3, FSDP2", "LoRA and connector, killed and gone on", "Qwen3", f"{RANKS}test_two_ranks_that_were_killed_train_what_one_trains"),
    ("ZeRO-1, ZeRO-2 and -3 with offload", "two steps", "Qwen3", f"{RANKS}test_two_ranks_train_two_steps_as_one_does"),
    ("DDP, nf4", "LoRA and connector", "Qwen3", f"{RANKS}test_two_ranks_train_adapters_on_four_bits_as_one_does"),
    ("ZeRO, FSDP2 with nf4 or int8", "refused: its weights cannot be cut", "", f"{QUANTIZED}test_a_quantised_language_model_is_not_cut_into_shards"),
    ("Muon", "DDP", "Qwen3", f"{RANKS}test_two_ranks_train_by_muon_as_one_does"),
    ("bfloat16 bases, float32 for what trains", "nf4 or none, stopped and gone on", "Qwen3", f"{QUANTIZED}test_a_stopped_run_in_bfloat16_ends_with_the_same_bits"),
    ("AdamW in 8 bits", "stopped and gone on", "Qwen3", f"{QUANTIZED}test_adamw_in_8_bits_trains_and_goes_on_exactly"),
    ("anything at full size, or on a GPU", "", "", ""),
)  # fmt: skip
"""What, with what, on which language models, and the test that runs it; "" where none does."""


def markdown(columns: tuple[str, ...], lines: Any) -> str:
    """A Markdown table."""
    rows = ["| " + " | ".join(map(str, line)) + " |" for line in (columns, ["---"] * len(columns), *lines)]
    return "\n".join(rows)


def recipes() -> str:
    """The recipes that come with the package."""
    found = ((f"`{name}`", about["about"], about.get("cost", "")) for name, about in every_recipe())
    return markdown(("recipe", "what", "cost"), found)


def every_recipe() -> list[tuple[str, dict[str, str]]]:
    """Name, and what each says of itself."""
    return [(name, about_recipe(path)) for name, path in packaged_files("recipes").items()]


def encoders() -> str:
    """The encoders by the name that a recipe gives them."""
    from audiollm.models.encoders import ENCODERS

    lines = []
    for name, cls in sorted(ENCODERS.items()):
        about = str(cls.__doc__).strip().splitlines()[0]
        lines.append((f"`{name}`", about))
    return markdown(("name", "what"), lines)


def connectors() -> str:
    """Every connector in its published forms."""
    from audiollm.models.connectors.table import table

    return table()


def native() -> str:
    """Audio language models of transformers that train as they are."""
    from audiollm.models.native import support_table

    return support_table()


def support() -> str:
    """What was tried together, and by which test."""
    lines = [
        (what, with_what, models, f"tested: `{test.rpartition('::')[2]}`" if test else "untested")
        for what, with_what, models, test in SUPPORT
    ]
    return markdown(("what", "with", "language models", ""), lines)


TABLES: dict[str, Callable[[], str]] = {
    "recipes": recipes,
    "encoders": encoders,
    "connectors": connectors,
    "native": native,
    "support": support,
}


def example(name: str) -> str:
    """A part of the examples, between its two marks."""
    whole = "".join(path.read_text() for path in sorted((DOCS / "examples").glob("*.py")))
    found = re.search(rf"# --8<-- \[start:{name}\]\n(.*?)\n*# --8<-- \[end:{name}\]", whole, re.DOTALL)
    assert found, f"no example {name}"
    return re.sub(r"  # noqa: \w+", "", found.group(1))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its tables and examples filled in."""
    filled = re.sub(r"<!-- table: (\w+) -->", lambda found: TABLES[found.group(1)](), markdown)
    return re.sub(r"^--8<-- (\w+)$", lambda found: example(found.group(1)), filled, flags=re.MULTILINE)


if __name__ == "__main__":
    print(TABLES[sys.argv[1]]())

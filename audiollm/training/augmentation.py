"""The augmentation of a stage: its settings, and the recordings that are mixed in.

What is drawn follows from the seed, the epoch and the clip, so that ranks, workers and a resume play no part.
Not here: what is done to the sound (data/augment.py).
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from audiollm import audio
from audiollm.data.augment import AugmentSettings, Material, augment, check_material, most_samples
from audiollm.data.formats import RECORDINGS
from audiollm.recipe import Recipe


class Folder(Sequence[np.ndarray]):
    """The recordings of a folder, decoded when they are asked for."""

    def __init__(self, paths: Sequence[Path], rate: int) -> None:
        self.paths, self.rate = paths, rate

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]
        return decoded(self.paths[number], self.rate)


@lru_cache(maxsize=256)
def decoded(path: Path, rate: int) -> np.ndarray:
    """The samples of a recording to mix in."""
    return audio.load(path, rate)


class Augmenter:
    """Changes clips in training as the settings say; `rate` is the model's."""

    def __init__(self, settings: AugmentSettings, material: Material) -> None:
        self.settings, self.material = settings, material
        check_material(settings, material)

    def __call__(self, samples: np.ndarray, rate: int, seed_parts: tuple[int, ...]) -> np.ndarray:
        """Samples [L] as they are heard this time."""
        return augment(samples, rate, self.settings, seed_parts, *self.material)[0]

    def longest(self, num_samples: int, rate: int) -> int:
        """How many samples a clip of so many may become."""
        return most_samples(num_samples, rate, self.settings)

    def __str__(self) -> str:
        """What is done, and how often."""
        rules = ((name, getattr(self.settings, name)) for name in AugmentSettings.model_fields)
        shares = ((name, getattr(rule, "probability", 0)) for name, rule in rules)
        return ", ".join(f"{name} {share:.0%}" for name, share in shares if share)


def augmenter_of(recipe: Recipe, name: str, rate: int) -> Augmenter | None:
    """The augmentation of a stage; RecipeError for a folder without recordings, or one that is not named and needed."""
    block = recipe.stages[name].data.augment
    if block is None:
        return None
    folders = {key: found(recipe, f"stages.{name}.data.augment.{key}", getattr(block, key)) for key in Material._fields}
    try:
        return Augmenter(block, Material(**{key: Folder(paths, rate) for key, paths in folders.items()}))
    except ValueError as error:
        raise recipe.error(f"stages.{name}.data.augment", str(error)) from None


def found(recipe: Recipe, key: str, folder: str | None) -> list[Path]:
    """The recordings of a folder, in the order of their names."""
    if folder is None:
        return []
    paths = sorted(path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in RECORDINGS)
    if not paths:
        raise recipe.error(key, f"is {folder}, in which there is no recording")
    return paths

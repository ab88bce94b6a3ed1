"""Finds the recipes, data converters and DeepSpeed settings that come with the package, by name.

In a checkout and in an editable install they lie beside the package; a wheel carries them in `audiollm/_packaged/`.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal

from audiollm.models.settings import nearest

Kind = Literal["recipes", "data_prep", "ds_configs"]

WORDS: dict[Kind, str] = {"recipes": "recipes", "data_prep": "converters", "ds_configs": "DeepSpeed settings"}
SUFFIXES: dict[Kind, str] = {"recipes": ".yaml", "data_prep": ".py", "ds_configs": ".json"}


def find_packaged(kind: Kind, name: str) -> Path:
    """The file (or the folder of a converter) behind a name; FileNotFoundError names the nearest known one.

    `find_packaged("recipes", "quickstart")` is .../recipes/quickstart/recipe.yaml.
    """
    known = packaged_files(kind)
    if name not in known:
        raise FileNotFoundError(f"there is no {name!r} among the packaged {WORDS[kind]}; {nearest(name, known)}")
    return known[name]


def packaged_files(kind: Kind) -> dict[str, Path]:
    """Every packaged name of a kind, and its file.

    A folder stands for its recipe.yaml or its __init__.py, and a further recipe is called FOLDER/FILE.
    """
    folder = packaged_folder(kind)
    opener = {"recipes": "recipe.yaml", "data_prep": "__init__.py", "ds_configs": ""}[kind]
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"*{SUFFIXES[kind]}")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.name == opener:
            found[path.parent.relative_to(folder).as_posix()] = path.parent if kind == "data_prep" else path
        elif kind == "recipes" or path.parent == folder:
            found[name] = path
    return {name: path for name, path in found.items() if name != "." and not name.startswith("_")}


def packaged_folder(kind: Kind) -> Path:
    """Where the files of a kind lie: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_packaged" / kind, here.parent / kind):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"this installation of audiollm has no {kind}/; install the wheel, or work from a checkout")


def opening_line(path: Path) -> str:
    """What a file says of itself: its first comment."""
    first = next(iter(path.read_text(encoding="utf-8").splitlines()), "")
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def about_recipe(path: Path) -> dict[str, str]:
    """What a recipe's opening comment says: `about`, and the lines Run, Cost and Expect by their names."""
    found = {"about": opening_line(path)}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        if not line.startswith("# "):
            break
        word, _, rest = line[2:].partition(":")
        found[word.strip().lower()] = rest.strip()
    return found


def deepspeed_file(name_or_file: str) -> Path:
    """DeepSpeed settings by packaged name, such as zero2, or by path."""
    path = Path(name_or_file)
    return path if path.is_file() else find_packaged("ds_configs", name_or_file)


def import_converter(name: str) -> ModuleType:
    """The module `data_prep.NAME`, wherever its file lies.

    The package `data_prep` is registered from the folder that `packaged_folder` finds, so that a folder of that name
    where the user happens to work is never taken for it. The folder's parent is added at the end of `sys.path`, so
    that worker processes find the same modules.
    """
    find_packaged("data_prep", name)
    folder = packaged_folder("data_prep")
    if str(folder.parent) not in sys.path:
        sys.path.append(str(folder.parent))
    if "data_prep" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "data_prep", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules["data_prep"] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"data_prep.{name}")

"""Reads recipe files and the command line into one mapping, and remembers who said what, on which line.

A recipe may stand on another (`base:`), and the command line stands on both; what comes later wins:

    base: quickstart   ->   recipes/mine/recipe.yaml   ->   stages.align.trainer.max_steps=20

Not here: which keys there are and what they mean (recipe.py).
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from audiollm.models.settings import nearest
from audiollm.resources import find_packaged

Key = tuple[str, ...]
"""Where a value stands: ("stages", "align", "train"); list items by their number."""

FRESH_WHEN_RENAMED = {("model", "encoder"), ("model", "connector")}
"""Blocks whose settings belong to their `name`: another name drops what was said for the one before."""


class RecipeError(ValueError):
    """A recipe cannot be used; the message says where it is written, what is wrong and what to write instead."""


@dataclass(frozen=True)
class Origin:
    """Who said a value (`said`), where in words for a message (`where`), and whether it is a mapping of others."""

    said: str
    where: str
    is_block: bool = False


@dataclass
class Layers:
    """Settings laid over each other, and the origin of each."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, Origin] = field(default_factory=dict)
    where: str = "recipe"

    def lay(self, values: Mapping[str, Any], said: str, where: Mapping[Key, str]) -> None:
        """Lay `values` over what is there: mappings merge, anything else replaces."""
        self._merge(self.values, values, (), said, where)

    def origin(self, key: Key, value: Any) -> str:
        """Who said the value of `key`: what the dry run prints beside it.

        `ctc: 0.3` is short for `ctc: {weight: 0.3}`: there the value is found under a shorter key.
        """
        for length in range(len(key), 0, -1):
            origin = self.origins.get(key[:length])
            if origin is not None:
                is_said = length == len(key) or (not origin.is_block and self.at(key[:length]) == value)
                return origin.said if is_said else "default"
        return "default"

    def at(self, key: Key) -> Any:
        """The value of a key that has an origin."""
        value: Any = self.values
        for name in key:
            value = value[int(name)] if isinstance(value, list) else value[name]
        return value

    def where_is(self, key: Key) -> str:
        """File and line of a key, or of the nearest block around it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.origins:
                return self.origins[key[:length]].where
        return self.where

    def _merge(self, below: Any, above: Any, path: Key, said: str, where: Mapping[Key, str]) -> None:
        for name, value in above.items():
            key = (*path, name)
            slot = _list_index(below, name, key, where) if isinstance(below, list) else name
            old = below[slot] if isinstance(below, list) else below.get(slot)
            if _merges(old, value, key):
                self._merge(old, value, key, said, where)
            else:
                before = self.origins.get(key)
                below[slot] = value
                if said == "command line" and before is not None and not before.said.startswith(said):
                    self._note(key, value, f"{said} ({before.said.replace(': ', ' ')}: {old})", where)
                else:
                    self._note(key, value, said, where)

    def _note(self, key: Key, value: Any, said: str, where: Mapping[Key, str]) -> None:
        """Forget what was known of `key` and all below it; note who says it now."""
        self.origins = {k: origin for k, origin in self.origins.items() if k[: len(key)] != key}
        for inner, is_block in _walk(value, key):
            lines = (where[inner[:n]] for n in range(len(inner), 0, -1) if inner[:n] in where)
            self.origins[inner] = Origin(said, next(lines, self.where), is_block)


def read_layers(name_or_path: str | Path, overrides: Sequence[str]) -> Layers:
    """A recipe with the recipes that it stands on, and the command line over them, as written (not yet resolved)."""
    layers = Layers()
    for file, said in reversed(list(_chain(find_recipe(name_or_path)))):
        values, lines = read_yaml(file)
        if said != "recipe":
            values.pop("name", None)  # a recipe has its own name, or it would write into the base's run folder
        layers.where = show_path(file)
        layers.lay(values, said, {key: f"{show_path(file)}:{line}" for key, line in lines.items()})
    for item in overrides:
        values = _read_override(item)
        _require_stages(layers, item, values)
        layers.lay(values, "command line", {key: "command line" for key, _ in _walk(values, ())})
    return layers


def resolve(layers: Layers) -> dict[str, Any]:
    """The values with every `${...}` filled in; RecipeError for one that points nowhere."""
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(layers.values), resolve=True)
    except OmegaConfBaseException as error:
        key = tuple(str(error.full_key or "").replace("[", ".").replace("]", "").split("."))
        cause = str(error).splitlines()[0]
        raise RecipeError(
            f"{layers.where_is(key)}: {'.'.join(key)}: {cause}; "
            "${name}, ${data}, ${seed} and any other key of the recipe can stand in ${...}"
        ) from error
    layers.values = with_text_keys(resolved)
    return layers.values


def find_recipe(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """A recipe by path (file, or folder with recipe.yaml; relative to `folder`) or by its packaged name."""
    path = Path(folder or ".", name_or_path)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml"):
        raise RecipeError(f"there is no recipe {show_path(path)}")
    try:
        return find_packaged("recipes", str(name_or_path))
    except FileNotFoundError as error:
        raise RecipeError(f"{error}; or give the path of a recipe file") from error


def read_yaml(file: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    """The values of a YAML file, and the line of each key; RecipeError with file and line if it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(f"{show_path(file)}: a recipe is a mapping of settings, such as `name: my-model`")
        values = OmegaConf.to_container(OmegaConf.create(text))  # its safe YAML loader also reads 2e-3 as a number
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{show_path(file)}{line}: not YAML: {error.problem}") from error
    except (OmegaConfBaseException, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{show_path(file)}: {str(error).splitlines()[0]}") from error
    return with_text_keys(values), dict(_lines(node))


def with_text_keys(value: Any) -> Any:
    """The same with every key as text: `0: a` and `"0": a` are one key."""
    if isinstance(value, dict):
        return {str(key): with_text_keys(inner) for key, inner in value.items()}
    return [with_text_keys(item) for item in value] if isinstance(value, list) else value


def show_path(path: Path) -> str:
    """The path as a reader would type it: relative where that is shorter."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _chain(file: Path) -> Iterator[tuple[Path, str]]:
    """The recipe, then its base, then the base of that."""
    seen: list[Path] = []
    said = "recipe"
    while True:
        if file.resolve() in seen:
            raise RecipeError(f"{show_path(file)}: `base:` leads back to this file")
        seen.append(file.resolve())
        yield file, said
        values, lines = read_yaml(file)
        base = values.get("base")
        if base is None:
            return
        try:
            file = find_recipe(str(base), file.parent)
        except RecipeError as error:
            raise RecipeError(f"{show_path(file)}:{lines[('base',)]}: base: {error}") from error
        said = f"base: {base}"


def _read_override(item: str) -> dict[str, Any]:
    key, equals, value = item.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"command line: {item!r} is not of the form key=value, such as seed=1")
    try:
        return with_text_keys(OmegaConf.to_container(OmegaConf.from_dotlist([item])))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        if value[:1] in ("[", "{", "'", '"'):
            raise RecipeError(f"command line: the value of {item!r} is not YAML") from error
        return _read_override(f"{key}={json.dumps(value)}")  # plain text, such as rows: path=*.jsonl


def _require_stages(layers: Layers, item: str, values: Mapping[str, Any]) -> None:
    """A setting of a stage that the recipe does not have is misspelt; a whole stage may be added."""
    known = layers.values.get("stages")
    named = values.get("stages")
    if isinstance(known, dict) and isinstance(named, dict) and item.partition("=")[0].count(".") > 1:
        for name in named:
            if name not in known:
                raise RecipeError(f"command line: {item}: there is no stage {name!r}; {nearest(name, known)}")


def _merges(old: Any, new: Any, key: Key) -> bool:
    if not isinstance(new, dict) or not new:
        return False
    if isinstance(old, list):
        return all(str(name).isdigit() for name in new)
    if not isinstance(old, dict):
        return False
    return key not in FRESH_WHEN_RENAMED or new.get("name", old.get("name")) == old.get("name")


def _list_index(items: list[Any], name: Any, key: Key, where: Mapping[Key, str]) -> int:
    if int(name) >= len(items):
        raise RecipeError(
            f"{where.get(key, 'recipe')}: {'.'.join(key)}: the list has {len(items)} entries, numbered from 0; "
            "give the whole list to make it longer"
        )
    return int(name)


def _walk(value: Any, key: Key) -> Iterator[tuple[Key, bool]]:
    """Every key of a value, and whether it is a block of others."""
    inner: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        inner = iter(value.items())
    elif isinstance(value, list):
        inner = iter(enumerate(value))
    children = list(inner)
    if key:
        yield key, bool(children)
    for name, child in children:
        yield from _walk(child, (*key, str(name)))


def _lines(node: yaml.Node, key: Key = ()) -> Iterator[tuple[Key, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, str(name.value))
            yield inner, name.start_mark.line + 1
            yield from _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, str(index)), value.start_mark.line + 1
            yield from _lines(value, (*key, str(index)))

"""Every recipe that is shipped loads, tells its story, and says nothing that is not read."""

import ast
import json
from collections.abc import Iterator

import yaml
from repository import ROOT, modules

from audiollm.models.connectors import CONNECTORS
from audiollm.models.settings import Settings
from audiollm.recipe import ObjectiveName, Recipe, load_recipe
from audiollm.resources import packaged_files
from audiollm.training.objectives import OBJECTIVES

RECIPE_FILES = ("audiollm/recipe.py", "audiollm/recipe_files.py", "audiollm/recipe_trainer.py")
READ_WHILE_LOADING = {"base", "lora", "encoder_lora"}  # lora: as `adapters`, with its defaults


def test_every_recipe_loads_and_loads_again_as_it_is_kept(tmp_path):
    for name, path in packaged_files("recipes").items():
        recipe = load_recipe(name)
        kept = tmp_path / "recipe.yaml"
        kept.write_text(recipe.to_yaml())
        assert load_recipe(kept).model_dump(exclude={"base"}) == recipe.model_dump(exclude={"base"}), path


def test_every_recipe_opens_by_saying_what_it_is_and_has_a_readme():
    for path in packaged_files("recipes").values():
        assert path.read_text().startswith("# "), path
        assert (path.parent / "README.md").is_file(), path


def test_every_recipe_knows_its_stages_objectives():
    for name in packaged_files("recipes"):
        for stage, settings in load_recipe(name).stages.items():
            for objective, block in settings.objectives.items():
                settings = OBJECTIVES[objective].Settings.model_validate(block.model_dump())
                assert settings.weight == block.weight, f"{name}: {stage}"


def test_objectives_are_those_of_the_recipe():
    assert set(ObjectiveName.__args__) == set(OBJECTIVES)


def test_deepspeed_settings_are_about_hardware():
    for path in packaged_files("ds_configs").values():
        settings = json.loads(path.read_text())
        assert not {"optimizer", "scheduler"} & settings.keys(), f"{path}: science belongs to the recipe"


def test_yaml_files_are_formatted_for_people():
    for path in (ROOT / "recipes").rglob("*.yaml"):
        assert yaml.safe_load(path.read_text()), path
        assert max(map(len, path.read_text().splitlines())) <= 160, path


def test_every_setting_is_read_somewhere():
    read_of_recipe = names_read(skip=RECIPE_FILES)
    read_anywhere = names_read()
    unread = {}
    for cls in settings_of(Settings):
        read = read_of_recipe if cls.__module__ == Recipe.__module__ else read_anywhere
        unread[cls.__qualname__] = set(cls.model_fields) - read - READ_WHILE_LOADING
    assert not {name: fields for name, fields in unread.items() if fields}, "nothing reads these"


def test_every_setting_is_documented():
    for cls in settings_of(Settings):
        assert cls.__doc__, cls
        for name, field in cls.model_fields.items():
            assert field.description, f"{cls.__qualname__}.{name}"


def settings_of(base: type[Settings]) -> Iterator[type[Settings]]:
    """Every settings class of the package."""
    assert CONNECTORS and OBJECTIVES  # they declare theirs when imported
    for cls in base.__subclasses__():
        if cls.__module__.startswith("audiollm."):
            yield cls
        yield from settings_of(cls)


def names_read(skip: tuple[str, ...] = ()) -> set[str]:
    """Names that the code reads as an attribute, a key or an argument."""
    names: set[str] = set()
    for path, tree in modules("audiollm"):
        if str(path) in skip:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                names.add(str(node.slice.value))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                names |= {str(word.value) for word in node.args if isinstance(word, ast.Constant)}
    return names

"""A part by name: from the table, from an installed package's entry point, or a user's own `package.module:Class`.

    [project.entry-points."audiollm.encoders"]      in the pyproject.toml of a package
    my_encoder = "my_package.module:MyEncoder"      then `encoder: {name: my_encoder, ...}`

A name that a recipe says is the user's own word, and its module is imported. A name that a checkpoint says is not:
its module must be imported already, be an entry point, or stand in AUDIOLLM_PLUGINS (modules, separated by commas).
"""

import importlib
import os
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from audiollm.models.settings import nearest

PLUGINS = "AUDIOLLM_PLUGINS"


def find_class(name: str, table: Mapping[str, Any], what: str) -> Any:
    """The class of a part; `what` is "encoder" or "connector". ValueError names the known ones, or what to import."""
    if name in table:
        return table[name]
    for entry in entry_points(group=f"audiollm.{what}s", name=name):
        return entry.load()
    module, _, attribute = name.partition(":")
    if not attribute:
        known = [one for one in table if not one.startswith("audiollm_")]  # those are made of others
        raise ValueError(f"unknown {what} {name!r}; {nearest(name, known)}; one of your own is package.module:Class")
    import_plugins(what)
    if module not in sys.modules:
        raise ValueError(
            f"the {what} {name} is code that is not imported; if you trust it, import {module} before, or set "
            f"{PLUGINS}={module}; if that module has another name by now, write it into the checkpoint's config.json"
        )
    return attribute_of(name, what)


def import_plugins(what: str) -> None:
    """Import the modules that AUDIOLLM_PLUGINS names."""
    for module in filter(None, os.environ.get(PLUGINS, "").split(",")):
        import_own(f"{module}:", f"{PLUGINS}={module}, for the {what}")


def import_own(name: str, what: str) -> None:
    """Import the module of `package.module:Class`, which may lie in the working folder; other names need none."""
    module, colon, attribute = name.partition(":")
    if not colon or module in sys.modules:
        return
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        importlib.import_module(module)
    except ImportError as error:
        asked = f"{what} {name}" if attribute else what
        raise ValueError(f"{asked}: cannot import {module} ({error}); install it, or run beside it") from error
    if attribute:
        attribute_of(name, what)


def attribute_of(name: str, what: str) -> Any:
    """The class in a module that is imported."""
    module, _, attribute = name.partition(":")
    found = getattr(sys.modules[module], attribute, None)
    if found is None:
        raise ValueError(f"{what} {name}: {module} has no {attribute}")
    return found

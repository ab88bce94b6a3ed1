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

PLUGINS = "AUDIOLLM_PLUGINS"


def find_class(name: str, table: Mapping[str, Any], what: str) -> Any:
    """The class of a part; `what` is "encoder" or "connector". ValueError names the known ones, or what to import."""
    if name in table:
        return table[name]
    for entry in entry_points(group=f"audiollm.{what}s", name=name):
        return entry.load()
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(
            f"unknown {what} {name!r}; known: {', '.join(sorted(table))}; one of your own is package.module:Class"
        )
    if module not in sys.modules and module in os.environ.get(PLUGINS, "").split(","):
        import_own(name, what)
    if module not in sys.modules:
        raise ValueError(
            f"the {what} {name} is code that is not imported; if you trust it, import {module} before, "
            f"or set {PLUGINS}={module}"
        )
    return attribute_of(name, what)


def import_own(name: str, what: str) -> None:
    """Import the module of `package.module:Class`, which may lie in the working folder; other names need none."""
    module, _, attribute = name.partition(":")
    if not attribute or module in sys.modules:
        return
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{what} {name}: cannot import {module} ({error}); install it, or run beside it") from error
    attribute_of(name, what)


def attribute_of(name: str, what: str) -> Any:
    """The class in a module that is imported."""
    module, _, attribute = name.partition(":")
    found = getattr(sys.modules[module], attribute, None)
    if found is None:
        raise ValueError(f"{what} {name}: {module} has no {attribute}")
    return found

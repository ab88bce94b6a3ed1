"""The base of every settings class: closed, frozen, documented; a misspelt key is told the nearest right one.

Not here: where a setting was written (recipe_files.py), which settings there are (each part declares its own).
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class Settings(BaseModel):
    """Settings are checked when they are made; an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            refuse_unknown(values, cls.model_fields, title=cls.__name__)
        return values


class SettingError(ValueError):
    """A setting does not fit the part that it is about; `key` is as in `model:`, so that a recipe can tell its line."""

    def __init__(self, key: str, cause: str) -> None:
        super().__init__(f"{key} {cause}")
        self.key = key
        self.cause = cause


def refuse_unknown(keys: Iterable[Any], known: Iterable[str], *, title: str, what: str = "a setting") -> None:
    """Raise pydantic's ValidationError, with one entry for each of `keys` that is not among `known`."""
    known = list(known)
    unknown = [key for key in keys if key not in known]
    if unknown:
        refuse({key: f"is not {what}; {nearest(key, known)}" for key in unknown}, title=title)


def refuse(messages: Mapping[Any, str], *, title: str) -> None:
    """Raise pydantic's ValidationError that blames each of these keys with its message."""
    details = []
    for key, message in messages.items():
        kind = PydanticCustomError("refused", "{message}", {"message": message})
        details.append(InitErrorDetails(type=kind, loc=(str(key),), input=key))
    raise ValidationError.from_exception_data(title, details)


def nearest(word: object, known: Iterable[str]) -> str:
    """The way out of a misspelling: "did you mean 'num_queries'?", or the known words where none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not known:
        return "there are none here"
    return f"known: {', '.join(known)}" if len(known) <= 20 else f"none of the {len(known)} known ones is near it"

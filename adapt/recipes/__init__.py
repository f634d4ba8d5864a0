"""Recipes: named sets of hyper-parameters as TOML files beside this module.

Each file says where its values come from and why, value by value. docs/recipes.md explains the
fields.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapt.config import MethodOptions, Recipe
from adapt.errors import ConfigError
from adapt.methods import METHODS, Source
from models.validation import explain

_OPTIONS: dict[str, type[MethodOptions]] = {
    "source": Source.Options,
    **{name: method.Options for name, method in METHODS.items()},
}


def recipe_names() -> list[str]:
    """Names of the recipes that come with resight."""
    return sorted(f.name.removesuffix(".toml") for f in files(__name__).iterdir() if _is_recipe(f))


def describe_recipes() -> list[tuple[str, str]]:
    """Name and origin of each recipe that comes with resight."""
    return [(name, str(_read(name).get("source", ""))) for name in recipe_names()]


def load_recipe(name_or_file: str, *, method: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or from a file and apply `key=value` overrides.

    overrides: such as `optimizer.lr=1e-4` or `options.lambda_id=0.3`; values are TOML, a bare
    word is a string.
    Raises ConfigError when the recipe is unknown, belongs to another method, or a value is
    invalid.
    """
    raw = _read(name_or_file)
    for override in overrides:
        apply_override(raw, override)
    found = raw.get("method")
    if found != method:
        raise ConfigError(f"recipe {name_or_file} is for method {found!r}, not for {method!r}")
    return parse_recipe(raw, name_or_file)


def parse_recipe(raw: Mapping[str, Any], name: str = "of a run") -> Recipe:
    """Check a recipe. Raises ConfigError, which calls it by `name`."""
    method = raw.get("method")
    if not isinstance(method, str) or method not in _OPTIONS:
        if method is None:
            fault = "method is missing"
        else:
            fault = f"no method {method!r}" if isinstance(method, str) else "method is not text"
        raise ConfigError(f"recipe {name}: {fault}; use one of: {', '.join(_OPTIONS)}")
    own = _OPTIONS[method]
    try:
        options = own.model_validate(raw.get("options", {}))
    except ValidationError as error:
        raise ConfigError(f"recipe {name}: {explain(error, own, section='options')}") from None
    try:
        return Recipe.model_validate({**raw, "options": options})
    except ValidationError as error:
        raise ConfigError(f"recipe {name}: {explain(error, Recipe)}") from None


def recipe_label(name_or_file: str, overrides: Sequence[str] = ()) -> str:
    """Name a recipe for the record, with what was changed: `mmt (optimizer.lr=1e-4)`.

    A file goes by its name without folders, marked where it shares it with a recipe of ours.
    """
    name = name_or_file
    if name not in recipe_names():
        name = Path(name).stem
        if name in recipe_names():
            name += " (own file)"
    return f"{name} ({', '.join(overrides)})" if overrides else name


def _is_recipe(entry: Any) -> bool:
    return str(entry.name).endswith(".toml")


def _read(name_or_file: str) -> dict[str, Any]:
    path = Path(name_or_file)
    try:
        if name_or_file in recipe_names():
            return tomllib.loads(files(__name__).joinpath(f"{name_or_file}.toml").read_text())
        if path.suffix == ".toml":
            return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {name_or_file} is not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"recipe {name_or_file}: {error.strerror}") from None
    raise ConfigError(
        f"no recipe {name_or_file!r}; give a .toml file or one of: {', '.join(recipe_names())}"
    )


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Put the value of `section.name=value` in its place. Raises ConfigError."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r} is not of the form section.name=value")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    table = raw
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {section} is a value, not a section")
    table[last] = value

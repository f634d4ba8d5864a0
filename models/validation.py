"""Validation errors of pydantic as one line for people, and files of one record. No torch."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from models.errors import DamagedFileError
from models.files import refuse_broken_link

R = TypeVar("R", bound=BaseModel)

MAX_FAULTS = 10
"""Faults that are named; the others are counted."""


def explain(
    error: ValidationError,
    record: type[BaseModel] | None = None,
    *,
    section: str = "",
    missing: Callable[[str], str] | None = None,
    spell: Callable[[str], str] = str,
) -> str:
    """What is wrong with a record, field by field, in one line.

    Args:
        error: what pydantic raised.
        record: the model that was to be made; with it an unknown field is compared with those that
            the record has.
        section: the dotted name of the part that was checked, if it was not the whole.
        missing: says of a required field, by its dotted name, how to give it.
        spell: writes a field's dotted name the way the user gives it, e.g. as an option.
    """
    faults = error.errors()
    told = [_explain(fault, record, section, missing, spell) for fault in faults[:MAX_FAULTS]]
    if len(faults) > MAX_FAULTS:
        told.append(f"and {len(faults) - MAX_FAULTS} more")
    return "; ".join(told)


def _explain(
    fault: ErrorDetails,
    record: type[BaseModel] | None,
    section: str,
    missing: Callable[[str], str] | None,
    spell: Callable[[str], str],
) -> str:
    above = section.split(".") if section else []
    path = [*above, *map(str, _without_alternative(record, fault["loc"]))]
    name = ".".join(path)
    if fault["type"] == "missing" and missing is not None:
        return f"{name} {missing(name)}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden" and record is not None:
        message = _unknown(path, _fields_of(record, fault["loc"][:-1]))
    return f"{spell(name)}: {message}" if name else message


def _without_alternative(
    record: type[BaseModel] | None, location: tuple[int | str, ...]
) -> tuple[int | str, ...]:
    """Where a fault is, without the name that pydantic gives to an alternative of a union."""
    inner: Any = record
    for depth, part in enumerate(location, start=1):
        field = getattr(inner, "model_fields", {}).get(part)
        if field is None:
            break
        inner = field.annotation
        alternatives = [each for each in get_args(inner) if each is not NoneType]
        if isinstance(inner, UnionType) or get_origin(inner) is Union:
            if len(alternatives) > 1:
                return location[:depth]
            inner = alternatives[0]
    return location


def _fields_of(record: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    inner: Any = record
    for part in path:
        inner = inner.model_fields[part].annotation
    return list(inner.model_fields)


def _unknown(path: list[str], known: list[str]) -> str:
    near = get_close_matches(path[-1], known, 1)
    guess = f", did you mean {near[0]}?" if near else ";"
    where = f"[{'.'.join(path[:-1])}] has" if path[:-1] else "there are"
    return f"unknown{guess} {where} {', '.join(known) or 'nothing'}"


def read_record(file: Path, record: type[R]) -> R:
    """Read a JSON file of one record.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file cannot be read, is a link to nothing, or is no such record.
    """
    try:
        return record.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        refuse_broken_link(file)
        raise
    except OSError as error:
        raise DamagedFileError(f"{file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise DamagedFileError(
            f"{file} is damaged ({explain(error)}); restore it from a copy"
        ) from None

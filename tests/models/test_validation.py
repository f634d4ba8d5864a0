from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from models.errors import DamagedFileError
from models.validation import MAX_FAULTS, explain, read_record


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: int = 1
    height: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    size: Inner = Inner()
    rows: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _name_is_not_bad(self) -> Outer:
        if self.name == "bad":
            raise ValueError("choose another name")
        return self


def fault(**fields: object) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(fields)
    return caught.value


def test_every_wrong_field_is_named_in_one_line() -> None:
    text = explain(fault(name="x", size={"width": "wide"}, rows=[1, "two"]))
    first, second = text.split("; ")
    assert first.startswith("size.width: Input should be a valid integer")
    assert second.startswith("rows.1: Input should be a valid integer")
    assert "\n" not in text


def test_a_fault_of_the_whole_record_has_no_name() -> None:
    assert explain(fault(name="bad")) == "choose another name"


def test_an_unknown_field_is_compared_with_those_there_are() -> None:
    error = fault(name="x", size={"widht": 3, "color": 1}, nam="y")
    assert explain(error, Outer) == (
        "size.widht: unknown, did you mean width? [size] has width, height; "
        "size.color: unknown; [size] has width, height; "
        "nam: unknown, did you mean name? there are name, size, rows"
    )
    assert explain(error).startswith("size.widht: Extra inputs are not permitted")


def test_a_part_of_a_record_goes_by_its_section() -> None:
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate({"color": 1})
    told = explain(caught.value, Inner, section="shape.size")
    assert told == "shape.size.color: unknown; [shape.size] has width, height"


def test_of_a_missing_field_is_said_how_to_give_it() -> None:
    assert explain(fault(), missing=lambda name: f"is needed: --{name}") == "name is needed: --name"
    assert explain(fault()) == "name: Field required"


def test_a_long_list_is_cut_and_counted() -> None:
    text = explain(fault(name="x", rows=["no"] * (MAX_FAULTS + 3)))
    assert text.count("rows.") == MAX_FAULTS
    assert text.endswith("; and 3 more")


class Empty(BaseModel):
    pass


def test_a_record_behind_a_broken_link_is_not_an_absent_one(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    with pytest.raises(FileNotFoundError):
        read_record(file, Empty)
    file.symlink_to(tmp_path / "unmounted")
    with pytest.raises(DamagedFileError, match=rf"{file} is a link to .*not exist; mount or"):
        read_record(file, Empty)
    (tmp_path / "unmounted").write_text("{}")
    assert read_record(file, Empty) == Empty()

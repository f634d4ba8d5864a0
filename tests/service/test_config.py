from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from models.validation import MAX_FAULTS
from service.config import (
    Settings,
    default_registry,
    join_address,
    load_settings,
    split_address,
    unknown_variables,
)
from service.errors import SettingsError


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"RESIGHT_{name.upper()}", raising=False)


def test_defaults_listen_on_loopback_only(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, model="m")
    assert split_address(settings.listen)[0] == "127.0.0.1"
    assert split_address(settings.http)[0] == "127.0.0.1"
    assert settings.keep_crops


def test_given_values_have_priority_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIGHT_MODEL", "from-env")
    monkeypatch.setenv("RESIGHT_MAX_ITEMS", "70")
    monkeypatch.setenv("RESIGHT_LISTEN", "127.0.0.1:1")
    settings = load_settings(data_dir=tmp_path, listen="127.0.0.1:2", http=None)
    assert (settings.model, settings.max_items) == ("from-env", 70)
    assert settings.listen == "127.0.0.1:2"


def test_folders_are_separated_by_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(data_dir=tmp_path, model="m").adapt_inits == ()
    folders = [tmp_path / name for name in ("b", "a")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("RESIGHT_ADAPT_INITS", ":".join(map(str, folders)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESIGHT_ADAPT_SOURCES", "a")
    settings = load_settings(data_dir=tmp_path, model="m")
    assert settings.adapt_inits == tuple(folders), "in the order given"
    assert settings.adapt_sources == (tmp_path / "a",)


@pytest.mark.parametrize("name", ["DATA_DIR", "REGISTRY", "MAX_ITEMS", "KEEP_CROPS", "LISTEN"])
def test_an_empty_variable_is_not_taken_for_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("RESIGHT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv(f"RESIGHT_{name}", "")
    with pytest.raises(SettingsError, match=name.lower()):
        load_settings(model="m")


def test_an_empty_list_of_folders_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIGHT_ADAPT_INITS", "")
    assert load_settings(data_dir=tmp_path, model="m").adapt_inits == ()


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, model="m")
    with pytest.raises(ValidationError):
        settings.model = "n"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "data_dir is not given: use --data-dir or RESIGHT_DATA_DIR"),
        ({"listen": "localhost"}, "not HOST:PORT"),
        ({"http": "127.0.0.1:70000"}, "no port from 0 to 65535"),
        ({"listen": "::1:80"}, "not HOST:PORT"),
        ({"provider": "tpu"}, "provider"),
        ({"max_items": 2000}, r"max_items \(2000\) is above max_queue \(1024\)"),
        ({"max_image_bytes": 2**30}, "above max_message_bytes"),
        ({"color": "red"}, "color"),
        ({"max_batch": 0}, "max_batch"),
        ({"adapt_inits": "/nowhere/at/all"}, "adapt_inits: there is no folder /nowhere/at/all"),
        # The current folder is not meant, nor one folder less.
        ({"data_dir": ""}, "data_dir: is empty; give a folder"),
        ({"registry": ""}, "registry: is empty; give a folder"),
        ({"adapt_inits": "/:/nowhere:"}, "adapt_inits: .* has an empty folder"),
        ({"adapt_sources": "/::/"}, "adapt_sources: .* has an empty folder"),
        ({"adapt_hold_back": 1.0}, "adapt_hold_back"),
        ({"adapt_device": "tpu"}, "adapt_device"),
        # Times that no clock can add to its own.
        ({"request_ttl_s": 1e12}, "request_ttl_s: .*315360000"),
        ({"request_ttl_s": "inf"}, "request_ttl_s: .*315360000"),
        ({"request_ttl_s": "nan"}, "request_ttl_s"),
        ({"drain_s": "inf"}, "drain_s: .*86400"),
        ({"adapt_stop_s": 1e12}, "adapt_stop_s: .*86400"),
        # What the client sends in one call must fit.
        ({"max_items": 63}, "max_items.*64"),
        ({"max_message_bytes": 4_000_000, "max_image_bytes": 1024}, "max_message_bytes"),
    ],
)
def test_an_invalid_setting_is_named(given: dict[str, object], message: str) -> None:
    fields = given if not given else {"data_dir": "d", "model": "m", **given}
    with pytest.raises(SettingsError, match=message):
        load_settings(**fields)


def test_many_invalid_settings_are_named_and_the_others_counted() -> None:
    wrong = {f"wrong_{letter}": 1 for letter in "abcdefghijkl"}
    with pytest.raises(SettingsError) as error:
        load_settings(data_dir="d", model="m", **wrong)
    assert str(error.value).count("wrong_") == MAX_FAULTS
    assert "; and 2 more (settings come from options" in str(error.value)


def test_variables_that_are_not_settings_are_named() -> None:
    environment = {
        "RESIGHT_MODEL": "m",
        "resight_max_items": "70",
        "RESIGHT_SERVER": "of the commands",
        "RESIGHT_MAX_ITEM": "70",
        "RESIGHT_DATADIR": "d",
        "PATH": "/bin",
    }
    assert unknown_variables(environment) == ["RESIGHT_DATADIR", "RESIGHT_MAX_ITEM"]


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:50051", ("127.0.0.1", 50051)), ("[::1]:0", ("::1", 0)), ("h:1", ("h", 1))],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
    assert join_address(*parts) == address


def test_the_registry_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data/home")
    assert default_registry() == Path("/data/home/resight/models")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_registry() == Path("/home/me/.local/share/resight/models")


def test_memory_for_requests_holds_the_largest_of_two_clients(tmp_path: Path) -> None:
    given = {"data_dir": tmp_path, "model": "m", "max_message_bytes": 16 << 20}
    assert load_settings(**given).requests_bytes == 16 * (16 << 20)
    assert load_settings(**given, max_requests_bytes=32 << 20).requests_bytes == 32 << 20
    with pytest.raises(SettingsError, match="max_requests_bytes"):
        load_settings(**given, max_requests_bytes=(32 << 20) - 1)

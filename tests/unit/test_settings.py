"""Settings: defaults, files, variables, overrides, and errors that name the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperbox.api.errors.daemon import ConfigInvalid, ConfigUnreadable
from hyperbox.api.settings import Settings, declared, parse_settings
from hyperbox.configuration import load_settings


def test_defaults_are_valid_and_survive_a_round_trip():
    assert parse_settings() == Settings()
    assert Settings.model_validate(Settings().model_dump()) == Settings()


def test_every_setting_says_what_it_is_and_why():
    names = [item.variable for item in declared()]
    assert len(names) == len(set(names)) > 15
    for item in declared():
        assert item.description.endswith("."), item
        assert item.reason.endswith("."), item
        assert item.since
        if item.key.endswith("_seconds"):
            assert item.unit == "seconds", item


def test_order_of_sources():
    text = "[images]\nconcurrent_layers = 2\n"
    variables = {"HYPERBOX_IMAGES_CONCURRENT_LAYERS": "3", "HYPERBOX_UNRELATED": "x"}
    assert parse_settings(text).images.concurrent_layers == 2
    assert parse_settings(text, variables).images.concurrent_layers == 3
    over = {("images", "concurrent_layers"): 4, ("daemon", "state"): None}
    assert parse_settings(text, variables, over).images.concurrent_layers == 4


def test_lists_and_tables_in_variables():
    variables = {
        "HYPERBOX_REGISTRY_PLAIN_HTTP": "a:5000,b:5000",
        "HYPERBOX_REGISTRY_MIRRORS": '{"docker.io": ["http://m:1"]}',
    }
    registry = parse_settings(environ=variables).registry
    assert registry.plain_http == ["a:5000", "b:5000"]
    assert registry.mirrors == {"docker.io": ["http://m:1"]}


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("[images]\n\nconcurrent_layers = 0\n", 3, "images.concurrent_layers"),
        ("[daemon]\nlog_level = 'loud'\n", 2, "daemon.log_level"),
        ("\n[imges]\nx = 1\n", 2, "imges"),
        ("[store]\n[images]\ncolour = 1\n", 3, "images.colour"),
        ("images = 3\n", 1, "images"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(text, line, key):
    with pytest.raises(ConfigInvalid) as caught:
        parse_settings(text, source="f.conf")
    assert caught.value.values["source"] == "f.conf"
    assert (caught.value.values["line"], caught.value.values["key"]) == (line, key)


def test_a_wrong_variable_is_named():
    with pytest.raises(ConfigInvalid, match="HYPERBOX_STORE_GC_INTERVAL_SECONDS"):
        parse_settings(environ={"HYPERBOX_STORE_GC_INTERVAL_SECONDS": "soon"})
    with pytest.raises(ConfigInvalid, match="HYPERBOX_REGISTRY_MIRRORS"):
        parse_settings(environ={"HYPERBOX_REGISTRY_MIRRORS": "{"})


def test_not_toml():
    with pytest.raises(ConfigUnreadable, match="line 1"):
        parse_settings("a = \n")


def test_a_named_file_must_exist_and_the_variable_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigUnreadable, match="No such file"):
        load_settings(tmp_path / "none")
    file = tmp_path / "h.conf"
    file.write_text("[daemon]\nlog_level = 'debug'\n")
    monkeypatch.setenv("HYPERBOX_CONFIG", str(file))
    settings, source = load_settings()
    assert (settings.daemon.log_level, source) == ("debug", str(file))
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigUnreadable, match="UTF-8"):
        load_settings()


def test_a_wrong_option_is_named_as_such():
    with pytest.raises(ConfigInvalid, match=r"^the command line, line 1: daemon.log_level"):
        parse_settings("[daemon]\n", overrides={("daemon", "log_level"): "loud"})

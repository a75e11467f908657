"""The configuration and environment pages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hyperbox._dev.reference.markdown import anchor, code, doc, facts, heading, page, table
from hyperbox.api.environment import VARIABLES
from hyperbox.api.settings import DEFAULT_CONFIG, Declared, Settings, declared

_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def setting_anchor(item: Declared) -> str:
    """Anchor of a setting on its page."""
    return anchor(item.section, item.key)


def section_model(name: str) -> type[BaseModel]:
    """Give the model of one table of the file."""
    model = Settings.model_fields[name].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model


def bounds(field: FieldInfo) -> Iterator[str]:
    """Yield the bounds that a field declares, in words."""
    for rule in field.metadata:
        for name, words in _BOUNDS.items():
            value = getattr(rule, name, None)
            if value is not None:
                yield f"{words} {value:,}"


def configuration_page() -> str:
    """Render every setting, by section of the file."""
    parts = []
    for section, items in groupby(declared(), key=lambda item: item.section):
        parts.append(heading(2, f"[{section}]", f"section-{anchor(section)}"))
        parts.append(doc(section_model(section)))
        parts.extend(_setting(item) for item in items)
    return page(
        "Configuration",
        f"The daemon reads {code(DEFAULT_CONFIG)}, TOML with the tables below, if it exists. Everything has a default. "
        "In falling order, a value comes from an option of `hyperboxd`, from the setting's environment variable, from "
        "the file, from the default. Unknown keys are errors, so that a misspelled one is not silently without effect. "
        "`hyperbox config check` checks a file, `hyperbox config show` shows what is in force.",
        *parts,
    )


def _setting(item: Declared) -> str:
    field = section_model(item.section).model_fields[item.key]
    return "\n\n".join(
        (
            heading(3, f"{item.section}.{item.key}", setting_anchor(item)),
            item.description,
            facts(
                (
                    ("Type", code(item.type)),
                    ("Unit", item.unit),
                    ("Bounds", ", ".join(bounds(field))),
                    ("Default", code(item.default)),
                    ("Why", item.reason),
                    ("Variable", code(item.variable)),
                    ("Since", item.since),
                )
            ),
        )
    )


def environment_page() -> str:
    """Render every environment variable: those of their own, then those that set a setting."""
    own = table(
        ("Variable", "Read by", "What it does", "Default", "Since"),
        ((code(v.name), v.read_by, v.description, v.default, v.since) for v in VARIABLES),
    )
    settings = table(
        ("Variable", "Setting", "What it sets"),
        (
            (code(i.variable), f"[{i.section}.{i.key}](configuration.md#{setting_anchor(i)})", i.description)
            for i in declared()
        ),
    )
    return page(
        "Environment variables",
        "A variable that sets a setting takes the text as it would stand in the file, without quotes; a list takes its "
        "items with commas between them or as a JSON array, a table as a JSON object.",
        heading(2, "Variables of their own", "own"),
        own,
        heading(2, "Variables of the daemon's settings", "settings"),
        settings,
    )

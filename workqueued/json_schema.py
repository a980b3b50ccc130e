"""JSON Schema of the configuration, for editors and for checks before a deploy; made from the keys that we read.

Runs in: `workqueued --print-schema`, and the manual's generator.

It tells less than `workqueued --check`: a range of durations, names that belong to the broker, totals and files are
beyond it. Nothing that we read is wrong to it, but for truth values in the words of YAML 1.1 (yes, off).
"""

import dataclasses
from typing import Any

from workqueued.config import Config
from workqueued.plain import as_plain
from workqueued.schema import SECTION, Shape, any_of, shape_of

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> Shape:
    """The schema of a whole file."""
    return {"$schema": _DRAFT, "title": "workqueued.yaml", **_section(Config)}


def _section(section: type[Any]) -> Shape:
    fields = [field for field in dataclasses.fields(section) if "read" in field.metadata]
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    return {
        "type": "object",
        "properties": {field.name: _key(field) for field in fields},
        **({"required": required} if required else {}),
        "additionalProperties": False,
        **getattr(section, "COMBINATIONS", {}),
    }


def _key(field: "dataclasses.Field[Any]") -> Shape:
    shape = _with_sections(shape_of(field.metadata["read"]))
    expected, doc = shape.pop("description", ""), field.metadata["doc"]
    if field.default is None:  # null is then as if the key were not there
        shape = any_of(shape, {"type": "null"})
    told = doc if expected in doc else f"{doc} ({expected})"
    return {"description": told, **shape, **_default(field, shape)}


def _default(field: "dataclasses.Field[Any]", shape: Shape) -> Shape:
    """What editors offer; of a section its keys say it, and what hides a password is nothing to paste."""
    if field.default in (None, dataclasses.MISSING) or "properties" in shape:
        return {}
    plain = (field.metadata["show"] or as_plain)(field.default)
    return {} if "***" in str(plain) else {"default": plain}


def _with_sections(shape: Any) -> Any:
    if isinstance(shape, list):
        return [_with_sections(one) for one in shape]
    if not isinstance(shape, dict):
        return shape
    if SECTION in shape:
        return _section(shape[SECTION])
    return {name: _with_sections(one) for name, one in shape.items()}

"""The text of a documented params.yaml: every parameter with its default, its description as a comment above it."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from fedpipe.config.section import Section

WIDTH = 120  # columns


def as_yaml(section: Section) -> str:
    """Return the section as block-style YAML, each parameter below a comment that describes it."""
    return "\n".join(_lines(section, ""))


def _lines(section: Section, indent: str) -> Iterator[str]:
    for position, (name, field) in enumerate(type(section).model_fields.items()):
        value = getattr(section, name)
        if not indent and position:
            yield ""  # between the blocks of the file
        comment = " ".join(filter(None, [field.description, _values(field)]))
        yield from textwrap.wrap(comment, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ",
                                 break_on_hyphens=False, break_long_words=False)  # fmt: skip
        if isinstance(value, Section):
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _values(field: FieldInfo) -> str:
    """List the values of a parameter that has only a few."""
    annotation: Any = field.annotation
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    return f"One of {', '.join(values)}." if len(values) > 1 else ""


def _scalar(value: str | float | bool | None) -> str:
    return value if isinstance(value, str) else json.dumps(value)

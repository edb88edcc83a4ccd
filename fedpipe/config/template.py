"""The text that documents every parameter: a params.yaml with comments, or tables in Markdown."""

import difflib
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from fedpipe.config.section import LARGEST_INT, Section
from fedpipe.system.errors import UserError

WIDTH = 120  # columns

# How JSON schema, as which pydantic tells what a field takes, calls things, and how people do.
KINDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


def as_yaml(section: Section, at: str = "") -> str:
    """Return the section as block-style YAML, each parameter below a comment that describes it.

    Setting a parameter with `dvc exp run -S`, and setting it back, leaves the bytes of such a file as they are.

    Args:
        section: the values.
        at: the dotted path of the only block or parameter to return, within the blocks that hold it; "" for all.

    Raises:
        UserError: there is nothing at this path.
    """
    _require(section, at)
    return "\n".join(_lines(section, "", at.split(".") if at else []))


def as_markdown(section: Section, at: str = "") -> str:
    """Return every parameter with its default, its values and its description as Markdown, a table for each block.

    Args:
        section: the defaults.
        at: the dotted path of the only block or parameter to return; "" for all.

    Raises:
        UserError: there is nothing at this path.
    """
    _require(section, at)
    found = section
    *names, last = at.split(".") if at else [""]
    for name in names:
        found = getattr(found, name)
    if last and not isinstance(getattr(found, last), Section):
        return "\n".join(_table(found, ".".join(names), [last]))
    return "\n".join(_chapter(getattr(found, last) if last else found, at))


def paths(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every block and parameter."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from paths(field.annotation, f"{prefix}{name}.")


def _require(section: Section, at: str) -> None:
    known = list(paths(type(section)))
    if at and at not in known:
        near = [path for path in known if path.endswith(f".{at}")] or difflib.get_close_matches(at, known, n=1)
        hint = f"did you mean {' or '.join(near[:3])}?" if near else "`fedpipe params` prints all there are"
        raise UserError(f"{at}: unknown parameter; {hint}")


def _lines(section: Section, indent: str, only: Sequence[str]) -> Iterator[str]:
    values = _values(type(section), kinds=False)
    for position, (name, field) in enumerate(type(section).model_fields.items()):
        if only and name != only[0]:
            continue
        value = getattr(section, name)
        if not indent and position and not only:
            yield ""  # between the blocks of the file
        if len(only) < 2:
            sentence = f"{values[name][:1].upper()}{values[name][1:]}."
            comment = " ".join([field.description or "", *([sentence] if values[name] else [])])
            yield from textwrap.wrap(comment, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ",
                                     break_on_hyphens=False, break_long_words=False)  # fmt: skip
        if isinstance(value, Section):
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ", only[1:])
        else:
            yield indent + _entry(name, value)


def _entry(name: str, value: object) -> str:
    """Return the line of a parameter as DVC writes it, which leaves the value empty for null."""
    line = StringIO()
    YAML().dump({name: value}, line)
    return line.getvalue().rstrip()


def _chapter(section: Section, at: str) -> Iterator[str]:
    """Yield the lines of the table of a block's own parameters, and then those of the blocks in it, under headings."""
    blocks = [name for name in type(section).model_fields if isinstance(getattr(section, name), Section)]
    own = [name for name in type(section).model_fields if name not in blocks]
    if own:
        yield from _table(section, at, own)
    for position, name in enumerate(blocks):
        path = f"{at}.{name}" if at else name
        if own or position:
            yield ""
        yield f"{'#' * (2 + path.count('.'))} {path}"
        yield ""
        if description := type(section).model_fields[name].description:
            yield from [_escaped(description), ""]
        yield from _chapter(getattr(section, name), path)


def _table(section: Section, at: str, names: Sequence[str]) -> Iterator[str]:
    values = _values(type(section), kinds=True)
    yield "| parameter | default | values | meaning |"
    yield "| --- | --- | --- | --- |"
    for name in names:
        value = getattr(section, name)
        default = value if isinstance(value, str) else json.dumps(value)
        path = f"{at}.{name}" if at else name
        meaning = type(section).model_fields[name].description or ""
        yield f"| `{path}` | `{default}` | {_escaped(values[name])} | {_escaped(meaning)} |"


def _escaped(text: str) -> str:
    """Return the text with every letter that Markdown would take for its own marked as plain, but for code."""
    return "".join(f"\\{letter}" if letter in "\\*<|" else letter for letter in text)


def _values(section: type[Section], *, kinds: bool) -> dict[str, str]:
    """Return which values each parameter takes, in words; "" where there is nothing to say.

    Args:
        section: whose parameters.
        kinds: whether to say what a default shows: that a value is a number, text, true or false.
    """
    properties = section.model_json_schema()["properties"]
    return {name: _in_words(schema.get("anyOf", [schema]), kinds) for name, schema in properties.items()}


def _in_words(options: Sequence[Mapping[str, Any]], kinds: bool) -> str:
    if not kinds and not any("enum" in option or "items" in option or _bounds(option) for option in options):
        return ""
    return ", or ".join(filter(None, (_option(option, kinds) for option in options)))


def _option(option: Mapping[str, Any], kinds: bool) -> str:
    """Say which values one branch of a JSON schema takes."""
    if "enum" in option:
        return f"one of {', '.join(option['enum'])}"
    if "const" in option:
        return str(option["const"])
    kind = option.get("type")
    if kind == "array":
        return f"a list, each {_option(option['items'], True)}"
    words = [KINDS[kind]] if kinds and kind in KINDS else []
    return "null" if kind == "null" else ", ".join(words + _bounds(option))


def _bounds(option: Mapping[str, Any]) -> list[str]:
    """Say between which bounds a number must lie, leaving out those of the machine's arithmetic."""
    bounds = {key: option[key] for key in BOUNDS if key in option and abs(option[key]) < LARGEST_INT}
    if option.get("type") == "integer" and "exclusiveMinimum" in bounds:
        bounds = {"minimum": bounds.pop("exclusiveMinimum") + 1} | bounds
    return [f"{words} {f'{bounds[key]:,}'.removesuffix('.0')}" for key, words in BOUNDS.items() if key in bounds]

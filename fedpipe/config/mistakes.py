"""What pydantic says of wrong parameters, in a line each: dotted path, value, what would work."""

import difflib
import json
from collections.abc import Collection, Iterator
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fedpipe.config import own
from fedpipe.config.section import Section

SHOWN = 120  # characters of a value


def mistakes(error: ValidationError, section: type[Section], at: str = "") -> Iterator[str]:
    """Yield a line for each mistake.

    Args:
        error: what was raised.
        section: the class whose parameters were wrong.
        at: its dotted path; "" for the whole.
    """
    for details in error.errors():
        for message in details["msg"].split("\n"):  # a check of a whole block may find several mistakes
            yield _explain({**details, "msg": message}, section, at)


def known_keys(unknown: str, known: Collection[str]) -> str:
    """Say which keys there are, and first the one that may be meant by one that there is not."""
    near = difflib.get_close_matches(unknown, known, n=1)
    return f"{f'did you mean {near[0]}? ' if near else ''}known: {', '.join(known)}"


def one_line(value: object) -> str:
    """Return what is said of a value on one line, and not all of it if it is long."""
    text = " ".join(str(value).split())
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _explain(details: ErrorDetails, section: type[Section], at: str) -> str:
    """Turn one of pydantic's errors into one line: dotted path, value, what would work."""
    names = [one_line(name) for name in details["loc"]]
    where = ".".join([at, *names] if at else names)
    path = where or "the file"
    value, context = details["input"], details.get("ctx", {})
    shown = one_line(json.dumps(value, default=str, ensure_ascii=False))
    match details["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key; {known_keys(names[-1], _keys(section, names[:-1]))}"
        case "missing":
            return f"{path}: missing"
        case "literal_error":
            return f"{path}: {shown} is not one of {context['expected'].replace(' or ', ', ')}"
        case "int_type" | "int_parsing" | "int_from_float":
            return f"{path}: {shown} is not a whole number"
        case "float_type" | "float_parsing":
            return f"{path}: {shown} is not a number"
        case "finite_number":
            return f"{path}: {shown} is not a finite number"
        case "bool_type" | "bool_parsing":
            return f"{path}: {shown} is not true or false"
        case "string_type":
            return f"{path}: {shown} is not text"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{path}: {shown} is not a block of keys; known: {', '.join(_keys(section, names))}"
        case "greater_than":
            return f"{path}: {shown} must be greater than {context['gt']:g}"
        case "greater_than_equal":
            return f"{path}: {shown} must be at least {context['ge']:g}"
        case "less_than":
            return f"{path}: {shown} must be less than {context['lt']:g}"
        case "less_than_equal":
            return f"{path}: {shown} must be at most {_number(context['le'])}"
        case "value_error" if isinstance(value, dict):  # of keys that contradict each other
            return f"{where}.{details['msg'].removeprefix('Value error, ')}".removeprefix(".")
        case _:
            return f"{path}: {shown}: {details['msg'].removeprefix('Value error, ')}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _keys(section: type[Section], names: list[str]) -> list[str]:
    """Return the keys that the block at `names` may hold."""
    kind: Any = section
    for name in names:
        if get_origin(kind) in (list, tuple, dict):
            kind = get_args(kind)[-1]  # of what it holds
        else:
            kind = kind.model_fields[name].annotation if name in kind.model_fields else own.block_of(name)
        if get_origin(kind) in (Union, UnionType):  # with None, where a block may be left out
            kind = next(option for option in get_args(kind) if option is not NoneType)
    return list(kind.model_fields)

"""How params.yaml becomes objects: a Section is the object, its fields are the parameters.

Knows YAML and pydantic, nothing of federated learning. Errors carry the dotted path a user sees in the file.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, create_model
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML, YAMLError

from fedpipe.errors import UserError

PARAMS = Path("params.yaml")


class Section(BaseModel):
    """A block of params.yaml: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    choices: ClassVar[Mapping[str, Mapping[str, type["Section"]]]] = {}

    def chosen(self, key: str) -> Any:
        """The object that the value of `key` names, with its own block's parameters. See `choice`."""
        name = getattr(self, key)
        return getattr(self, name, None) or self.choices[key][name]()


S = TypeVar("S", bound=Section)


def with_blocks(table: Mapping[str, type[Section]]) -> Callable[[type[S]], type[S]]:
    """Gives a section a block for every entry of the table that has parameters, of the entry's name."""

    def extend(section: type[S]) -> type[S]:
        blocks: dict[str, Any] = {name: (kind, kind()) for name, kind in table.items() if kind.model_fields}
        extended = create_model(section.__name__, __base__=section, __module__=section.__module__, **blocks)
        extended.__doc__ = section.__doc__
        return extended

    return extend


def choice(key: str, table: Mapping[str, type[Section]]) -> Callable[[type[S]], type[S]]:
    """Makes a section's field `key` pick one of `table`, and gives every entry with parameters a block of its name.

    So adding a strategy or a model is one class and one name in its folder's table.
    """

    def extend(section: type[S]) -> type[S]:
        default = section.model_fields[key].default
        field: dict[str, Any] = {key: (Literal[tuple(table)], default)}  # pyright: ignore[reportInvalidTypeForm]
        picking = create_model(section.__name__, __base__=section, __module__=section.__module__, **field)
        picking.__doc__ = section.__doc__
        extended = with_blocks(table)(picking)
        extended.choices = {**section.choices, key: table}
        return extended

    return extend


def read(section: type[S], *, at: str = "", path: str | Path = PARAMS) -> S:
    """The section found at the dotted place `at` of the file ("" for the whole file).

    Raises:
        UserError: a line for each mistake: file, dotted path, value, what would work.
    """
    value = _load(Path(path))
    for key in at.split(".") if at else []:
        if not isinstance(value, dict) or key not in value:
            raise UserError(f"{path}: {at}: missing")
        value = value[key]
    try:
        # Through JSON, so that strict types still accept a mapping for a nested section.
        return section.model_validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        lines = (_explain(details, section, at) for details in error.errors())
        raise UserError("\n".join(f"{path}: {line}" for line in lines)) from None


def read_seed(path: str | Path = PARAMS) -> int:
    """The experiment's seed."""
    return read(Seed, path=path).seed


def _load(path: Path) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run from the folder that holds it") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}: not valid YAML{where}: {getattr(error, 'problem', error)}") from None


class Seed(Section):
    model_config = ConfigDict(extra="ignore")
    seed: NonNegativeInt


def _explain(details: ErrorDetails, section: type[Section], at: str) -> str:
    """One line for one of pydantic's errors: dotted path, value, what would work."""
    names = [str(name) for name in details["loc"]]
    path = ".".join([at, *names] if at else names) or "the file"
    value, context = details["input"], details.get("ctx", {})
    shown = json.dumps(value, default=str)
    match details["type"]:
        case "extra_forbidden":
            known = _keys(section, names[:-1])
            near = difflib.get_close_matches(names[-1], known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            return f"{path}: unknown key; {hint}known: {', '.join(known)}"
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
            return f"{path}: {shown} must be at most {context['le']:g}"
        case "value_error" if isinstance(value, dict):  # of keys that do not go together; the message begins with one
            return f"{path}.{details['msg'].removeprefix('Value error, ')}"
        case _:
            return f"{path}: {shown}: {details['msg'].removeprefix('Value error, ')}"


def _keys(section: type[Section], names: list[str]) -> list[str]:
    """The keys that the block at `names` may hold."""
    kind: Any = section
    for name in names:
        kind = kind.model_fields[name].annotation
    return list(kind.model_fields)

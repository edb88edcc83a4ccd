"""Names from outside the package: ``my_module:MyStrategy`` is a class of the user's, in own/my_module.py."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, create_model

OWN = Path("own")  # the folder beside params.yaml; DVC watches it
MARK = ":"  # which no name in a table has

_classes: dict[str, type[BaseModel]] = {}  # that were named so far, by the name of their block


def is_block(key: object, value: object) -> bool:
    """Return whether a key and its value are the block of a class of the user's: their names are capitalised."""
    return isinstance(key, str) and key[:1].isupper() and (value is None or isinstance(value, dict))


def block_of(name: str) -> type[BaseModel] | None:
    """Return the class that has its parameters in the block of this name, if a class of this name was made."""
    return _classes.get(name)


def make(at: str, name: str, kind: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    """Return an object of the class that a value such as ``my_module:MyStrategy`` names.

    Args:
        at: where the value stands, for a message.
        name: module and class; the module is looked for in the folder own/ first, then where Python looks.
        kind: what the class must be.
        values: the section that the value stands in; its block ``MyStrategy`` has the parameters.

    Raises:
        ValueError: there is no such class, or, with a line for each mistake, its parameters are wrong.
    """
    module_name, _, class_name = name.partition(MARK)
    if not (module_name and class_name):
        raise ValueError(f"{at}: a module and a class are wanted, as in my_module:My{kind.__name__}")
    found = getattr(_module(at, module_name), class_name, None)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ValueError(f"{at}: {module_name} has no class {class_name} that is a {kind.__name__}")
    if class_name not in values:
        near = difflib.get_close_matches(class_name, [key for key in values if key[:1].isupper()], n=1, cutoff=0.7)
        if near:
            raise ValueError(f"{near[0]}: a block of no class; did you mean {class_name}?")
    _classes[class_name] = found
    # Within a section of its own, so that a mistake is told with the name of the block.
    section = create_model("Own", **{class_name: (found, ...)})  # pyright: ignore[reportCallIssue, reportArgumentType]
    return getattr(section.model_validate({class_name: values.get(class_name) or {}}), class_name)


def modules() -> list[ModuleType]:
    """Return the modules of the folder own/ that are imported, which other processes may not find."""
    folder = OWN.resolve()
    return [module for module in list(sys.modules.values()) if _is_in(folder, getattr(module, "__file__", None))]


def _is_in(folder: Path, file: str | None) -> bool:
    return file is not None and Path(file).is_relative_to(folder)


def _module(at: str, name: str) -> Any:
    folder = str(OWN.resolve())
    if folder not in sys.path:  # for good: worker processes import the class by the name of its module
        sys.path.insert(0, folder)
    try:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise ValueError(f"{at}: there is no module {name}; write {OWN / name.replace('.', '/')}.py") from None
        raise ValueError(f"{at}: {name} cannot be imported: {error}") from None
    except Exception as error:  # of any kind: it is the user's code
        raise ValueError(f"{at}: {name} cannot be imported: {type(error).__name__}: {error}") from None

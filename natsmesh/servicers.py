"""From ``module:Class`` on a command line to a servicer that can be added to a server.

grpcio-tools generates ``XServicer`` and ``add_XServicer_to_server`` side by side, so a class says by its bases what it
implements: nothing has to be registered anywhere.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from natsmesh.exits import Exit, Failure

GENERATED = "gen"
"""The source root of generated code, below the project's folder."""

Adder = Callable[[Any, Any], None]
"""``add_XServicer_to_server(servicer, server)``."""


@dataclass(frozen=True, slots=True)
class Servicer:
    """Something that can be served: where it was named, how to make one, and what adds it to a server."""

    target: str
    kind: type
    make: Callable[[], Any]
    adders: tuple[Adder, ...]

    def service_names(self) -> list[str]:
        """Return the full names of the services that it implements."""
        recorder = _NameRecorder()
        for add in self.adders:
            add(self.kind, recorder)  # the class has the methods too, and need not be made for this
        return recorder.names

    def add_to(self, server: Any) -> None:
        """Make a servicer and add it to a server. Call it where an event loop runs: servicers may make channels."""
        try:
            servicer = self.make()
        except Exception as error:
            raise _failure(self.target, error, "could not be made") from error
        for add in self.adders:
            add(servicer, server)


class _NameRecorder:
    """Takes what generated code adds to a server, for the names only."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self.names += [handler.service_name() for handler in handlers]

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        pass


def use_project(folder: Path) -> None:
    """Make a project's own code importable: the folder itself and its generated code, before everything installed."""
    for path in (folder / GENERATED, folder):
        if (entry := str(path)) in sys.path:
            sys.path.remove(entry)
        sys.path.insert(0, entry)


def load(target: str) -> list[Servicer]:
    """Return what a target names.

    A target is ``module:Class`` (a servicer class that can be made without arguments), ``module:function`` (called
    without arguments, returns a servicer), ``module:object``, or ``module`` (all servicer classes that it defines).
    Raises ``Failure`` that says what is wrong, with file and line where there is one.
    """
    module_name, separator, attribute = target.partition(":")
    if not module_name or (separator and not attribute):
        raise Failure(f"{target!r} names no service: write module:Class, e.g. services.greeter:Greeter", Exit.USAGE)
    module = _import(target, module_name)
    if attribute:
        return [_servicer(target, module, attribute)]
    found = [_servicer(f"{module_name}:{name}", module, name) for name in servicer_classes(module)]
    if not found:
        raise Failure(
            f"{target}: {_short(module.__file__)} defines no servicer: a class whose base is a generated XServicer",
            Exit.USAGE,
        )
    return found


def servicer_classes(module: ModuleType) -> list[str]:
    """Return the names of the servicer classes that a module defines itself, in the order of their definition."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and _adders(value) and name[0] != "_"
    ]


def _servicer(target: str, module: ModuleType, attribute: str) -> Servicer:
    value = getattr(module, attribute, None)
    if value is None:
        place = _short(module.__file__)
        raise Failure(f"{target}: {place} has no {attribute!r}{_suggest(module, attribute)}", Exit.USAGE)
    if isinstance(value, type):
        return Servicer(target, value, value, _checked(target, value))
    if _adders(type(value)):
        return Servicer(target, type(value), lambda: value, _checked(target, type(value)))
    if callable(value):
        made = _call(target, value)
        return Servicer(target, type(made), lambda: made, _checked(target, type(made)))
    raise Failure(
        f"{target} is a {type(value).__name__}, not a servicer class or a function that makes one", Exit.USAGE
    )


def _call(target: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:
        raise _failure(target, error, "could not be called") from error


def _checked(target: str, kind: type) -> tuple[Adder, ...]:
    if adders := _adders(kind):
        if kind.__name__.endswith("Servicer") and _own_adder(kind):
            raise Failure(f"{target} is the generated base class: name the class that implements it", Exit.USAGE)
        return adders
    raise Failure(
        f"{_place_of(kind)}{target} is no servicer: none of its bases is a generated XServicer"
        " (expected e.g. `class Greeter(greeter_pb2_grpc.GreeterServicer)`)",
        Exit.USAGE,
    )


def _adders(kind: type) -> tuple[Adder, ...]:
    """Return the adders of all generated bases: one class may implement several services."""
    return tuple(adder for base in kind.__mro__ if (adder := _own_adder(base)) is not None)


def _own_adder(base: type) -> Adder | None:
    if not base.__name__.endswith("Servicer"):
        return None
    adder = getattr(sys.modules.get(base.__module__), f"add_{base.__name__}_to_server", None)
    return adder if callable(adder) else None


def _import(target: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _failure(target, error, "could not be imported") from error
    except SystemExit as error:
        raise Failure(f"{target} could not be imported: it calls exit({error.code!r})", Exit.USAGE) from error


def _failure(target: str, error: Exception, what: str) -> Failure:
    """Explain an exception of the user's own code: where it is, and what to do if that is known."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        place, source = f"{_short(error.filename)}:{error.lineno}", error.text
        text = f"{type(error).__name__}: {error.msg}"
    else:
        place, source = _place(error.__traceback__)
    message = f"{place + ': ' if place else ''}{target} {what}: {text}"
    if source and source.strip():
        message += f"\n    {source.strip()}"
    if isinstance(error, ImportError) and (hint := _import_hint(target, error)):
        message += f"\n{hint}"
    return Failure(message, Exit.USAGE)


def _place(trace: TracebackType | None) -> tuple[str, str | None]:
    """Return file and line, and that line, of the innermost frame in the project's own code."""
    here = Path(__file__).parent
    frames = [
        frame
        for frame in traceback.extract_tb(trace)
        if not frame.filename.startswith("<") and here not in Path(frame.filename).parents
        and "importlib" not in frame.filename
    ]  # fmt: skip
    own = [frame for frame in frames if "site-packages" not in frame.filename and _is_below_project(frame.filename)]
    for frame in reversed(own or frames):
        return f"{_short(frame.filename)}:{frame.lineno}", frame.line
    return "", None


def _import_hint(target: str, error: ImportError) -> str:
    module, missing = target.partition(":")[0], error.name or ""
    if re.search(r"_pb2(_grpc)?\b", str(error)) or (missing and Path("proto", *missing.split(".")).is_dir()):
        return (
            'Is the code generated? python -m grpc_tools.protoc -Iproto -I"$(natsmesh protos)" --python_out=gen'
            " --pyi_out=gen --grpc_python_out=gen FILES (`natsmesh dev` does it for you)"
        )
    if not isinstance(error, ModuleNotFoundError):
        return ""
    if module == missing or module.startswith(f"{missing}."):
        top = getattr(sys.modules.get(missing.partition(".")[0]), "__file__", None)
        if top is not None and not _is_below_project(top):
            # A folder without __init__.py loses against a package of that name anywhere on the path.
            return f"Python takes the package {missing.partition('.')[0]} from {top}: give yours an __init__.py"
        parent, _, last = missing.rpartition(".")
        folder = Path(*parent.split(".")) if parent else Path()
        names = [path.stem for path in folder.glob("*.py")] if folder.is_dir() else []
        close = difflib.get_close_matches(last, names, n=1)
        meant = f" Did you mean {parent + '.' if parent else ''}{close[0]}?" if close else ""
        file = f"{missing.replace('.', '/')}.py"
        return f"There is no {file} below {Path.cwd()}: run this in the project's folder.{meant}"
    return ""


def _suggest(module: ModuleType, attribute: str) -> str:
    classes = servicer_classes(module)
    if close := difflib.get_close_matches(attribute, classes, n=1, cutoff=0.5):
        return f": did you mean {module.__name__}:{close[0]}?"
    return f"; it defines {', '.join(classes)}" if classes else " and defines no servicer class"


def _place_of(kind: type) -> str:
    try:
        line = inspect.getsourcelines(kind)[1]
        return f"{_short(inspect.getsourcefile(kind))}:{line}: "
    except (OSError, TypeError):
        return ""


def _is_below_project(filename: str) -> bool:
    return Path.cwd() in Path(filename).absolute().parents


def _short(filename: str | None) -> str:
    """Return a path as people and editors like it: relative to where they are."""
    if filename is None:
        return "the package"
    path = Path(filename).absolute()
    return str(path.relative_to(Path.cwd())) if _is_below_project(filename) else str(path)

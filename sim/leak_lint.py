"""Finds in source what would make two equal runs differ, before any run.

The order of a set of strings depends on the process's hash seed, that of a set of objects on memory
addresses, and neither shows in a single run. So code that decides may hold sets and ask them, but
not go through them. This module finds loops over sets and what amounts to one (``list(s)``,
``*s``, ``s.pop()``), ``hash`` and ``id``, and every use of a clock, of randomness without a seed and of
threads that names it.

What is a set is told by displays, comprehensions, calls of ``set`` and ``frozenset``, annotations and
set operations; attributes go by their name, whoever's they are. Where the order is known not to
matter, the line says so: ``# any order: <why>``; code around the runs, such as a progress bar, says
``# outside a run: <why>``.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

EXCUSES: Final = ("# any order:", "# outside a run:")

_SET_TYPES: Final = {"set", "frozenset", "Set", "AbstractSet", "MutableSet", "FrozenSet"}
_SET_METHODS: Final = {"union", "intersection", "difference", "symmetric_difference"}
_ORDERLESS: Final = {"sorted", "set", "frozenset", "len", "any", "all", "sum", "min", "max"}
_ORDERED: Final = {"list", "tuple", "iter", "enumerate", "map", "filter", "zip", "reversed"}
_ORDERED_METHODS: Final = {"join", "extend", "fromkeys", "extendleft"}
_OUTSIDE: Final = (
    "time.", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today",
    "datetime.date.today", "random.", "secrets.", "uuid.uuid1", "uuid.uuid4", "os.urandom",
    "os.getrandom", "os.getpid", "os.environ", "os.getenv", "threading.", "multiprocessing.",
    "concurrent.", "subprocess.", "socket.", "trio.to_thread", "trio.from_thread",
    "anyio.to_thread", "anyio.from_thread", "asyncio.",
)  # fmt: skip


class Leak(NamedTuple):
    """One finding.

    Attributes:
      file: As it was named.
      line: From 1.
      what: Such as ``loop over the set 'taken'`` or ``datetime.datetime.now``.
    """

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def find_leaks(sources: Mapping[str, str]) -> list[Leak]:
    """What leaks in modules that are read together.

    Args:
      sources: Python source by file name.

    Returns:
      Shape: by file in the order given, then by line; lines with an excuse are left out.
    """
    trees = {file: ast.parse(source, file) for file, source in sources.items()}
    attributes: set[str] = set()
    functions: set[str] = set()
    for tree in trees.values():
        _collect(tree, attributes, functions)
    found: list[Leak] = []
    for file, tree in trees.items():
        finder = _Finder(file, attributes, functions)
        finder.visit(tree)
        lines = sources[file].splitlines()
        found += sorted(
            leak
            for leak in finder.leaks
            if not any(excuse in lines[leak.line - 1] for excuse in EXCUSES)
        )
    return found


def _collect(tree: ast.Module, attributes: set[str], functions: set[str]) -> None:
    """The names of attributes and functions that are annotated as sets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, ast.AnnAssign) and _says_set(one.annotation):
                    assert isinstance(one.target, ast.Name)
                    attributes.add(one.target.id)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            if _says_set(node.annotation):
                attributes.add(node.target.attr)
        elif isinstance(node, ast.Assign) and _is_display(node.value):
            attributes.update(one.attr for one in node.targets if isinstance(one, ast.Attribute))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _says_set(node.returns):
            functions.add(node.name)


def _says_set(annotation: ast.expr | None) -> bool:
    """Whether an annotation is a set's, or a union with one."""
    match annotation:
        case ast.Constant(value=str(text)):
            return _says_set(ast.parse(text, mode="eval").body)
        case ast.Subscript(value=ast.Name(id="Final" | "ClassVar"), slice=inner):
            return _says_set(inner)
        case ast.Subscript(value=value):
            return _says_set(value)
        case ast.BinOp(left=left, right=right):
            return _says_set(left) or _says_set(right)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _SET_TYPES
        case _:
            return False


def _is_display(value: ast.expr) -> bool:
    match value:
        case ast.Set() | ast.SetComp() | ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case _:
            return False


class _Finder(ast.NodeVisitor):
    """Walks one module; knows which names are sets in the functions around."""

    def __init__(self, file: str, attributes: set[str], functions: set[str]) -> None:
        self.leaks: list[Leak] = []
        self._file = file
        self._attributes = attributes
        self._functions = functions
        self._scopes: list[dict[str, bool]] = [{}]
        self._imported: dict[str, str] = {}
        self._orderless: list[ast.expr] = []

    # -- what is a set -----------------------------------------------------

    def _is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Name(id=name):
                return next(
                    (scope[name] for scope in reversed(self._scopes) if name in scope), False
                )
            case ast.Attribute(attr=name):
                return name in self._attributes
            case ast.Call(func=ast.Name(id=name)):
                return name in ("set", "frozenset") or name in self._functions
            case ast.Call(func=ast.Attribute(value=value, attr=name)):
                if name in self._functions:
                    return True
                return (name in _SET_METHODS or name == "copy") and self._is_set(value)
            case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
                return any(self._is_set(side) or _is_keys(side) for side in (left, node.right))
            case ast.IfExp(body=body, orelse=orelse):
                return self._is_set(body) or self._is_set(orelse)
            case ast.BoolOp(values=values):
                return any(self._is_set(value) for value in values)
            case ast.NamedExpr(value=value):
                return self._is_set(value)
            case _:
                return False

    def _loop(self, node: ast.expr) -> None:
        if self._is_set(node):
            self._found(node, f"loop over the set {ast.unparse(node)!r}: sort it")

    def _found(self, node: ast.expr | ast.stmt, what: str) -> None:
        self.leaks.append(Leak(self._file, node.lineno, what))

    # -- scopes and names --------------------------------------------------

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        given = node.args
        names = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        self._scopes.append({one.arg: _says_set(one.annotation) for one in names})
        self.generic_visit(node)
        self._scopes.pop()

    visit_FunctionDef = _visit_function  # noqa: N815
    visit_AsyncFunctionDef = _visit_function  # noqa: N815
    visit_Lambda = _visit_function  # noqa: N815

    def visit_Import(self, node: ast.Import) -> None:
        for one in node.names:
            name = one.asname or one.name.partition(".")[0]
            self._imported[name] = one.name if one.asname else name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for one in node.names:
            self._imported[one.asname or one.name] = f"{node.module}.{one.name}"

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._scopes[-1][target.id] = self._is_set(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._scopes[-1][node.target.id] = _says_set(node.annotation)
        if node.value is not None:
            self.visit(node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.generic_visit(node)
        self._scopes[-1][node.target.id] = self._is_set(node.value)

    # -- loops -------------------------------------------------------------

    def visit_For(self, node: ast.For) -> None:
        self._loop(node.iter)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._loop(node.value)
        self.generic_visit(node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        self._loop(node.value)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.Add):  # a list takes any iterable so
            self._loop(node.value)
        self.generic_visit(node)

    def _visit_comprehension(self, node: ast.ListComp | ast.DictComp | ast.GeneratorExp) -> None:
        if node not in self._orderless:
            for one in node.generators:
                self._loop(one.iter)
        self.generic_visit(node)

    visit_ListComp = _visit_comprehension  # noqa: N815
    visit_DictComp = _visit_comprehension  # noqa: N815
    visit_GeneratorExp = _visit_comprehension  # noqa: N815

    def visit_Call(self, node: ast.Call) -> None:
        if self._full_name(node.func) == "random.Random" and not node.args:
            self._found(node, "random.Random without a seed")
        match node.func:
            case ast.Name(id=name) if name in _ORDERLESS:
                self._orderless += node.args
            case ast.Name(id="hash" | "id" as name):
                self._found(node, f"{name}() differs between processes")
            case ast.Name(id=name) if name in _ORDERED:
                for given in node.args:
                    self._loop(given)
            case ast.Attribute(attr=name) if name in _ORDERED_METHODS:
                for given in node.args:
                    self._loop(given)
            case ast.Attribute(value=value, attr="pop") if not node.args and self._is_set(value):
                self._found(node, f"pop from the set {ast.unparse(value)!r} takes any element")
            case _:
                pass
        self.generic_visit(node)

    # -- what lies outside -------------------------------------------------

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not self._outside(node):
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self._outside(node)

    def _outside(self, node: ast.Attribute | ast.Name) -> bool:
        name = self._full_name(node)
        if not name.startswith(_OUTSIDE) or name == "random.Random":
            return False
        self._found(node, name)
        return True

    def _full_name(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id=name):
                return self._imported.get(name, "")
            case ast.Attribute(value=value, attr=attr):
                before = self._full_name(value)
                return f"{before}.{attr}" if before else ""
            case _:
                return ""


def _is_keys(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="keys" | "items")):
            return True
        case _:
            return False

"""Device code that brings few names along, with the same lines and the same meaning.

A chip keeps every name that any module has ever brought: its text, and 7 bytes in pools that double
in size, in RAM and for good (MicroPython's py/qstr.c). With some 300 of them a chip has 2 KB for
pools, with one more 4. Free are the names of local variables, and those that every firmware has.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from zlib import crc32

# What the project's own modules call things among themselves: neither in the docs nor in an app.
INTERNAL = frozenset(
    # of runtime/ and drivers/
    "App Copy Health Left Runner Scheduler Updater Wifi Wire again base been calls changed"
    " check_late checks confirmed down failed failures folder late learn make matches"
    " missed newest on_up place rand remember say servers since soon take"
    " tallies tally ticket unknown work"
    # of the boot stage
    " Manifest Names Record attempt beat check_confirmed check_files fault file_hash go_back hexa"
    " is_hex MAX PREFIX REASONS ZERO misses number rejection signed soft station sweep"
    " take_in".split()
)

# Names that every firmware has in ROM. The first are for parameters alone: one of them would hide
# a function of the same name. Most are numbers in .mpy files (py/makeqstrdata.py,
# static_qstr_list), then come those of errno, uctypes and
# math.
FOR_PARAMETERS = (
    "ArithmeticError AssertionError BaseException EOFError Ellipsis GeneratorExit ImportError"
    " IndentationError LookupError NameError NotImplementedError OverflowError StopIteration"
    " SystemExit ZeroDivisionError".split()
)
FOR_OTHERS = (
    "all any args bool bytearray bytecode callable chr classmethod count dict dir divmod endswith"
    " eval exec extend from_bytes globals hash insert isalpha isdigit islower isspace issubclass"
    " isupper list locals lower lstrip map micropython object ord popitem pow range remove reverse"
    " rfind rindex round rsplit rstrip setattr setdefault sorted staticmethod strip sum super"
    " to_bytes tuple type update upper values zip AttributeError IndexError KeyError RuntimeError"
    " SyntaxError TypeError EACCES EADDRINUSE EALREADY EBADF ECONNABORTED ECONNREFUSED EHOSTUNREACH"
    " EINVAL EIO EISDIR ENOBUFS ENODEV ENOENT ENOMEM ENOTCONN EOPNOTSUPP EPERM ARRAY BFINT16"
    " BFINT32 BFINT8 BFUINT16 BFUINT32 BFUINT8 BF_LEN BF_POS BIG_ENDIAN FLOAT32 FLOAT64 INT INT16"
    " INT32 INT64 INT8 LITTLE_ENDIAN LONG LONGLONG NATIVE PTR SHORT UINT UINT16 UINT32 UINT64"
    " UINT8 ULONG ULONGLONG USHORT VOID acos asin atan atan2 ceil copysign cos degrees exp fabs"
    " floor fmod frexp isfinite isinf isnan ldexp modf radians sin sqrt tan trunc".split()
)

Edit = tuple[int, int, int, str]
"""(line, from 0; first column and the one behind the last, in bytes; what stands there instead)"""
Defined = ast.FunctionDef | ast.AsyncFunctionDef


def without_constants(sources: Mapping[str, str]) -> dict[str, str]:
    """The modules of one package with numbers in the place of each other's constants.

    Args:
        sources: path (`package/module.py`) -> text. `NAME = const(1)` at the top of one module
            becomes private to it, and `module.NAME` in another one becomes 1, unless somebody
            reaches NAME in another way, like `from package.module import NAME`.
    """
    trees = {file: ast.parse(text, file) for file, text in sources.items()}
    elsewhere = {name for tree in trees.values() for name in _reached_otherwise(tree)}
    constants = {
        file: {name: value for name, value in _constants(tree) if name not in elsewhere}
        for file, tree in trees.items()
    }
    public = {Path(file).stem: known for file, known in constants.items()}
    return {
        file: _edited(text, _inlined(trees[file], constants[file], public))
        for file, text in sources.items()
    }


def short(sources: Mapping[str, str], beside: Iterable[str] = ()) -> dict[str, str]:
    """The modules with firmware's names for parameters, for what is private (`_name`) or INTERNAL.

    A parameter keeps its name when it has a default or any call anywhere says `name=`. What stands
    in any text, like the "name" of a getattr(), keeps it as well, and so does what is INTERNAL and
    used by the modules `beside`.

    Args:
        sources: path -> text of the modules to change; all that belong together.
        beside: text of further modules that may use these.

    Raises:
        SyntaxError: a module is no Python.
    """
    trees = {file: ast.parse(text, file) for file, text in sources.items()}
    others = [ast.parse(text) for text in beside]
    kept = {name for tree in (*trees.values(), *others) for name in _kept(tree)}
    kept |= {name for tree in others for name in _identifiers(tree)}
    chosen = _chosen(_internal(trees.values()) - kept, _unused(FOR_OTHERS, trees.values(), kept))
    reached = {name for tree in trees.values() for name in _reached(tree)}
    return {
        file: _edited(
            text,
            [
                *_everywhere(trees[file], text, chosen),
                *_of_globals(trees[file], text, kept | reached | set(chosen.values())),
                *_of_parameters(trees[file], kept | chosen.keys()),
            ],
        )
        for file, text in sources.items()
    }


# --- constants -----------------------------------------------------------------------------------


def _constants(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Name(id="const"), args=[ast.Constant(value=int(value))]),
            ) if not _private(name):
                yield name, value


def _is_constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "const"


def _modules(tree: ast.Module) -> set[str]:
    """Names that stand for a module wherever they are used."""
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def _reached_otherwise(tree: ast.Module) -> Iterator[str]:
    modules = _modules(tree)
    yield from modules
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module)) if module in modules:
                pass
            case ast.Attribute(attr=name):
                yield name


def _inlined(
    tree: ast.Module, own: Mapping[str, int], public: Mapping[str, Mapping[str, int]]
) -> Iterator[Edit]:
    modules = _modules(tree) & public.keys()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in own:
                yield _edit(node, name, f"_{name}")
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (
                module in modules and name in public[module]
            ):
                yield _edit(node, f"{module}.{name}", str(public[module][name]))


# --- what is private, and parameters -------------------------------------------------------------


def _kept(tree: ast.Module) -> Iterator[str]:
    """Names that are reached in more ways than `short` changes."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)):
                yield from text.split(".")
            case ast.keyword(arg=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                yield from names
            case ast.Import(names=aliases):
                yield from (name for alias in aliases for name in alias.name.split("."))
            case ast.ImportFrom(module=str(module)):
                yield from module.split(".")
            case ast.alias(asname=str(name)):
                yield name
            case ast.JoinedStr():  # whose parts have no places of their own
                yield from _identifiers(node)


def _identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.alias(name=name):
                yield name


def _private(name: str) -> bool:
    return name[0] == "_" and not name.endswith("__") and name != "_"


def _chosen(names: Iterable[str], free: Sequence[str]) -> dict[str, str]:
    """Give each of `names` a free one.

    By a hash: one name more shall not change those of all others, and so many files of a release.
    """
    chosen: dict[str, str] = {}
    for name in sorted(names)[: len(free)]:
        at = crc32(name.encode()) % len(free)
        while free[at] in chosen.values():
            at = (at + 1) % len(free)
        chosen[name] = free[at]
    return chosen


def _reached(tree: ast.Module) -> Iterator[str]:
    """Names of what other modules may have."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.alias(name=name):
                yield name


def _unused(free: Iterable[str], trees: Iterable[ast.AST], kept: set[str]) -> list[str]:
    used = {name for tree in trees for name in _identifiers(tree)}
    return [name for name in free if name not in used | kept]


def _internal(trees: Iterable[ast.Module]) -> set[str]:
    """What is INTERNAL, and private members: attributes and methods."""
    found: set[str] = set()
    variables: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Store()):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Name(id=name):
                variables.add(name)
    members = {name for name in found - variables if _private(name)}
    return members | INTERNAL & {name for tree in trees for name in _identifiers(tree)}


def _everywhere(tree: ast.Module, text: str, chosen: Mapping[str, str]) -> Iterator[Edit]:
    """Edits of each name in whatever role: a new one that nothing else has means the same."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name in chosen:
                end = node.end_col_offset or 0
                line = (node.end_lineno or 0) - 1
                yield line, end - len(name.encode()), end, chosen[name]
            case ast.Name(id=name) | ast.arg(arg=name) | ast.alias(name=name) if name in chosen:
                yield _edit(node, name, chosen[name])
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ) if name in chosen:
                yield _edit_definition(node, text, chosen[name])


def _of_globals(tree: ast.Module, text: str, kept: set[str]) -> Iterator[Edit]:
    """Private functions and variables of a module that nobody else reaches."""
    functions = {node.name for node in tree.body if isinstance(node, Defined)}
    variables = {part.id for node in tree.body if isinstance(node, ast.Assign)
                 for part in node.targets if isinstance(part, ast.Name)
                 and not _is_constant(node.value)}  # fmt: skip
    own = filter(_private, (functions | variables) - kept)
    chosen = _chosen(own, _unused(FOR_OTHERS, [tree], kept))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in chosen:
            yield _edit(node, node.id, chosen[node.id])
        elif isinstance(node, Defined) and node.name in chosen:
            yield _edit_definition(node, text, chosen[node.name])


def _of_parameters(tree: ast.Module, kept: set[str]) -> Iterator[Edit]:
    nodes = list(ast.walk(tree))
    variables = {node.id for node in nodes if isinstance(node, ast.Name)}
    functions = {node.name for node in nodes if isinstance(node, Defined)}
    free = [name for name in FOR_PARAMETERS if name not in variables | functions | kept]
    yield from _in_functions(tree, {*kept, *functions, *FOR_PARAMETERS, *FOR_OTHERS}, free)


def _in_functions(node: ast.AST, kept: set[str], free: list[str]) -> Iterator[Edit]:
    """Edits of the parameters of all functions inside `node`; `free` are the names to take."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Defined | ast.Lambda):
            yield from _in_functions(child, kept, free)
            continue
        places = child.args
        plain = [*places.posonlyargs, *places.args]
        plain = [arg for arg in plain[: len(plain) - len(places.defaults)] if arg.arg != "self"]
        chosen = {
            arg.arg: new for arg, new in
            zip([arg for arg in plain if arg.arg not in kept], free, strict=False)
        }  # fmt: skip
        body = child.body if isinstance(child.body, list) else [child.body]
        for part in (*plain, *(inner for line in body for inner in ast.walk(line))):
            match part:
                case ast.arg(arg=name) | ast.Name(id=name) if name in chosen:
                    yield _edit(part, name, chosen[name])
        yield from _in_functions(child, kept | chosen.keys(), free[len(chosen) :])


# --- in the text ---------------------------------------------------------------------------------


def _edit(node: ast.expr | ast.arg | ast.alias, old: str, new: str) -> Edit:
    return node.lineno - 1, node.col_offset, node.col_offset + len(old.encode()), new


def _edit_definition(node: Defined | ast.ClassDef, text: str, new: str) -> Edit:
    line = text.split("\n")[node.lineno - 1].encode()
    begin = line.index(b" " + node.name.encode(), node.col_offset) + 1
    return node.lineno - 1, begin, begin + len(node.name.encode()), new


def _edited(text: str, edits: Iterable[Edit]) -> str:
    lines = text.encode().split(b"\n")
    for line, begin, end, new in sorted(edits, reverse=True):
        lines[line] = lines[line][:begin] + new.encode() + lines[line][end:]
    return b"\n".join(lines).decode()

"""Device code that brings few names along, with the same lines and the same meaning.

A chip keeps every name that any module has ever brought: its text, and 7 bytes in pools that double
in size, in RAM and for good (MicroPython's py/qstr.c). With some 300 of them a chip has 2 KB for
pools, with one more 4. Free are the names of local variables, and those that every firmware has.

Only the project's own modules are changed, and what a name becomes depends on them alone: a new
line in an app leaves them as they are, byte for byte, and travels alone. What an app reaches by a
name of these keeps it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from zlib import crc32

from . import cached
from .bytecode import module_name

# What the project's own modules call things among themselves: neither in the docs nor in an app.
INTERNAL = frozenset(
    # of runtime/ and drivers/
    "App Copy Runner Scheduler Updater Wifi Wire announce base been blocked_by calls changed"
    " check_late checks confirmed down failed failures jobs late learn make"
    " make_folder matches missed newest obey on_up other out parts place queue rand remember say"
    " second sent servers settings_trial since soon take tallies tally ticket tries unknown"
    " waits wipe"
    # of the boot stage
    " apply apply_next around attempt beat bring button check_compatible check_confirmed"
    " check_files check_manifest check_signatures check_trust Client commit confirm_at"
    " CONNECTING connection Connection crashed dev_signed digests discover download"
    " end_if_stopped expect fields file_hash files flags from_damaged hexa INSTALLING is_hex"
    " is_running last_failure led_timer LineReader make_room Manifest manifest_path MAX"
    " min_uptime Names next_try number plain Poll poll_at poll_failures poll_running PREFIX"
    " reached reason REASONS rebuild receive Record RECOVERY reject rejected render"
    " report_rejection server_reached Session signed signers soft_count start_trial"
    " station stopped sweep tick_timer to_other tries_left trust_version"
    " verify_signature ZERO".split()
)

# Names that every firmware has in ROM (test_names.py asks the binary). The first are
# for parameters alone, the next for attributes, too: nobody's own attribute is called like that.
FOR_PARAMETERS = (
    "ArithmeticError AssertionError BaseException EOFError Ellipsis GeneratorExit ImportError"
    " IndentationError LookupError NameError NotImplementedError OverflowError StopIteration"
    " SystemExit ZeroDivisionError".split()
)
FOR_MEMBERS = (
    "AttributeError IndexError KeyError RuntimeError SyntaxError TypeError EACCES EADDRINUSE"
    " EALREADY EBADF ECONNABORTED ECONNREFUSED EHOSTUNREACH EINVAL EIO EISDIR ENOBUFS ENODEV"
    " ENOENT ENOMEM ENOTCONN EOPNOTSUPP EPERM ARRAY BFINT16 BFINT32 BFINT8 BFUINT16 BFUINT32"
    " BFUINT8 BF_LEN BF_POS BIG_ENDIAN FLOAT32 FLOAT64 INT INT16 INT32 INT64 INT8 LITTLE_ENDIAN"
    " LONG LONGLONG NATIVE PTR SHORT UINT UINT16 UINT32 UINT64 UINT8 ULONG ULONGLONG USHORT VOID"
    " GS2_HMSB GS4_HMSB GS8 MONO_HLSB MONO_HMSB MVLSB RGB565 FrameBuffer1 acos asin atan atan2"
    " ceil copysign degrees fabs fmod frexp isfinite isinf isnan ldexp modf radians trunc"
    " addressof bytearray_at bytes_at bytearray callable classmethod divmod endswith from_bytes"
    " frozenset globals isalpha isdigit islower isspace issubclass isupper lstrip popitem rfind"
    " rindex rsplit rstrip setdefault staticmethod to_bytes blit ellipse fill_rect hline vline"
    " poly calcsize pack_into unpack_from isenabled mem_info qstr_info heap_lock heap_unlock"
    " OrderedDict popleft appendleft heappush heappop heapify POLLERR POLLHUP GZIP ZLIB b2a_base64"
    " byteorder stack_use opt_level VfsFat readblocks writeblocks viper isdisjoint"
    " symmetric_difference symmetric_difference_update issuperset intersection intersection_update"
    " difference difference_update errorcode namedtuple version_info DeflateIO"
    " all bytecode chr cos count eval exec exp extend floor locals map object pow round sin sqrt"
    " sum tan upper".split()
)
FOR_GLOBALS = FOR_MEMBERS + (
    "any args bool dict dir hash insert list lower micropython ord range remove reverse sorted"
    " tuple type update values zip".split()
)

_LENT = frozenset(FOR_PARAMETERS + FOR_GLOBALS)

VERSION = (b"names", Path(__file__).read_bytes())
"""Of what becomes of a module here, for cached.py."""

Edit = tuple[int, int, int, str]
"""(line, from 0; first column and the one behind the last, in bytes; what stands there instead)"""
_WHOLE = 1_000
"""Beyond the end of every line."""
Defined = ast.FunctionDef | ast.AsyncFunctionDef


def without_constants(sources: Mapping[str, str]) -> dict[str, str]:
    """The modules of one package with numbers in the place of each other's constants.

    Args:
        sources: path (`package/module.py`) -> text. `NAME = const(1)` at the top of one module
            becomes private to it, and `module.NAME` in another one becomes 1, unless somebody
            reaches NAME in another way, like `from package.module import NAME`. Imports that
            nothing needs after that go, as does that of `const`, which the compiler knows.
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


def short(sources: Mapping[str, str], beside: Iterable[bytes] = ()) -> dict[str, str]:
    """The modules with firmware's names for parameters, for what is private (`_name`) or INTERNAL.

    A parameter keeps its name when it has a default or any call says `name=`. What a text of the
    modules is, like the "name" of a getattr(), keeps it as well.

    Args:
        sources: path -> text of all modules of one body of code, whichever of them a board gets.
        beside: further modules that may use these, source or bytecode. The names by which they
            may, stay.

    Raises:
        SyntaxError: one of `sources` is no Python.
    """
    uses = [_uses(text) for text in beside]
    # A name that none of the modules has, and that none of them may get, changes nothing.
    known = {word for text in sources.values() for word in re.findall(r"\w+", text)} | _LENT | {"*"}
    reached = {name for use in uses for name in use.reached} & known
    given = {name for use in uses for name in use.given} & known
    keywords = {name for use in uses for name in use.keywords} & known
    beside_names = [sorted(names) for names in (reached, given, keywords)]
    return cached.texts(
        (*VERSION, json.dumps([sorted(sources.items()), beside_names]).encode()),
        lambda: _short(sources, reached, given, keywords),
    )


def _short(
    sources: Mapping[str, str], reached: set[str], given: set[str], keywords: set[str]
) -> dict[str, str]:
    body = _body(tuple(sorted(sources.items())))
    if "*" in reached:  # everything that has no underscore would become the app's
        return dict(sources)
    members = {
        old: new for old, new in body.members.items()
        if old not in reached | given | keywords and new not in given
    }  # fmt: skip
    return {
        file: _edited(text, body.edits(file, members, reached, keywords))
        for file, text in sources.items()
    }


def restored(trace: str, *bodies: Mapping[str, str]) -> str:
    """A traceback with the functions' own names again, which are found by their lines.

    Args:
        trace: as a board prints it.
        bodies: path -> text of the modules it may go through, each as `short` was given them.
    """
    files = {module_name(file): (file, body) for body in bodies for file in body}

    def line(match: re.Match[str]) -> str:
        if match["module"] not in files or match["name"] not in _LENT:
            return match[0]
        file, sources = files[match["module"]]
        name = _function(sources[file], int(match["line"])) or match["name"]
        return match[0].removesuffix(match["name"]) + name

    return re.sub(r'File "(?P<module>[\w.]+)", line (?P<line>\d+), in (?P<name>\w+)', line, trace)


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
    inlined: set[ast.expr] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in own:
                yield _edit(node, name, f"_{name}")
            case ast.Attribute(value=ast.Name(id=module) as value, attr=name) if (
                module in modules and name in public[module]
            ):
                inlined.add(value)
                yield _edit(node, f"{module}.{name}", str(public[module][name]))
    needed = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)
              and node not in inlined}  # fmt: skip
    yield from _without_imports(tree, {"const", *modules} - (needed - {"const"}))


def _without_imports(tree: ast.Module, needless: set[str]) -> Iterator[Edit]:
    """Edits of the imports at the top that bring a needless name, however many lines they have."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(a.name in needless for a in node.names):
            left = [ast.unparse(alias) for alias in node.names if alias.name not in needless]
            first = f"from {node.module} import {', '.join(left)}" if left else ""
            last = node.end_lineno or node.lineno
            for line in range(node.lineno, last + 1):
                end = (node.end_col_offset or 0) if line == last else _WHOLE
                yield line - 1, 0, end, first if line == node.lineno else ""


# --- what is private, and parameters -------------------------------------------------------------


@dataclass(frozen=True)
class _Body:
    """Modules that belong together, and what names they get where nobody else uses them."""

    texts: Mapping[str, str]
    trees: Mapping[str, ast.Module]
    kept: frozenset[str]  # reached in more ways than are changed here
    members: Mapping[str, str]  # old name -> new one, the same in all modules
    globals: Mapping[str, Mapping[str, str]]  # by file

    def edits(
        self, file: str, members: Mapping[str, str], reached: set[str], keywords: set[str]
    ) -> Iterator[Edit]:
        tree, text = self.trees[file], self.texts[file]
        own = {old: new for old, new in self.globals[file].items() if old not in reached}
        yield from _everywhere(tree, text, members)
        yield from _of_globals(tree, text, own)
        yield from _of_parameters(tree, self.kept | self.members.keys() | keywords)


@cache
def _body(items: tuple[tuple[str, str], ...]) -> _Body:
    texts = dict(items)
    trees = {file: ast.parse(text, file) for file, text in items}
    kept = {name for tree in trees.values() for name in _kept(tree)}
    kept.update(Path(file).stem for file in texts)
    members = _chosen(_internal(trees.values()) - kept, _unused(FOR_MEMBERS, trees.values(), kept))
    reached = {name for tree in trees.values() for name in _reached(tree)}
    not_own = kept | reached | members.keys() | set(members.values())
    return _Body(
        texts,
        trees,
        frozenset(kept),
        members,
        {file: _chosen(_private_globals(tree) - not_own, _unused(FOR_GLOBALS, [tree], not_own))
         for file, tree in trees.items()},
    )  # fmt: skip


def _kept(tree: ast.Module) -> Iterator[str]:
    """Names that are reached in more ways than `short` changes."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)):
                yield from text.split(".")
            case ast.keyword(arg=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name
            case ast.Nonlocal(names=names):
                yield from names
            case ast.Import(names=aliases):
                yield from (name for alias in aliases for name in alias.name.split("."))
            case ast.ImportFrom(module=str(module)):
                yield from module.split(".")
            case ast.alias(asname=str(name)):
                yield name
            case ast.JoinedStr():  # whose parts have no places of their own
                yield from _identifiers(node)


@dataclass(frozen=True)
class _Uses:
    """What a module beside may mean by a name that is ours."""

    reached: frozenset[str]  # attributes, and what it imports; "*" for everything
    given: frozenset[str]  # attributes that it gives to objects, and to subclasses
    keywords: frozenset[str]  # of arguments


def _uses(module: bytes) -> _Uses:
    try:
        tree = ast.parse(module)
    except (SyntaxError, ValueError):  # bytecode: any of its words may be a name
        words = frozenset(re.findall(r"[A-Za-z_]\w*", module.decode("latin-1"), re.ASCII))
        return _Uses(words, words, words)
    reached: set[str] = set()
    given: set[str] = set()
    keywords: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=context):
                reached.add(name)
                if isinstance(context, ast.Store):
                    given.add(name)
            case ast.alias(name=name):
                reached.update(name.split("."))
            case ast.ClassDef(body=body):
                given.update(_defined(body))
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr")):
                reached.update(_texts(node))
                given.update(_texts(node))
            case ast.Call(keywords=arguments):
                keywords.update(part.arg for part in arguments if part.arg)
                if any(part.arg is None for part in arguments):  # f(**a_dictionary)
                    keywords.update(_texts(tree))
    return _Uses(frozenset(reached), frozenset(given), frozenset(keywords))


def _defined(body: Iterable[ast.stmt]) -> Iterator[str]:
    for part in body:
        match part:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def _texts(tree: ast.AST) -> set[str]:
    return {
        node.value for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }  # fmt: skip


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


def _chosen(names: Iterable[str], free: list[str]) -> dict[str, str]:
    """Give each of `names` a free one, as far as they go.

    By a hash: with one name more most of the others shall get what they had.
    """
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names)[: len(free)]:
        at = crc32(name.encode()) % len(free)
        while free[at] in taken:
            at = (at + 1) % len(free)
        chosen[name] = free[at]
        taken.add(free[at])
    return chosen


def _reached(tree: ast.Module) -> Iterator[str]:
    """Names of what other modules may have."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.alias(name=name):
                yield name


def _unused(free: Iterable[str], trees: Iterable[ast.AST], kept: Iterable[str]) -> list[str]:
    used = {name for tree in trees for name in _identifiers(tree)}.union(kept)
    return [name for name in free if name not in used]


def _internal(trees: Iterable[ast.Module]) -> set[str]:
    """What is INTERNAL, and private members: attributes and methods."""
    found: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Store()):
                found.add(name)
            case ast.ClassDef(body=body):
                found.update(_defined(body))
    members = {name for name in found if _private(name)}
    return members | INTERNAL & {name for tree in trees for name in _identifiers(tree)}


def _private_globals(tree: ast.Module) -> set[str]:
    """Private names of a module's own, less those that a parameter is called like."""
    functions = {node.name for node in tree.body if isinstance(node, Defined | ast.ClassDef)}
    variables = {part.id for node in tree.body if isinstance(node, ast.Assign)
                 for part in node.targets if isinstance(part, ast.Name)
                 and not _is_constant(node.value)}  # fmt: skip
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return {name for name in functions | variables if _private(name)} - parameters


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
            case ast.Global():
                yield from _edits_of_global(node, text, chosen)


def _of_globals(tree: ast.Module, text: str, chosen: Mapping[str, str]) -> Iterator[Edit]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in chosen:
            yield _edit(node, node.id, chosen[node.id])
        elif isinstance(node, ast.Global):
            yield from _edits_of_global(node, text, chosen)
        elif isinstance(node, Defined | ast.ClassDef) and node.name in chosen:
            yield _edit_definition(node, text, chosen[node.name])


def _of_parameters(tree: ast.Module, kept: Iterable[str]) -> Iterator[Edit]:
    nodes = list(ast.walk(tree))
    variables = {node.id for node in nodes if isinstance(node, ast.Name)}
    functions = {node.name for node in nodes if isinstance(node, Defined)}
    free = [name for name in FOR_PARAMETERS if name not in variables | functions]
    yield from _in_functions(tree, {*kept, *functions, *FOR_PARAMETERS, *FOR_GLOBALS}, free)


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


def _edits_of_global(node: ast.Global, text: str, chosen: Mapping[str, str]) -> Iterator[Edit]:
    # Its names have no places of their own.
    line = text.split("\n")[node.lineno - 1].encode()
    for match in re.finditer(rb"\w+", line):
        if (old := match[0].decode()) in chosen:
            yield node.lineno - 1, *match.span(), chosen[old]


def _edited(text: str, edits: Iterable[Edit]) -> str:
    lines = text.encode().split(b"\n")
    for line, begin, end, new in sorted(edits, reverse=True):
        lines[line] = lines[line][:begin] + new.encode() + lines[line][end:]
    return b"\n".join(lines).decode()


def _function(text: str, line: int) -> str:
    """Name of the innermost function around a line, "" when there is none."""
    around = [(first, name) for first, last, name in _functions(text) if first <= line <= last]
    return max(around)[1] if around else ""


@lru_cache(maxsize=128)
def _functions(text: str) -> list[tuple[int, int, str]]:
    """First line, last line and name of a module's functions: a traceback asks once a frame."""
    return [(node.lineno, node.end_lineno or 0, node.name)
            for node in ast.walk(ast.parse(text)) if isinstance(node, Defined)]  # fmt: skip

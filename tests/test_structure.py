"""The structure of the code (docs/design.md): which package may import which, and what no file may hold."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

# Who may import whom; everybody may import `errors` and its own package. A package is the longest prefix listed here.
KNOWS: dict[str, set[str]] = {
    "errors": set(),
    "settings": set(),
    "demo": {"pack", "pack.manifest"},
    "_native": set(),
    "files": set(),
    "ops.weights": set(),
    "ops.blocks": set(),
    "ops.interface": {"ops.blocks", "ops.weights"},
    "ops.reference": {"ops.blocks", "ops.weights", "ops.interface"},
    "ops.cpu": {"ops.blocks", "ops.weights", "ops.interface", "_native"},
    "ops": {"ops.blocks", "ops.weights", "ops.interface", "ops.reference", "ops.cpu"},
    "streaming": {"_native", "files", "ops.weights", "settings"},
    "hub": {"files", "ops.weights"},
    "models": {"files", "ops.blocks", "ops.weights", "ops.interface"},
    "pack.manifest": {"files", "ops.weights"},
    "pack.agreement": {"files", "models", "ops.weights", "pack.manifest"},
    "pack": {"pack.agreement", "pack.manifest", "files", "hub", "models", "ops.weights", "settings", "_native"},
    "chat": {"files"},
    "engine": {"files", "models", "ops", "ops.weights", "ops.interface", "settings", "streaming"}
    | {"pack.agreement", "pack.manifest"},
    "measure": {"_native", "engine", "files", "models", "ops", "ops.weights", "ops.interface", "pack", "pack.manifest"}
    | {"pack.agreement", "settings", "streaming"},
    "text_engine": {"chat", "demo", "engine", "files", "pack.manifest", "settings"},
    "evaluation": {"chat", "engine", "files", "models", "ops.interface", "text_engine"},
    "terminal": {"chat", "engine", "files", "text_engine"},
    "server": {"chat", "engine", "files", "measure", "models", "ops.interface", "text_engine"},
    "cli": {"chat", "engine", "files", "hub", "models", "ops.weights", "pack", "pack.manifest", "settings", "streaming"}
    | {"demo", "evaluation", "measure", "server", "terminal", "text_engine"},
    "": {"settings", "text_engine"},
}
# Third-party packages and the only packages that may import them; what is not listed nobody may.
OUTSIDE: dict[str, set[str]] = {
    "numpy": {"files", "hub", "pack", "models", "ops", "streaming", "engine", "text_engine", "evaluation", "measure"}
    | {"cli", "server"},
    "ml_dtypes": {"files", "hub", "pack", "ops", "engine"},
    "xxhash": {"files", "pack"},
    "platformdirs": {"cli"},
    "prompt_toolkit": {"terminal"},
    "psutil": {"measure", "streaming"},
    "tokenizers": {"chat"},
    "jinja2": {"chat"},
    "matplotlib": {"measure"},
    "starlette": {"server"},
    "uvicorn": {"server"},
    "msgspec": {"server"},
    "llguidance": {"server"},
    "prometheus_client": {"server"},
    "click": {"cli"},
    "rich": {"cli", "terminal"},
    "markdown_it": {"terminal"},
}


def package_of(module: str) -> str:
    """`flashmoe.ops.cpu.backend` -> `ops.cpu`; `flashmoe` itself is the package ``."""
    parts = module.split(".")[1:]
    for length in range(len(parts), 0, -1):
        if (package := ".".join(parts[:length])) in KNOWS:
            return package
    if parts:
        raise AssertionError(f"{module} is in no package of KNOWS; say there whom it may import.")
    return ""


@dataclass(frozen=True)
class Module:
    name: str
    text: str
    is_package: bool = False


def imports(module: Module, modules: set[str]) -> Iterator[str]:
    """What a module imports, wherever in it: `from p import n` is the module p.n where there is one, else p."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    for node in ast.walk(ast.parse(module.text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                ancestor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*ancestor, *([base] if base else [])])
            for alias in node.names:
                yield name if (name := f"{base}.{alias.name}") in modules else base


def violations(found_modules: Iterable[Module]) -> list[str]:
    """Every import that KNOWS or OUTSIDE does not allow, as a sentence."""
    found_modules = list(found_modules)
    modules = {module.name for module in found_modules} | {"flashmoe._native"}
    found = set()
    for module in found_modules:
        package = package_of(module.name)
        for name in imports(module, modules):
            top = name.partition(".")[0]
            if top == "flashmoe" and package_of(name) not in {package, "errors"} | KNOWS[package]:
                found.add(f"{module.name} imports {name}, which {package or 'the package itself'} may not know.")
            elif top not in {"flashmoe", *sys.stdlib_module_names} and package.partition(".")[0] not in OUTSIDE.get(
                top, ()
            ):
                found.add(f"{module.name} imports {top}, which {package or 'the package itself'} may not use.")
    return sorted(found)


def source_modules() -> list[Module]:
    found_modules = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found_modules.append(Module(".".join(parts[:-1] if is_package else parts), path.read_text(), is_package))
    return found_modules


def test_packages_import_only_the_packages_they_may() -> None:
    assert violations(source_modules()) == []


def test_the_packages_form_no_cycle() -> None:
    TopologicalSorter(KNOWS).prepare()


def test_modules_form_no_cycle() -> None:
    found_modules = source_modules()
    modules = {module.name for module in found_modules} | {"flashmoe._native"}
    TopologicalSorter(
        {module.name: set(imports(module, modules)) - {module.name} for module in found_modules}
    ).prepare()


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "flashmoe.chat.x",
            "import flashmoe.engine.engine",
            "flashmoe.chat.x imports flashmoe.engine.engine, which chat",
        ),
        ("flashmoe.chat.x", "from flashmoe.engine import engine", "imports flashmoe.engine.engine, which chat"),
        ("flashmoe.chat.x", "from ..engine.engine import Engine", "imports flashmoe.engine.engine, which chat"),
        ("flashmoe.chat.x", "def f():\n    from .. import engine", "imports flashmoe.engine, which chat"),
        ("flashmoe.hub.x", "if True:\n    from flashmoe import models", "imports flashmoe.models, which hub"),
        ("flashmoe.models.x", "from flashmoe import _native", "imports flashmoe._native, which models"),
        ("flashmoe.models.x", "from flashmoe.ops.cpu import y", "imports flashmoe.ops.cpu, which models"),
        ("flashmoe.ops.reference.x", "import flashmoe.ops.cpu", "imports flashmoe.ops.cpu, which ops.reference"),
        ("flashmoe.engine.x", "from flashmoe.pack.writer import y", "imports flashmoe.pack.writer, which engine"),
        ("flashmoe.engine.x", "import tokenizers", "imports tokenizers, which engine"),
        ("flashmoe.cli.x", "from torch.nn import Linear", "imports torch, which cli"),
        ("flashmoe.settings", "import flashmoe", "imports flashmoe, which settings"),
    ],
)
def test_a_violation_would_be_seen(name: str, text: str, sentence: str) -> None:
    packages = ["engine", "engine.engine", "models", "ops", "ops.cpu", "pack", "pack.writer", "chat", "hub"]
    others = [Module("flashmoe", "", True)] + [Module(f"flashmoe.{package}", "", True) for package in packages]
    (found,) = violations([*others, Module(name, text)])
    assert sentence in found


def test_a_cycle_would_be_seen() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


# What no file may hold ------------------------------------------------------------------------------------------------


def our_files() -> list[Path]:
    folders = ("src", "csrc", "tests", "benchmarks", "docs", "examples", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    skipped = {".so", ".pyc", ".png", ".safetensors", ".npz"}
    return [path for path in files if path.suffix not in skipped and "__pycache__" not in path.parts]


@pytest.mark.parametrize("path", our_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_names_no_machine_and_no_package_index(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.])/(?:home|root|opt|Users|work|private)/\S*", text) == []
    assert re.findall(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|--(?:extra-)?index-url", text) == [] or (
        path == Path(__file__)
    )


@pytest.mark.parametrize("folder", ["src", "csrc"])
def test_a_source_file_fits_in_the_head(folder: str) -> None:
    suffixes = {".py", ".pyi", ".cpp", ".hpp", ".h", ".c"}
    lengths = {str(p): len(p.read_text().splitlines()) for p in (ROOT / folder).rglob("*") if p.suffix in suffixes}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_every_module_says_what_it_is_for() -> None:
    assert [module.name for module in source_modules() if not ast.get_docstring(ast.parse(module.text))] == []

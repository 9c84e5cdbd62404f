"""The wheel as users get it: built through the sdist, complete, installed into a clean environment, run there.

(hatchling packs a linked folder once; without pyproject.toml's `only-include` the sdist would hold the folders at its
root only, and the wheel built from it nothing but `__init__.py`. Neither build would say so.)
"""

import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import basemlx

ROOT = Path(__file__).parents[2]
FOLDERS = ("engine", "integrations", "provider", "server")
PACKED_SUFFIXES = (".py", ".json", ".jinja", ".safetensors", ".md")
MAX_WHEEL_BYTES = 16_000_000

IMPORT_ALL = """
import importlib, pkgutil, sys
import basemlx
from basemlx.engine.runtime import prepare
prepare(stand_alone=True)
print(basemlx.__file__)
for module in pkgutil.walk_packages(basemlx.__path__, "basemlx."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        if error.name != "torch":  # the trainer of the built-in model needs it, nothing else does
            raise
    print(module.name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert len(list(folder.glob("*.tar.gz"))) == 1, (
        "build makes a wheel from the sdist if it is asked for neither"
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel, and sees this one's packages but not this checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, "--no-compile", "--disable-pip-version-check", str(wheel)], check=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # .pth files of a folder that was added by one are not read, so the editable install there stays unseen.
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    Path(site, "packages-of-the-test-run.pth").write_text("\n".join(paths))
    return python


def test_the_wheel_holds_every_module_and_the_built_in_model_and_no_tests(wheel: Path) -> None:
    expected = {"basemlx/__init__.py", "basemlx/py.typed"}
    files = [
        file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in PACKED_SUFFIXES
    ]
    expected |= {f"basemlx/{file.relative_to(ROOT)}" for file in files}
    assert "basemlx/engine/tiny/model/model.safetensors" in expected
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert expected - names == set(), "missing"
    assert {name for name in names - expected if name.endswith(".py")} == set(), "too much"
    assert {name.split("/")[0] for name in names} == {"basemlx"}
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_the_wheel_says_what_it_needs_and_names_no_machine(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    metadata = next(text for name, text in contents.items() if name.endswith(".dist-info/METADATA"))
    head = Parser().parsestr(metadata.decode())
    assert head["Version"] == basemlx.__version__
    assert head["Requires-Python"] == ">=3.11"
    assert {"cpu", "cuda13", "litellm", "langchain", "dev"} <= set(head.get_all("Provides-Extra", []))
    assert not any(requirement.startswith("torch") for requirement in head.get_all("Requires-Dist", []))
    assert [name for name in contents if name.endswith("licenses/LICENSE")] != []
    assert [name for name, text in contents.items() if str(ROOT).encode() in text] == []


def test_installed_in_a_clean_environment_every_module_imports(python: Path, tmp_path: Path) -> None:
    command = [python, "-c", IMPORT_ALL]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    origin, *modules = result.stdout.split()
    assert Path(origin).is_relative_to(python.parents[1])
    modules_here = {
        "basemlx." + ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
    }
    assert modules_here - set(modules) - {name for name in modules_here if _needs_torch(name)} == set()


def _needs_torch(module: str) -> bool:
    return module.startswith("basemlx.engine.tiny.training.")


def test_installed_in_a_clean_environment_it_answers(python: Path, tmp_path: Path) -> None:
    command = [python.with_name("basemlx"), "run", "--max-tokens", "8", "--seed", "1", "hello"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() != ""


def test_installed_in_a_clean_environment_it_knows_its_version(python: Path, tmp_path: Path) -> None:
    command = [python.with_name("basemlx"), "--version"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == f"basemlx {basemlx.__version__}\n"

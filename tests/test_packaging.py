"""The wheel holds all that a run needs, and runs from any folder without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".yaml", ".yml", ".css", ".js", ".jinja"}

pytestmark = pytest.mark.slow


def _run(*command: str | Path, cwd: Path, timeout: float = 300) -> str:
    # Nothing of the checkout may help: not its folder, not PYTHONPATH.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _hatch(target: str, folder: Path) -> Path:
    _run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder, cwd=ROOT)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _hatch("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and sees the dependencies of this one after it."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    paths = {"base": str(home), "platbase": str(home)}
    python = Path(sysconfig.get_path("scripts", "venv", paths)) / "python"
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    # A folder named in a .pth is searched last, and .pth files inside it (the editable install) are not followed.
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(dependencies)))
    _run(
        *(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"),
        *("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel),
        cwd=home,
    )
    return python


def _shipped(folder: str, inside: str) -> set[str]:
    return {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SUFFIXES
    }


def test_the_wheel_holds_packages_recipes_and_configurations(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if Path(name).suffix in SUFFIXES}
    assert held == _shipped("zoo", "zoo") | _shipped("data_recipes", "data_recipes") | _shipped(
        "configs", "zoo/_configs"
    )
    assert any(name.startswith("data_recipes/recipes/") for name in held)
    assert any(name.startswith("zoo/_configs/suites/") for name in held)


def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(_hatch("sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=source)
    (again,) = (tmp_path / "again").iterdir()
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_an_install_is_what_runs(installed: Path, tmp_path: Path) -> None:
    where = _run(installed, "-c", "import zoo, data_recipes; print(zoo.__file__, data_recipes.__file__)", cwd=tmp_path)
    assert str(ROOT) not in where


def test_an_install_finds_its_configurations(installed: Path, tmp_path: Path) -> None:
    code = "from zoo.configs import config_path; print(config_path('suites', 'quick'))"
    found = Path(_run(installed, "-c", code, cwd=tmp_path).strip())
    assert found.parts[-3:] == ("_configs", "suites", "quick.yaml")


@pytest.mark.parametrize("option", ["--list", "--help"])
def test_the_bench_answers_from_any_folder(installed: Path, tmp_path: Path, option: str) -> None:
    assert "quick" in _run(installed, "-m", "zoo.bench", option, cwd=tmp_path)


@pytest.mark.timeout(900)
def test_the_bench_runs_from_any_folder(installed: Path, tmp_path: Path) -> None:
    _run(
        *(installed, "-m", "zoo.bench", "--models", "depthcnn", "--data", "phantom:dipole:1:512", "--folds", "0"),
        *("--steps", "2", "--batch-size", "4", "--samples", "64", "--tile", "64", "--device", "cpu", "--out", "out"),
        cwd=tmp_path,
        timeout=850,
    )
    assert "depthcnn_tiny" in (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")

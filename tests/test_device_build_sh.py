"""`build.sh` before any Python of ours runs: which interpreter it takes, and what it refuses in one sentence."""

import os
import shutil
import subprocess
import sys

import pytest

from sttm_export.device.closure import PACKAGE

BASH = shutil.which("bash")
FAKE = '#!{bash}\ncase "$1" in\n--version) echo "Python {version}" ;;\n*) exit {code} ;;\nesac\n'


@pytest.fixture
def kit(tmp_path):
    """The files that the script looks for; the kit's Python is a program that tells its arguments and directory."""
    bundle = tmp_path / "a bundle"
    package = bundle / "device" / "sttm_export" / "device"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import os, sys\nprint(sys.argv[1:], os.getcwd(), sys.executable)\nsys.exit(7)\n"
    )
    for name in ("manifest.json", "SHA256SUMS", "device/targets.json"):
        (bundle / name).touch()
    shutil.copyfile(PACKAGE / "device" / "build.sh", bundle / "device" / "build.sh")
    return bundle / "device"


@pytest.fixture
def programs(tmp_path):
    """A PATH with nothing on it but what every system has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("dirname", "basename"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def put_python(folder, name="python3", version="3.8.10", code=1):
    path = folder / name
    path.write_text(FAKE.format(bash=BASH, version=version, code=code))
    path.chmod(0o755)
    return path


def build(kit, path, *options, cwd=None, **variables):
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHON", "PYTHONPATH"}}
    environment |= {"PATH": str(path), **variables}
    command = [BASH, str(kit / "build.sh"), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=cwd)


def refused(done):
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("build.sh: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_no_python(kit, programs):
    assert "sudo apt install python3 python3-numpy" in refused(build(kit, programs))


def test_an_old_python_is_named(kit, programs):
    put_python(programs)
    assert "Python 3.8.10 is too old, Python 3.10 or later" in refused(build(kit, programs))


def test_a_newer_python_beside_an_old_one_is_taken(kit, programs):
    put_python(programs)
    (programs / "python3.12").symlink_to(sys.executable)
    done = build(kit, programs, "--check")
    assert done.returncode == 7 and "['--check']" in done.stdout, done.stderr


def test_python_can_be_chosen(kit, programs, tmp_path):
    old = put_python(tmp_path, "old")
    assert "is no Python 3.10 or later" in refused(build(kit, programs, PYTHON=str(old)))
    assert "is no program" in refused(build(kit, programs, PYTHON="/absent/python3"))
    (tmp_path / "mine").symlink_to(sys.executable)
    done = build(kit, programs, "--target", "a b", cwd=tmp_path, PYTHON="./mine")
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("['--target', 'a b'] ") and str(kit) in done.stdout


@pytest.mark.parametrize(
    "name", ["manifest.json", "SHA256SUMS", "device/targets.json", "device/sttm_export/device/__main__.py"]
)
def test_half_a_bundle(kit, programs, name):
    (programs / "python3").symlink_to(sys.executable)
    (kit.parent / name).unlink()
    assert "copy the bundle anew, all of it" in refused(build(kit, programs))


def test_the_kits_own_sources_run_whatever_lies_around(kit, programs, tmp_path):
    """An installed sttm_export, one in the working directory, one on PYTHONPATH: none of them is taken."""
    (programs / "python3").symlink_to(sys.executable)
    other = tmp_path / "elsewhere" / "sttm_export"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('the wrong one')")
    for safe in ({}, {"PYTHONSAFEPATH": "1"}):
        done = build(kit, programs, cwd=other.parent, PYTHONPATH=str(other.parent), **safe)
        assert done.returncode == 7, done.stderr
    assert not list(kit.rglob("__pycache__")), "the bundle stays as it was copied"


def test_a_cdpath_leads_nowhere_else(kit, programs, tmp_path):
    """With CDPATH `cd device` goes to another directory of that name, and prints it."""
    (programs / "python3").symlink_to(sys.executable)
    elsewhere = tmp_path / "elsewhere" / "device"
    elsewhere.mkdir(parents=True)
    environment = {**os.environ, "PATH": str(programs), "CDPATH": str(elsewhere.parent)}
    command = [BASH, "device/build.sh"]
    done = subprocess.run(command, env=environment, cwd=kit.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert str(kit) in done.stdout

"""`build.sh` before any Python of ours runs: which interpreter it takes, and what it refuses in one sentence."""

import os
import shutil
import subprocess
import sys

import pytest
from helpers_children import TRAPS, plant

from sttm_export.bundle.sums import write_sums
from sttm_export.kit.pack import PACKAGE, SCRIPTS

BASH = shutil.which("bash")
FAKE = '#!{bash}\ncase "$1" in\n--version) echo "Python {version}" ;;\n*) exit {code} ;;\nesac\n'


@pytest.fixture
def kit(tmp_path):
    """The files that the script looks for; the kit's Python is a program that tells its arguments and directory."""
    bundle = tmp_path / "a bundle"
    package = bundle / "device" / "sttm_export" / "kit"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import argparse, json, os, sys\nprint(sys.argv[1:], __file__, os.getcwd(), sys.executable)\nsys.exit(7)\n"
    )
    for name in ("manifest.json", "device/targets.json"):
        (bundle / name).touch()
    shutil.copyfile(package / "__main__.py", package / "run_main.py")
    for name in SCRIPTS:
        shutil.copyfile(PACKAGE / "kit" / name, bundle / "device" / name)
    sign(bundle)
    return bundle / "device"


def sign(bundle):
    files = [path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()]
    write_sums(bundle, [name for name in files if name != "SHA256SUMS"])


@pytest.fixture
def programs(tmp_path):
    """A PATH with nothing on it but what every system has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("dirname", "basename", "sha256sum"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def put_python(folder, name="python3", version="3.8.10", code=1):
    path = folder / name
    path.write_text(FAKE.format(bash=BASH, version=version, code=code))
    path.chmod(0o755)
    return path


def build(kit, path, *options, cwd=None, script="build.sh", **variables):
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHON", "PYTHONPATH"}}
    environment |= {"PATH": str(path), **variables}
    command = [BASH, str(kit / script), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=cwd)


def refused(done, script="build.sh"):
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{script}: ")
    assert done.stderr.count("\n") == 1
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
    assert done.stdout.startswith("['--target', 'a b'] ")
    assert str(kit) in done.stdout


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "SHA256SUMS", "device/targets.json", "device/common.sh", "device/sttm_export/kit/__main__.py"],
)
@pytest.mark.parametrize("script", ["build.sh", "run.sh"])
def test_half_a_bundle(kit, programs, name, script):
    (programs / "python3").symlink_to(sys.executable)
    (kit.parent / name).unlink()
    assert "copy the bundle anew, all of it" in refused(build(kit, programs, script=script), script)


def test_run_stays_where_it_is_called_from_and_reads_the_pipe(kit, programs, tmp_path):
    """Files among its options are named from there. Whatever looks for a Python takes nothing from the pipe."""
    put_python(programs)
    (programs / "python3.12").symlink_to(sys.executable)
    (kit / "sttm_export" / "kit" / "run_main.py").write_text(
        "import os, sys\nprint(sys.argv[1:], os.getcwd(), '' in sys.path, sys.stdin.read())\n"
    )
    sign(kit.parent)
    environment = {**os.environ, "PATH": str(programs)}
    environment.pop("PYTHON", None)
    command = [BASH, str(kit / "run.sh"), "--frames", "-"]
    done = subprocess.run(
        command, input="pixels", env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, f"['--frames', '-'] {tmp_path} False pixels\n"), done.stderr


def test_both_scripts_refuse_what_was_changed(ready, programs):
    with (ready / "common.sh").open("a") as file:
        file.write("# changed\n")
    for script in ("build.sh", "run.sh"):
        message = refused(build(ready, programs, script=script), script)
        assert "device/common.sh was changed after the export" in message


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


@pytest.fixture
def ready(kit, programs):
    (programs / "python3").symlink_to(sys.executable)
    assert build(kit, programs).returncode == 7
    return kit


@pytest.mark.parametrize(
    "name", ["argparse.py", "sitecustomize.py", "sttm_export/kit/extra.py", "sttm_export/__pycache__/x.pyc", ".x"]
)
def test_what_no_sum_covers_is_named_before_anything_runs(ready, programs, tmp_path, name):
    (ready / name).parent.mkdir(exist_ok=True)
    (ready / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    message = refused(build(ready, programs, "--check"))
    assert f"{ready / name} is in no SHA256SUMS and not of the kit; move it elsewhere" in message
    assert not (tmp_path / "ran").exists()


def test_what_was_changed_or_is_missing_is_named(ready, programs):
    with (ready / "sttm_export" / "kit" / "__init__.py").open("a") as file:
        file.write("print('changed')")
    assert "sttm_export/kit/__init__.py was changed after the export" in refused(build(ready, programs))
    (ready / "sttm_export" / "kit" / "__init__.py").unlink()
    assert "sttm_export/kit/__init__.py is missing; copy the bundle anew" in refused(build(ready, programs))


def test_links_do_not_belong_to_a_kit(ready, programs, tmp_path):
    (ready / "sttm_export" / "more").symlink_to(tmp_path)
    assert "sttm_export/more is a link, and none belongs to the kit" in refused(build(ready, programs))


@pytest.mark.parametrize("name", ["device/../../x", "device/./x", "device/a\\b", "device/../manifest.json"])
def test_sums_name_files_of_the_kit(ready, programs, name):
    with (ready.parent / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    assert "SHA256SUMS is damaged at" in refused(build(ready, programs))


def test_a_sum_that_is_none_is_damage(ready, programs):
    with (ready.parent / "SHA256SUMS").open("a") as file:
        file.write("0000  device/x\n")
    assert "SHA256SUMS is damaged at device/x" in refused(build(ready, programs))


def test_without_sha256sum_it_says_so(ready, programs):
    (programs / "sha256sum").unlink()
    assert "there is no sha256sum on the PATH" in refused(build(ready, programs))


def test_signed_or_not_only_the_package_is_imported(ready, programs, tmp_path):
    """Modules of the library's names in the kit, in the bundle and where it is called from, all with their sums."""
    for folder in (ready, ready.parent):
        plant(folder, tmp_path / "ran")
    sign(ready.parent)
    for cwd in (ready, ready.parent):
        for script, main in (("build.sh", "__main__"), ("run.sh", "run_main")):
            done = build(ready, programs, cwd=cwd, script=script, PYTHONPATH=":", LD_LIBRARY_PATH=":")
            assert done.returncode == 7 and f"{ready}/sttm_export/kit/{main}.py" in done.stdout, done.stderr
    assert "argparse" in TRAPS
    assert not (tmp_path / "ran").exists()


def test_search_paths_stay_what_they_were(ready, programs, tmp_path):
    """What is relative is so to the directory that the script is called from; it leaves that."""
    (ready / "sttm_export" / "kit" / "__main__.py").write_text("import sys, mine, other\nsys.exit(9)\n")
    sign(ready.parent)
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").touch()
    done = build(ready, programs, cwd=tmp_path, PYTHONPATH=f"mine::{tmp_path / 'other'}")
    assert done.returncode == 9, done.stderr

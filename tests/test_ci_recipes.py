"""The recipes of docs/ci against the program and its tables: commands are parsed, and those of the export job run."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_recipes import (
    GITHUB,
    GITLAB,
    RECIPES,
    ROOT,
    combine,
    commands,
    github_jobs,
    github_steps,
    gitlab_jobs,
    gitlab_script,
    run_script,
)

from sttm_export.bundle.store import ENGINES
from sttm_export.cli import VERBS, build_parser
from sttm_export.contracts.target import find_target
from sttm_export.families.registry import load_model, model_names
from sttm_export.kit.__main__ import build_parser as kit_parser
from sttm_export.kit.flow import REJECTED

README = (RECIPES / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
LINTERS = re.findall(
    r"^\t\$\(BIN\)/(shellcheck|hadolint|actionlint|check-jsonschema) (.*)$", (ROOT / "Makefile").read_text(), re.M
)
SMALL = "--random-weights 0 --frames 2 --batch 2 --compute-capability sm86"


def github_script(name):
    return "\n".join(step["run"] for step in github_steps(name)) + "\n"


def export_calls():
    """Every call of both recipes, once for every run of the matrix."""
    for env in github_jobs("export"):
        yield from commands(github_script("export"), env)
    for env in gitlab_jobs("export"):
        yield from commands(gitlab_script("export"), env | {"BUNDLE": "bundle"})


def with_verb(words):
    return ["export", *words] if words[0].startswith("-") else words


def test_every_call_is_one_the_program_understands():
    calls = [build_parser().parse_args(with_verb(words)) for words in export_calls()]
    assert {call.verb for call in calls} == {"doctor", "export", "validate", "inspect"}
    exports = [call for call in calls if call.verb == "export"]
    assert len(exports) == 2 * (len(github_jobs("export")) + len(gitlab_jobs("export")))
    assert all(call.target[0] == "rtx" and len(call.target) == 2 for call in exports)


def test_matrices_name_what_the_tables_have():
    jobs = [*github_jobs("export"), *gitlab_jobs("export")]
    for job in jobs:
        assert job["MODEL"] in model_names()
        assert job["WEIGHTS"] == load_model(job["MODEL"]).hub_id
        assert 0 < float(job["BUDGET"]) <= 1
        assert find_target(job["TARGET"]).built == "device"
    assert {job["MODEL"] for job in jobs} >= {"llava-video-7b", "llava-onevision-7b"}


def test_both_recipes_do_the_same():
    def chosen(jobs):
        return {(job["MODEL"], job["BUDGET"], job["TARGET"]) for job in jobs}

    assert chosen(github_jobs("export")) == chosen(gitlab_jobs("export"))
    assert len(chosen(github_jobs("export"))) == 8
    env = {"MODEL": "m", "BUDGET": "0.5", "TARGET": "t", "WEIGHTS": "w", "BUNDLE": "b"}
    on_github, on_gitlab = commands(github_script("export"), env), commands(gitlab_script("export"), env)
    assert sorted(on_github) == sorted(on_gitlab)


def test_a_jetson_gets_what_was_exported():
    exported = {job["BUNDLE"] for job in github_jobs("export")}
    assert {job["BUNDLE"] for job in github_jobs("jetson")} <= exported
    names = ("MODEL", "BUDGET", "TARGET")
    combinations = [tuple(job[name] for name in names) for job in gitlab_jobs("export")]
    assert all(tuple(job[name] for name in names) in combinations for job in gitlab_jobs("jetson"))
    (need,) = GITLAB["jetson"]["needs"]
    assert need["job"] == "export"
    assert need["parallel"]["matrix"] == [{name: [f"$[[ matrix.{name} ]]"] for name in names}]


def test_no_job_holds_more_rights_than_it_uses():
    assert GITHUB["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in GITHUB["jobs"].values())
    text = (RECIPES / "github-actions.yml").read_text(encoding="utf-8")
    assert text.count("secrets.") == 1
    holders = [step["name"] for step in github_steps("export") if "HF_TOKEN" in step.get("env", {})]
    assert len(holders) == 1
    assert holders[0].startswith("Export the checkpoint")
    assert "pull_request_target" not in text


def test_a_pull_request_never_reaches_a_device():
    assert "github.event_name != 'pull_request'" in GITHUB["jobs"]["jetson"]["if"]
    assert not any("checkout" in step.get("uses", "") for step in GITHUB["jobs"]["jetson"]["steps"])
    (rule,) = GITLAB["jetson"]["rules"]
    assert "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH" in rule["if"]


def test_include_adds_to_the_runs_it_names():
    jobs = combine({"a": ["x", "y"], "b": ["1"], "include": [{"a": "y", "w": "z"}]})
    assert jobs == [{"a": "x", "b": "1"}, {"a": "y", "b": "1", "w": "z"}]


def small(script):
    """The commands as they stand, but for what makes a tiny model quick and for the installation."""
    assert "--random-weights 0" in script
    return script.replace("--random-weights 0", SMALL).replace("python -m pip install '.[export,rtx]'", "true")


@pytest.fixture(scope="module")
def job_env(tiny_toml, tmp_path_factory):
    values = {"MODEL": str(tiny_toml), "BUDGET": "0.5", "TARGET": "jetson-orin-jp62", "BUNDLE": "bundle"}
    return values | {"CHECKPOINT": "false", "GITHUB_STEP_SUMMARY": str(tmp_path_factory.mktemp("ci") / "summary.md")}


@pytest.fixture
def workspace(tiny_bundle, tmp_path):
    """A directory as the steps after the export find it."""
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    return tmp_path


@pytest.mark.slow
def test_the_export_job_of_github_runs(job_env, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    script = "\n".join(step["run"] for step in github_steps("export") if step.get("if") != "${{ inputs.checkpoint }}")
    result = run_script(small(script), tmp_path, job_env)
    assert result.returncode == 0, result.stdout + result.stderr
    engines = [path.relative_to(tmp_path / "bundle/engines") for path in (tmp_path / "bundle").rglob("*.engine")]
    assert {path.parts[0] for path in engines} == {"rtx"}
    assert len(engines) == 2
    assert "Verdict: passed" in Path(job_env["GITHUB_STEP_SUMMARY"]).read_text(encoding="utf-8")


def kit_calls():
    """How each recipe starts the device kit."""
    return [
        re.search(r"^bash .*$", script, re.MULTILINE)[0]
        for script in (github_script("jetson"), gitlab_script("jetson"))
    ]


def test_the_kit_is_called_as_it_can_be():
    for call in kit_calls():
        path, *options = shlex.split(call)[1:]
        assert path == "$BUNDLE/device/build.sh"
        assert kit_parser().parse_args(options).target == "$TARGET"


def test_the_kit_of_the_artefact_starts_and_refuses_a_machine_that_is_no_jetson(workspace, job_env):
    for call in kit_calls():
        result = run_script(call, workspace, job_env)
        assert result.returncode == 2, result.stdout + result.stderr
        assert "jetson-orin-jp62" in result.stderr
        assert not (workspace / "bundle/rejected").exists()


def test_what_the_kit_writes_is_kept():
    (kept,) = [step["with"]["path"] for step in GITHUB["jobs"]["jetson"]["steps"] if "upload" in step.get("uses", "")]
    for folder in (ENGINES, REJECTED):
        assert f"${{{{ env.BUNDLE }}}}/{folder}/${{{{ matrix.target }}}}\n" in kept
        assert f"$BUNDLE/{folder}/$TARGET" in GITLAB["jetson"]["artifacts"]["paths"]
    assert GITLAB["jetson"]["artifacts"]["when"] == "always"


STAND_IN = """#!/usr/bin/env bash
echo "$*" >> calls.txt
if [ "$1" = --model ]; then mkdir "${@: -1}"; (cd "${@: -1}"; echo x > a; sha256sum a > SHA256SUMS); fi
"""


@pytest.mark.parametrize(("checkpoint", "weights"), [("true", "--weights the/hub"), ("false", "--random-weights 0")])
def test_the_export_job_of_gitlab_does_the_same(checkpoint, weights, job_env, tmp_path):
    """Its shell is run, with a stand-in for the program: the calls are those that GitHub's job makes for real."""
    program = tmp_path / "bin/sttm-export"
    program.parent.mkdir()
    program.write_text(STAND_IN, encoding="utf-8")
    program.chmod(0o755)
    env = job_env | {"CHECKPOINT": checkpoint, "WEIGHTS": "the/hub"}
    result = run_script(gitlab_script("export"), tmp_path, env, first=program.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    made = (tmp_path / "calls.txt").read_text(encoding="utf-8").splitlines()
    assert [call.split()[0] for call in made] == ["doctor", "--model", "validate", "inspect"]
    assert f" {weights} --target rtx --target jetson-orin-jp62 --output bundle" in made[1]


def test_a_damaged_bundle_stops_the_job(workspace, job_env):
    with (workspace / "bundle/token_merger.onnx").open("ab") as file:
        file.write(b"\0")
    (check,) = [step["run"] for step in github_steps("export") if "SHA256SUMS" in step["run"]]
    assert run_script(check, workspace, job_env).returncode == 1
    without_sums = "\n".join(check.splitlines()[1:])
    assert run_script(without_sums, workspace, job_env).returncode == 2


def test_a_failed_pipe_stops_the_job(tmp_path):
    assert GITHUB["defaults"]["run"]["shell"] == "bash"
    assert run_script("sttm-export inspect nothing-here | cat", tmp_path, {}).returncode == 2


def test_shellcheck_finds_nothing_in_the_scripts_of_gitlab():
    for name in ("export", "jetson"):
        result = subprocess.run(
            [BIN / "shellcheck", "--shell", "bash", "-"],
            input=gitlab_script(name),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout


BREAKS = {
    "shellcheck": ("make test", "for f in $(ls *.txt); do rm $f; done"),
    "hadolint": ("python:3.12-slim", "python"),
    "actionlint": ("matrix.budget", "matrix.bugdet"),
    "check-jsonschema": ("stage: export", "stage: [1, 2]"),
}


def test_make_lint_runs_each_linter_once():
    assert sorted(name for name, _ in LINTERS) == sorted(BREAKS)


@pytest.mark.parametrize(("name", "arguments"), LINTERS)
def test_the_linters_of_make_lint_can_fail(name, arguments, tmp_path):
    """The line of the Makefile passes on what is there and fails on a broken copy."""
    words = arguments.replace("$(BIN)", str(BIN)).replace("$(SCRIPTS)", ".ci/run").split()
    command = [BIN / name, *words[:-1]]
    path = ROOT / words[-1]
    assert subprocess.run([*command, path], cwd=ROOT, capture_output=True, check=False).returncode == 0
    broken = tmp_path / path.name
    broken.write_text(path.read_text(encoding="utf-8").replace(*BREAKS[name], 1), encoding="utf-8")
    assert subprocess.run([*command, broken], cwd=ROOT, capture_output=True, check=False).returncode == 1


def test_the_readme_speaks_of_what_is_there():
    for name in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (RECIPES / name).resolve().exists(), name
    assert set(re.findall(r"`sttm-export (\w+)", README)) <= set(VERBS)

"""The CI recipes as data: matrices expanded, variables put in, commands taken apart."""

import itertools
import os
import re
import shlex
import string
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "docs/ci"
GITHUB = yaml.safe_load((RECIPES / "github-actions.yml").read_text(encoding="utf-8"))
GITLAB = yaml.safe_load((RECIPES / "gitlab-ci.yml").read_text(encoding="utf-8"))
# What the repository variable of this name would hold.
JETSON_TARGETS = ["jetson-orin-jp62"]
_EXPRESSION = re.compile(r"\$\{\{ (matrix|env)\.(\w+) \}\}")


def axes(matrix):
    """The lists of a matrix by name; a single value is a list of one, and the variable is read."""
    given = {name: value for name, value in matrix.items() if name != "include"}
    given = {name: JETSON_TARGETS if "JETSON_TARGETS" in value else value for name, value in given.items()}
    return {name: value if isinstance(value, list) else [value] for name, value in given.items()}


def combine(matrix):
    """One dictionary for each job of a matrix, with what GitHub's `include` adds to it."""
    lists = axes(matrix)
    jobs = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    for extra in matrix.get("include", []):
        for job in jobs:
            if all(job[name] == value for name, value in extra.items() if name in lists):
                job.update(extra)
    return jobs


def github_jobs(name):
    """The environment of every run of a GitHub job."""
    job = GITHUB["jobs"][name]
    return [resolve(job["env"], matrix) for matrix in combine(job["strategy"]["matrix"])]


def gitlab_jobs(name):
    """The variables of every run of a GitLab job."""
    return [job for matrix in GITLAB[name]["parallel"]["matrix"] for job in combine(matrix)]


def resolve(env, matrix):
    """Put a job's matrix values into its environment."""
    known = {("matrix", name): value for name, value in matrix.items()}
    values = {name: _EXPRESSION.sub(lambda match: known[match[1], match[2]], value) for name, value in env.items()}
    return values | {name.upper(): value for name, value in matrix.items()}


def github_steps(name):
    """The steps of a job that run commands."""
    return [step for step in GITHUB["jobs"][name]["steps"] if "run" in step]


def gitlab_script(name):
    """All commands of a job as one script."""
    return "\n".join(GITLAB[name]["script"]) + "\n"


def commands(script, env):
    """The arguments of every `sttm-export` call in a script, variables put in; one that is not set is a KeyError."""
    lines = [line.strip() for line in script.splitlines()]
    calls = [line.split(" | ")[0] for line in lines if line.startswith("sttm-export ")]
    return [shlex.split(string.Template(call).substitute(env))[1:] for call in calls]


def run_script(script, directory, env, first=None):
    """Run like a runner does: stop at a failure, in a pipe as well; `first` leads the PATH."""
    folders = [str(first)] if first else []
    path = os.pathsep.join([*folders, str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    environment = {**os.environ, **env, "PATH": path}
    return subprocess.run(shell, cwd=directory, env=environment, capture_output=True, text=True, check=False)

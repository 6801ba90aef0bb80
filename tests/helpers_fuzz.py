"""Seeded fuzz of options and of every file of a bundle; as a program, with BUNDLE VIDEO COUNT SEED, it runs long.

A mutation is made in place and taken back. It must end with an exit code of the program and one message (an exception
that leaves `main` is a traceback, and ends the fuzz), and leave every other file as it was.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import random
import sys
from pathlib import Path

from sttm_export.bundle.opened import list_files, write_manifest
from sttm_export.bundle.records import sha256_of
from sttm_export.bundle.sums import write_sums
from sttm_export.cli import main

VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**64,
        10**400,
        0.0,
        -0.5,
        1e-300,
        1e300,
        float("nan"),
        float("inf"),
        "",
        "x",
    ),
    *("../../x", "/etc/passwd", "a\0b", "\udcff", "[/b]", "é…×", "x" * 5000, [], {}, [[]], {"": None}, [None] * 100),
]
NUMBERS = ["0", "-1", "1", "-0", "nan", "inf", "-inf", "1e9", "1e-9", "1e400", "9" * 30, "4.5", "0x10", "", " ", "½"]
PATHS = [
    ".",
    "..",
    "/",
    "",
    "none",
    "a/b",
    "\udcff",
    "x" * 300,
    "a\0b",
    "/dev/null",
    "/dev/full",
    "[/b]",
    "%n",
    "-",
    "~",
]
NAMES = ["", "rtx", "sm86", "fp16", "fp8", "budget", "threshold", "all", "cpu", "[/b]", "x" * 300, "\udcff", "tiny"]


def outcome(arguments: list[str]) -> tuple[int, str]:
    """Exit code and messages of one command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, err.getvalue()


def judge(arguments: list[str], what: str) -> int:
    """Run one line; it must end as the program ends."""
    try:
        code, said = outcome(arguments)
    except Exception as error:
        raise AssertionError(f"{what}: {arguments} raised {type(error).__name__}: {error}") from error
    assert code in {0, 1, 2}, (what, arguments, code)
    assert code == 0 or said.strip(), (what, arguments)
    return code


def mutate_json(data: object, rng: random.Random) -> object:
    """Change one value somewhere: another type, another number, gone, or nested."""
    if isinstance(data, (dict, list)) and data and rng.random() < 0.85:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        key = rng.choice(keys)
        copy = dict(data) if isinstance(data, dict) else list(data)
        if rng.random() < 0.1:
            del copy[key]
        elif isinstance(copy, list) and rng.random() < 0.1:
            copy.append(copy[key])
        else:
            copy[key] = mutate_json(copy[key], rng)
        return copy
    return rng.choice(VALUES)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, empty, repeat, or replace by something else."""
    kind = rng.randrange(8)
    if kind == 0 or not data:
        return b""
    place = rng.randrange(len(data))
    if kind == 1:
        return data[:place]
    if kind == 2:
        return data + data[:place]
    if kind == 3:
        return b"[" * 100_000
    if kind == 4:
        return rng.randbytes(len(data) // 2 + 1)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 64))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def mutated(path: Path, data: bytes, rng: random.Random) -> bytes:
    """The file's bytes after one mutation; JSON is changed as JSON most times."""
    if path.suffix == ".json" and rng.random() < 0.8:
        text = json.dumps(mutate_json(json.loads(data), rng), ensure_ascii=False)
        return text.encode("utf-8", "surrogatepass")
    return mutate_bytes(data, rng)


def resign(bundle: Path, changed: Path) -> None:
    """Make the sums right again, so that the mutation gets past them; what cannot be signed stays as it is."""
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError, AttributeError):
        engines = bundle / "engines"
        if changed.is_relative_to(engines):
            folder = engines / changed.relative_to(engines).parts[0]
            names = (path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
            write_sums(folder, [path.relative_to(folder).as_posix() for path in names])
            return
        if changed.name in {"manifest.json", "times.json", "report.html"}:
            lines = (bundle / "SHA256SUMS").read_text().splitlines()
            rows = [
                f"{sha256_of(changed)}  {changed.name}" if line.endswith(f"  {changed.name}") else line
                for line in lines
            ]
            (bundle / "SHA256SUMS").write_text("\n".join(rows) + "\n")
            return
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["files"] = list_files(bundle)
        write_manifest(bundle, manifest)


def lines_for(bundle: Path, changed: Path, video: Path, output: Path, rng: random.Random) -> list[list[str]]:
    """What is asked of a mutated bundle: always `inspect`, and what reads that file."""
    lines = [["inspect", str(bundle)], ["inspect", str(bundle), "--json"]]
    run = ["run", str(bundle), "--video", str(video), "--output", str(output / "o.npz")]
    if changed.is_relative_to(bundle / "engines"):
        lines.append([*run, "--engine"])
    elif changed.suffix in {".onnx", ".data"} or changed.name == "manifest.json":
        lines.append(run)
    elif changed.suffix == ".npz":
        lines.append(["validate", str(bundle)])
    return lines if rng.random() < 0.5 else [lines[0], lines[-1]]


def fuzz_files(
    bundle: Path, video: Path, output: Path, count: int, seed: int, heavy: bool = True
) -> collections.Counter:
    """Make `count` mutations of files of a bundle that nobody else uses; returns how many ended with which code."""
    rng, codes = random.Random(seed), collections.Counter()
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and "device" not in path.parts[:-1])
    targets = bundle / "device" / "targets.json"
    kept = {path: path.read_bytes() for path in [*files, targets]}
    weights = [8 if path.suffix == ".json" else 3 if path.suffix == ".npz" else 1 for path in files]
    for number in range(count):
        (path,) = rng.choices(files, weights)
        path.write_bytes(mutated(path, kept[path], rng))
        signed = rng.random() < 0.7
        if signed and path.name != "SHA256SUMS":
            resign(bundle, path)
        before = {name: name.read_bytes() for name in kept}
        for line in lines_for(bundle, path, video, output, rng):
            if line[0] in {"run", "validate"} and "--engine" not in line and not heavy and rng.random() < 0.9:
                continue
            codes[judge(line, f"seed {seed}, mutation {number} of {path.name}")] += 1
        assert {name: name.read_bytes() for name in kept} == before, "the program changed the bundle"
        for name, data in kept.items():
            if before[name] != data:
                name.write_bytes(data)
    assert sorted(path for path in bundle.rglob("*") if path.is_file()) == sorted({*kept, *_kit(bundle)}), (
        "files came or went"
    )
    return codes


def _kit(bundle: Path) -> list[Path]:
    return [path for path in (bundle / "device").rglob("*") if path.is_file()]


def fuzz_options(verbs: dict[str, list[str]], parser: object, count: int, seed: int) -> collections.Counter:
    """Run `count` command lines of random options with random values.

    Args:
        verbs: the arguments that each verb cannot do without, and with which it is refused or ends soon.
        parser: of all verbs.
        count: lines.
        seed: of the random choices.
    """
    rng, codes = random.Random(seed), collections.Counter()
    choices = next(action for action in parser._actions if action.dest == "verb").choices
    for number in range(count):
        verb = rng.choice(sorted(verbs))
        options = [action for action in choices[verb]._actions if action.option_strings and action.dest != "help"]
        line = [verb, *verbs[verb]]
        for action in rng.sample(options, min(len(options), rng.randrange(1, 4))):
            pool = NUMBERS if action.type in {int, float} else PATHS if action.type else NAMES
            line += [action.option_strings[-1], *([] if action.nargs == 0 else [rng.choice([*pool, *pool, *NAMES])])]
        codes[judge(line, f"seed {seed}, line {number}")] += 1
    return codes


if __name__ == "__main__":
    place, clip = Path(sys.argv[1]), Path(sys.argv[2])
    print(fuzz_files(place, clip, place.parent, int(sys.argv[3]), int(sys.argv[4])))

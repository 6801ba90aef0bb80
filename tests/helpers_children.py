"""A directory full of traps: modules that leave a mark when anything imports them."""

TRAPS = ("argparse", "ctypes", "dataclasses", "json", "linecache", "numpy", "os", "runpy", "sitecustomize", "tensorrt")


def plant(folder, mark):
    """Put modules of the standard library's names, and a package of ours, into a directory."""
    trap = f"open({str(mark)!r}, 'a').write(__name__ + ' ')\n"
    for name in TRAPS:
        (folder / f"{name}.py").write_text(trap)
    package = folder / "sttm_export"
    if not package.exists():
        package.mkdir()
        (package / "__init__.py").write_text(trap)

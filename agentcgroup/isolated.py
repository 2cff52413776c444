"""Our own imports, kept from what a project puts into Python's way; the environment stays as it is, for the agent."""

# ruff: noqa: PTH100, PTH120
# pathlib would be imported before it is known from where.

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def isolate() -> None:
    """Import nothing more from PYTHONPATH or, started with ``-m``, from the current folder: a project's ``socket.py`` is not ours.

    The folder that this package itself comes from stays.  What came from the others already is imported again.
    """
    foreign = set()
    if not sys.flags.ignore_environment:
        foreign = {_whole(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
        if "PYTHONWARNINGS" in os.environ:
            _forget_warnings()
    if sys.argv[0].endswith("__main__.py") and not sys.flags.safe_path:
        foreign.add(_whole(sys.path[0]))
    foreign -= {_ROOT}
    if not foreign:
        return
    sys.path[:] = [entry for entry in sys.path if _whole(entry) not in foreign]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name != "__main__" and _is_in(file, foreign) and not _is_in(file, {_ROOT}):
            del sys.modules[name]


def _is_in(file: str, folders: set[str]) -> bool:
    return any(_whole(file).startswith(f"{folder}{os.sep}") for folder in folders)


def _whole(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError:  # the current folder is gone
        return path


def _forget_warnings() -> None:
    """A project's ``PYTHONWARNINGS=error`` is not for libraries that we use."""
    import warnings

    warnings.resetwarnings()
    warnings.simplefilter("ignore")

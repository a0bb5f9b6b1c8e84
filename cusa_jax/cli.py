"""`cusa-jax COMMAND …`: the scripts of this project as one command, wherever it was installed from."""

from __future__ import annotations

import ast
import runpy
import sys

from cusa_jax import __version__
from cusa_jax.files import shipped
from cusa_jax.settings import nearest

COMMANDS = (
    "train", "evaluate", "compare", "controls", "report", "search", "convert", "mix", "embed", "prepare", "bench",
)  # fmt: skip


def main() -> None:
    """Runs the script that the first argument names with the others, as `python scripts/NAME.py` would."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "--version"):
        print(f"cusa_jax {__version__}" if name == "--version" else _help())
        return
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: '{name}' is no command{nearest(name, COMMANDS)}: {known}", file=sys.stderr)
        sys.exit(2)
    script = shipped("scripts") / f"{name}.py"
    # As Python does for a script: it may import what lies beside it.
    sys.path.insert(0, str(script.parent))
    sys.argv = [f"cusa-jax {name}", *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "cusa_jax":
            raise
        missing = f"{name} needs the package '{error.name}': pip install 'cusa_jax[all]'"
        print(f"error: {missing}", file=sys.stderr)
        sys.exit(2)


def _help() -> str:
    lines = ["usage: cusa-jax COMMAND [OPTIONS]      (cusa-jax COMMAND --help says which)", ""]
    for name in COMMANDS:
        source = (shipped("scripts") / f"{name}.py").read_text(encoding="utf8")
        first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines.append(f"  {name:<10}{first}")
    return "\n".join(lines)

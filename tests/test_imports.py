"""What a part of the package takes along: nothing that it does not need."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("cusa_jax.train", ("matplotlib", "jinja2", "tensorflow_datasets", "cusa_jax.report", "cusa_jax.search")),
        ("cusa_jax.finish", ("matplotlib", "jinja2", "cusa_jax.search")),
        ("cusa_jax.losses", ("transformers", "grain", "PIL", "orbax", "cusa_jax.models", "cusa_jax.data")),
    ],
)  # fmt: skip
def test_a_part_imports_what_it_needs(module, absent):
    code = f"import sys, {module}; print(*(name for name in {absent!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_importing_computes_nothing():
    """A process that computed could not join others any more (jax.distributed), nor choose its devices."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "cusa_jax").rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    )
    code = (
        f"import importlib; [importlib.import_module(module) for module in {modules!r}]\n"
        "from jax._src import xla_bridge; print(list(xla_bridge._backends))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Eight virtual CPU devices for every test, and the report of the comparisons with goldens (`pytest -s -n 0`)."""

import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is what takes the time: one cache serves the workers and the commands that tests run, for one session.
if "PYTEST_XDIST_WORKER" not in os.environ and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cusa_jax_compiled_")
    os.environ["CUSA_JAX_TEST_CACHE"] = os.environ["JAX_COMPILATION_CACHE_DIR"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import golden
import jax

jax.config.update("jax_num_cpu_devices", 8)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput") and (folder := os.environ.pop("CUSA_JAX_TEST_CACHE", "")):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items):
    """The longest file first: test files run side by side, and none should be waited for at the end."""
    items.sort(key=lambda item: item.path.name != "test_train.py")


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("capture") == "no" and golden.WORST:
        terminalreporter.section("worst error per family, in units of its tolerance")
        for family, (comparisons, worst) in sorted(golden.WORST.items()):
            terminalreporter.write_line(f"{family:<50}{comparisons:>7} comparisons{worst:>12.2e}")

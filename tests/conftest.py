"""Eight virtual CPU devices for every test, and the report of the comparisons with goldens (`pytest -s -n 0`)."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import golden
import jax

jax.config.update("jax_num_cpu_devices", 8)


def pytest_collection_modifyitems(items):
    """The longest file first: test files run side by side, and none should be waited for at the end."""
    items.sort(key=lambda item: item.path.name != "test_train.py")


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("capture") == "no" and golden.WORST:
        terminalreporter.section("worst error per family, in units of its tolerance")
        for family, (comparisons, worst) in sorted(golden.WORST.items()):
            terminalreporter.write_line(f"{family:<50}{comparisons:>7} comparisons{worst:>12.2e}")

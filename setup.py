"""What pyproject.toml cannot say: a wheel has the scripts and the presets within the package."""

from setuptools import find_packages, setup

WITHIN = {"cusa_jax.scripts": "scripts", "cusa_jax.configs": "configs"}

setup(packages=[*find_packages(include=["cusa_jax*"]), *WITHIN], package_dir=WITHIN)

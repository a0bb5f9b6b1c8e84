"""The README's own code runs, and says what it says it says; the pages' commands would be taken."""

import ast
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import yaml

from cusa_jax import objective, similarity
from cusa_jax.config import default_config, flat
from cusa_jax.losses.term import Compared
from cusa_jax.types import Embeddings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BATCH = 128


def test_the_losses_in_three_lines_are_the_paper_s_objective():
    keys = jax.random.split(jax.random.key(0), 6)
    cross_image, cross_text, uni_image, uni_text = (jax.random.normal(key, (BATCH, 16)) for key in keys[:4])
    image_teacher, text_teacher = (jax.random.normal(key, (BATCH, 24)) for key in keys[4:])
    names = {
        "cross_image": cross_image, "cross_text": cross_text, "uni_image": uni_image, "uni_text": uni_text,
        "image_teacher_features": image_teacher, "text_teacher_features": text_teacher,
        "ids": jnp.arange(BATCH) // 2,
    }  # fmt: skip
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(code, names)

    loss = default_config().loss
    labels = similarity.teacher(image_teacher, text_teacher)
    student = similarity.student(Embeddings(cross_image, cross_text, uni_image, uni_text))
    scalars = {
        "tau_contrastive": 0.05, "tau_csa": 0.45, "tau_csa_teacher": 1.0, "tau_usa_image": 0.45, "tau_usa_text": 0.45,
    }  # fmt: skip
    total, _ = objective.objective(Compared(student, labels, names["ids"]), scalars, loss)
    assert jnp.allclose(
        names["loss"], BATCH * total, rtol=1e-5
    )  # the paper's is divided by the batch once more


def test_every_page_that_is_linked_is_there():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def commands():
    """(page, script, its arguments) of every command that the pages show, in a block or in a line."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        block = re.compile(r"```(?:\w*)\n(.*?)```", re.DOTALL)
        code = block.findall(text) + re.findall(r"`([^`\n]+)`", block.sub("", text))
        for line in "\n".join(code).splitlines():
            for script, rest in re.findall(
                r"(?:python scripts/|scripts/|cusa-jax )([a-z]+)(?:\.py|\b(?!/))([^#;\n]*)", line
            ):
                found.append(pytest.param(script, rest.strip(" '"), id=f"{page.name}: {script} {rest[:40]}"))
    return found


def flags_of(script):
    """{flag: its choices, or None} as the script and every command define them; read, not run."""
    source = (ROOT / "scripts" / f"{script}.py").read_text()
    flags = {"extend": None} | ({"config": None} if "\n    run(main)" in source else {})
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        define = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if define.lower().startswith("define_"):
            # Choices that are computed are not looked at.
            literals = [_literal(one) for one in node.args]
            flags[literals[0]] = literals[2] if "enum" in define else None
            if define == "DEFINE_config_file":
                flags["config"] = None
    return flags


def _literal(node):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def checked(arguments, flags):
    """The preset and overrides among the arguments; every flag must be the script's, with a value that it takes."""
    preset, overrides = None, {}
    for argument in shlex.split(arguments):
        if not argument.startswith("--"):
            continue
        name, _, value = argument[2:].partition("=")
        value = value.strip("…")
        if name.startswith("config."):
            overrides[name.removeprefix("config.")] = value
            continue
        known = name in flags or name.removeprefix("no") in flags
        assert known, f"--{name} is none of {', '.join(sorted(flags))}"
        assert not value or not flags.get(name) or value in flags[name], f"--{name}={value}"
        preset = value if name == "config" else preset
    return preset, overrides


def test_pages_show_commands():
    assert len(commands()) > 30


@pytest.mark.parametrize(("script", "arguments"), commands())
def test_every_command_of_the_pages_would_be_taken(script, arguments):
    """Nothing is run: script, flags, choices, presets with their argument, and configuration keys with their types."""
    assert (ROOT / "scripts" / f"{script}.py").is_file()
    preset, overrides = checked(arguments, flags_of(script))
    config = default_config()
    if preset:
        path, _, argument = preset.partition(":")
        name = path.removeprefix("configs/").removesuffix(".py")
        config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](argument)
    for key, value in overrides.items():
        assert key in flat(config), key
        if isinstance(flat(config)[key], bool | int | float) and not value.isupper():
            config.update_from_flattened_dict({key: yaml.safe_load(value)})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [("--wrokdir=x", "wrokdir"), ("--dry_runn", "dry_runn"), ("--suite=flickr30k", "suite")],
)
def test_a_flag_that_is_not_the_script_s_is_found(arguments, said):
    with pytest.raises(AssertionError, match=said):
        checked(arguments, flags_of("train"))


def test_make_targets_requirements_and_extras_of_the_pages_are_there():
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        text = page.read_text()
        for target in re.findall(r"(?:^|`)make ([\w-]+)", text, flags=re.MULTILINE):
            assert f"\n{target}:" in makefile, f"{page.name}: make {target}"
        for name in re.findall(r"-r (requirements[\w-]*\.txt)", text):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"
        for names in re.findall(r"install '?(?:\.|cusa[-_]jax)\[([\w,]+)\]", text):
            assert set(names.split(",")) <= set(extras), f"{page.name}: [{names}]"


def test_every_file_that_the_pages_name_is_there():
    for page in PAGES:
        for name in re.findall(r"\b((?:scripts|configs)/\w+\.py)", page.read_text()):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_the_tree_names_every_module_and_no_other():
    named = set(re.findall(r"\w+\.py", (ROOT / "docs" / "tree.md").read_text()))
    modules = {file.name for folder in ("cusa_jax", "scripts") for file in (ROOT / folder).rglob("*.py")}
    packages = {file.name for file in (ROOT / "cusa_jax").rglob("*.py")} - {"__init__.py"}
    assert packages - named == set()
    assert named - modules == {"FILE.py"}

"""The installed command: it is the scripts, by name, with the presets that come along."""

import subprocess
import sys
from pathlib import Path

import pytest

from cusa_jax import __version__, cli, command, files

ROOT = Path(__file__).parent.parent


def run(*arguments, cwd=ROOT):
    code = "from cusa_jax.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(cwd)},
    )  # fmt: skip


def test_every_command_is_a_script_that_says_what_it_does(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cusa-jax"])
    cli.main()
    said = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert (files.shipped("scripts") / f"{name}.py").is_file()
        assert any(
            line.split()[0] == name and len(line.split()) > 3 for line in said.splitlines() if line.strip()
        )


def test_a_preset_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = ROOT / "configs" / "flickr.py"
    for argument in ("--config=flickr", "--config=flickr.py", "--config=configs/flickr.py"):
        assert command._preset(argument) == f"--config={preset}"
    assert command._preset("--config=flickr:loss=csa") == f"--config={preset}:loss=csa"
    assert command._preset("--config=none") == "--config=none"
    (tmp_path / "flickr.py").touch()
    assert command._preset("--config=flickr.py") == "--config=flickr.py"


def test_the_command_is_the_script(tmp_path):
    done = run("train", "--config=flickr:loss=cosa", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --config: loss='cosa' is none of contrastive")


@pytest.mark.parametrize(("name", "said"), [("trian", "no command (did you mean 'train'?)")])
def test_what_is_no_command_is_said(name, said):
    done = run(name)
    assert done.returncode == 2
    assert said in done.stderr
    assert run("--version").stdout == f"cusa_jax {__version__}\n"

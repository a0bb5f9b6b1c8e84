"""Models that are named by their id on the Hugging Face Hub, with or without a revision: OWNER/NAME[@REVISION]."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError

from cusa_jax.errors import InputError

# Of a whole model. Code is never downloaded; pickles only where there is nothing else, and they are read without
# running them (weights/torch_file.py).
_WANTED = ("*.safetensors", "*.json", "*.txt")
_PICKLED = ("*pytorch_model*.bin",)
# Other programs' copies of the same weights.
_UNWANTED = ("onnx/*", "openvino/*", "coreml/*")
_ID = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
_FILES = (".pt", ".pth", ".bin", ".tar", ".safetensors", ".npy", ".npz", ".yaml", ".yml", ".json")


def find_model(source: str | Path) -> Path:
    """What `source` names: a file or folder here, else a model of the Hub, downloaded or from the cache.

    Raises InputError where there is neither.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not is_id(str(source)):
        raise InputError(f"{source}: no such file or folder")
    folder = download(str(source))
    # Not those of a part in a folder within, such as a dense layer of sentence-transformers.
    return folder if any(folder.glob("*.safetensors")) else download(str(source), _WANTED + _PICKLED)


def is_id(source: str) -> bool:
    """Whether this can be an id of the Hub."""
    return (
        bool(_ID.fullmatch(source))
        and "/" in source.partition("@")[0]
        and not source.startswith(".")
        and not source.endswith(_FILES)
    )


def is_missing(source: str) -> bool:
    """Whether this can only be a path, and nothing is there."""
    is_path = "/" in source or source.endswith(_FILES)
    return is_path and not is_id(source) and not Path(source).expanduser().exists()


def download(source: str, wanted: tuple[str, ...] = _WANTED) -> Path:
    """The folder of a model of the Hub, complete in what is wanted. Raises InputError where it cannot be had."""
    name, _, revision = source.partition("@")
    try:
        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=list(wanted), ignore_patterns=list(_UNWANTED)
            )
        )
    except (HFValidationError, OSError, ValueError) as error:
        # An OSError is a model that does not exist, no network, or no rights.
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{source}: neither a folder here nor to be had from Hugging Face ({reason}); give a local folder"
        ) from error


def upload(folder: Path, name: str) -> str:
    """Uploads a folder as the model `name`, made where it does not exist, and returns its address.

    By the login of the user (`huggingface-cli login`, or HF_TOKEN). Raises InputError where the Hub does not take it.
    """
    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder))
    # Without a network it raises what its HTTP client does, of which it has changed the library.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"--push={name}: {folder} was written, but not uploaded ({reason})") from error
    return f"{api.endpoint}/{name}"

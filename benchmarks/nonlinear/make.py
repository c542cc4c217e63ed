"""Makes a suite for branching on nonlinearities that are not piecewise linear: networks on scikit-learn's handwritten
digits, and robustness properties that bounds at the root alone do not decide.

Families: fully connected networks with Sigmoid, Tanh, Sin, Gelu (`sin_4x100`: 4 hidden layers, 100 wide); an LSTM that
reads an image row by row (`lstm_24`: 24 wide); Vision Transformers (`vit_2_3`: 2 blocks, 3 heads; batch normalisation,
softmax attention over 8 patches, Relu between). Pixels in [0, 1]; seeds are fixed; training moves every batch by a
signed gradient step of `ROBUST`, so that the networks do not hang on single pixels.

Properties: for an image that the network classifies rightly as c, the box is the image plus or minus eps, cut to [0,
1], and the property asks for some other digit j with Y_j >= Y_c. With e0 the largest eps that CROWN proves at the root
and e1 the smallest at which a gradient search finds another digit (bisection, both), eps = e0 times one of `BEYOND`;
an image where this is above `SAFE` e1 is passed over. So CROWN fails on all of them, and most are robust. Which ones is
not known here: no answer is written.

    python benchmarks/nonlinear/make.py            writes onnx/, vnnlib/ and instances.csv beside this file
    python benchmarks/nonlinear/make.py --large    writes larger networks of the same kind to large/ beside this file
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
TIMEOUT = 60
HELD = 300  # images at the end that no network has seen
ROBUST = 0.04
BEYOND = (1.02, 1.06, 1.1, 1.15, 1.2, 1.25, 1.32, 1.4, 1.5, 1.6)
SAFE = 0.85
LARGEST = 0.4  # of eps


def tutorial() -> ModuleType:
    """The maker of the tutorial, whose images, exporter, attack and property text serve here too."""
    spec = importlib.util.spec_from_file_location("tutorial", HERE.parent / "digits" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Sin(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


class Lstm(nn.Module):
    """Reads the 8 rows of an image one after the other; scores from the last state."""

    def __init__(self, width: int):
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(x.reshape(-1, 8, 8))
        return self.out(states[:, -1])


class Norm(nn.Module):
    """Batch normalisation of (N, patches, width): affine once trained."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Block(nn.Module):
    """Attention and a layer with Relu, each added to what comes in."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.first, self.second = Norm(width), Norm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, w = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(n, t, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(q @ k.transpose(2, 3) * self.size**-0.5, dim=3)
        x = x + self.mix((attention @ v).transpose(1, 2).reshape(n, t, w))
        return x + self.outer(torch.relu(self.inner(self.second(x))))


class Vit(nn.Module):
    """Patches of 4 rows by 2 columns, embedded with a place each; scores from the mean patch."""

    def __init__(self, blocks: int, heads: int, width: int = 24):
        super().__init__()
        self.embed, self.place = nn.Conv2d(1, width, (4, 2), (4, 2)), nn.Parameter(0.1 * torch.randn(1, 8, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.out = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.reshape(-1, 1, 8, 8)).flatten(2).transpose(1, 2) + self.place
        return self.out(self.blocks(x).mean(1))


def dense(act: Callable[[], nn.Module], depth: int, width: int, gain: float) -> nn.Sequential:
    """`gain` makes up for how much the activation shrinks what passes through it."""
    layers: list[nn.Module] = []
    for i in range(depth):
        linear = nn.Linear(width if i else 64, width)
        nn.init.xavier_normal_(linear.weight, gain)
        nn.init.zeros_(linear.bias)
        layers += [linear, act()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


SMALL: dict[str, Callable[[], nn.Module]] = {
    "sigmoid_6x100": lambda: dense(nn.Sigmoid, 6, 100, 4.0),
    "tanh_4x100": lambda: dense(nn.Tanh, 4, 100, 1.0),
    "sin_4x100": lambda: dense(Sin, 4, 100, 1.0),
    "gelu_4x100": lambda: dense(nn.GELU, 4, 100, 1.4),
    "lstm_24": lambda: Lstm(24),
    "vit_1_3": lambda: Vit(1, 3),
    "vit_2_3": lambda: Vit(2, 3),
}
LARGE: dict[str, Callable[[], nn.Module]] = {
    "sigmoid_4x500": lambda: dense(nn.Sigmoid, 4, 500, 4.0),
    "tanh_6x200": lambda: dense(nn.Tanh, 6, 200, 1.0),
    "sin_4x200": lambda: dense(Sin, 4, 200, 1.0),
    "gelu_4x500": lambda: dense(nn.GELU, 4, 500, 1.4),
    "lstm_64": lambda: Lstm(64),
}


def train(net: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 25) -> None:
    """Adam on images that were moved by a signed gradient step."""
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            images = x[batch].requires_grad_(True)
            (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(images), y[batch]), images)
            moved = (images.detach() + ROBUST * gradient.sign()).clamp(0, 1)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(moved), y[batch]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
        schedule.step()


class Root:
    """CROWN bounds of the margins of a network in a box, by the verifier."""

    def __init__(self, model: Path, prop: Path):
        from verifier.bounds import METHODS
        from verifier.bounds.program import Program
        from verifier.net.load import load_network
        from verifier.problem import compile_problem
        from verifier.spec.parse import parse_property

        METHODS.load()
        problem = compile_problem(load_network(model), parse_property(prop))
        self.program = Program(problem.network, torch.float32, "cpu")

    @torch.no_grad()
    def margin(self, image: torch.Tensor, label: int, eps: float) -> float:
        """The least lower bound of score `label` minus another one."""
        from verifier.bounds.chunks import limits
        from verifier.bounds.crown import crown_trace
        from verifier.bounds.final import final_rows

        rows = torch.eye(10)[label] - torch.eye(10)[[j for j in range(10) if j != label]]
        l, u = ((image + e).clamp(0, 1)[None] for e in (-eps, eps))
        limit = limits(l.device).rows
        return float(final_rows(crown_trace(self.program, l, u, limit), rows[None], limit).lb.min())


def bisect(holds: Callable[[float], bool], steps: int) -> float:
    """The largest eps up to LARGEST for which a property holds that holds near 0, by halving."""
    low, high = 0.0, LARGEST
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def radii(tools: ModuleType, net: nn.Module, root: Root, image: torch.Tensor, label: int) -> tuple[float, float]:
    """(e0, e1) of the file's head."""

    def resists(eps: float) -> bool:
        return bool((net(tools.attack(net, image, label, eps, 20)).argmax(1) == label).all())

    safe = bisect(resists, 7)
    return bisect(lambda eps: root.margin(image, label, eps) > 0, 10), safe


def instances(
    tools: ModuleType, name: str, net: nn.Module, folder: Path, x: torch.Tensor, y: torch.Tensor
) -> list[tuple[str, str, int]]:
    """Writes the properties of one network; rows (onnx, vnnlib, timeout)."""
    model, rows, root, seen = folder / "onnx" / f"{name}.onnx", [], None, []
    images = iter((net(x).argmax(1) == y).nonzero().flatten().tolist())
    for beyond in BEYOND:
        while True:
            k = next(images)
            image, label = x[k], int(y[k])
            prop = folder / "vnnlib" / f"{name}_{k}.vnnlib"
            if root is None:
                prop.write_text(tools.property_text(image.numpy().astype(np.float64), label, 0.1, ""))
                root = Root(model, prop)
                prop.unlink()
            proved, safe = radii(tools, net, root, image, label)
            eps = round(proved * beyond, 5)
            # Bounds need not get worse as a box grows (methods and mixtures change): the radius itself is tried.
            if 0 < eps < SAFE * safe and root.margin(image, label, eps) < 0:
                break
        seen.append((proved, safe))
        comment = f"test image {k}, a {label}: do changes of at most {eps:g} make {name} see another digit?"
        prop.write_text(tools.property_text(image.numpy().astype(np.float64), label, eps, comment))
        rows.append((f"onnx/{model.name}", f"vnnlib/{prop.name}", TIMEOUT))
    proved, safe = np.median(seen, 0)
    print(f"{name}: CROWN proves up to {proved:.4f}, attacks succeed from {safe:.4f} (medians of {len(seen)} images)")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="larger networks, to large/")
    large = parser.parse_args().large
    torch.set_num_threads(1)  # sums in one order, so that the same networks come out again
    torch.backends.nnpack.set_flags(False)
    tools, folder = tutorial(), HERE / "large" if large else HERE
    x, y = tools.digits()
    rows: list[tuple[str, str, int]] = []
    for part in ("onnx", "vnnlib"):
        (folder / part).mkdir(exist_ok=True, parents=True)
        for old in (folder / part).iterdir():
            old.unlink()
    for name, make in (LARGE if large else SMALL).items():
        torch.manual_seed(0)
        net = make()
        train(net, x[:-HELD], y[:-HELD])
        net.eval()
        tools.export(net, folder / "onnx" / f"{name}.onnx")
        right = (net(x[-HELD:]).argmax(1) == y[-HELD:]).float().mean()
        print(f"{name}: {right:.1%} of {HELD} test images right", flush=True)
        rows += instances(tools, name, net, folder, x[-HELD:], y[-HELD:])
    with open(folder / "instances.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()

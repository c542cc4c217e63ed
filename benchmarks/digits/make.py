"""Makes the tutorial: small networks on scikit-learn's handwritten digits, and robustness properties of them.

Three networks (fully connected with Relu; convolution with Relu; fully connected with Sigmoid and Tanh) learn the 8x8
digits that come with scikit-learn, pixels scaled to [0, 1]; seeds are fixed. For an image that a network classifies
rightly as c, the property's box is the image plus or minus eps, cut to [0, 1], and the property asks for some other
digit j with Y_j >= Y_c: `sat` is a counterexample, `unsat` says that the network is robust there.

Where the expected answers come from: `sat` is written only where a gradient search written here, independent of the
verifier, found a point that ONNX Runtime confirms; `unsat` only where `verify` proved it and that search, started from
many more points, found nothing. An image and eps where neither happens is skipped.

    python benchmarks/digits/make.py          writes onnx/, vnnlib/ and instances.csv beside this file
"""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).resolve().parent
EPS = {"sat": (0.12, 0.2, 0.3), "unsat": (0.01, 0.02, 0.04)}
EACH = 3  # properties of each answer for each network
TIMEOUT = 60


def networks() -> dict[str, nn.Sequential]:
    """The untrained networks; each takes (1, 64) pixels in rows and gives (1, 10) scores."""
    return {
        "dense_relu": nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)),
        "conv_relu": nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 6, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 10),
        ),
        "dense_smooth": nn.Sequential(nn.Linear(64, 24), nn.Sigmoid(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 10)),
    }


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (1797, 64) in [0, 1] and their classes."""
    data = load_digits()
    return torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)


def train(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-4)
    for _ in range(30):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimiser.step()


def export(net: nn.Module, path: Path) -> None:
    """ONNX by torch's tracing exporter, which needs no further package."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            torch.zeros(1, 64),
            buffer,
            input_names=["image"],
            output_names=["scores"],
            opset_version=13,
            dynamo=False,
        )
    path.write_bytes(buffer.getvalue())


def property_text(image: np.ndarray, label: int, eps: float, comment: str) -> str:
    """VNN-LIB: the box around the image, and some other digit scoring at least as much as `label`."""
    lines = [f"; {comment}"]
    lines += [f"(declare-const X_{i} Real)" for i in range(64)] + [f"(declare-const Y_{j} Real)" for j in range(10)]
    for i, v in enumerate(image.tolist()):
        lines += [f"(assert (>= X_{i} {max(0.0, v - eps):.6f}))", f"(assert (<= X_{i} {min(1.0, v + eps):.6f}))"]
    others = "\n".join(f"  (and (>= Y_{j} Y_{label}))" for j in range(10) if j != label)
    return "\n".join(lines) + f"\n(assert (or\n{others}\n))\n"


def attack(net: nn.Module, image: torch.Tensor, label: int, eps: float, starts: int) -> torch.Tensor:
    """Points (starts, 64) in the box, pushed by signed gradients towards other digits."""
    low, high = (image - eps).clamp(0, 1), (image + eps).clamp(0, 1)
    x = low + (high - low) * torch.rand(starts, 64)
    for step in range(60):
        x.requires_grad_(True)
        scores = net(x)
        margin = scores[:, label] - scores.scatter(1, torch.full((starts, 1), label), -1e9).amax(1)
        (gradient,) = torch.autograd.grad(margin.sum(), x)
        x = (x.detach() - (0.5 * eps * 0.95**step) * gradient.sign()).clamp(low, high)
    return x.detach()


def confirmed(session: onnxruntime.InferenceSession, points: torch.Tensor, label: int, text: str) -> bool:
    """Whether a point inside the box as written gives, in ONNX Runtime, another digit `label`'s score or more."""
    bounds = [
        float(line.split()[-1].rstrip(")"))
        for line in text.splitlines()
        if line.startswith("(assert (") and "X_" in line
    ]
    low, high = np.array(bounds[0::2]), np.array(bounds[1::2])
    for x in points.numpy():
        if (x.astype(np.float64) < low).any() or (x.astype(np.float64) > high).any():
            continue
        scores = session.run(None, {"image": x[None]})[0][0]
        if max(s for j, s in enumerate(scores) if j != label) >= scores[label]:
            return True
    return False


def answer(net: nn.Module, model: Path, image: torch.Tensor, label: int, eps: float, prop: Path) -> str:
    """sat, unsat, or '' where the answer is not certain; see the head of this file."""
    from verifier.api import verify
    from verifier.config import Config

    session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    text = prop.read_text()
    inner = eps * (1 - 1e-4)  # so that rounding the box to six digits does not push points out of it
    if confirmed(session, attack(net, image, label, inner, 50), label, text):
        return "sat"
    if str(verify(model, prop, Config(timeout=30, device="cpu")).verdict) != "unsat":
        return ""
    return "" if confirmed(session, attack(net, image, label, inner, 2000), label, text) else "unsat"


def instances(
    name: str, net: nn.Module, model: Path, x: torch.Tensor, y: torch.Tensor
) -> list[tuple[str, str, int, str]]:
    """Writes EACH properties of either answer for one network; rows (onnx, vnnlib, timeout, expected)."""
    right = (net(x).argmax(1) == y).nonzero().flatten().tolist()
    images = iter(right)
    rows = []
    for wanted in ("sat", "unsat"):
        count = 0
        while count < EACH:
            k = next(images)
            eps = EPS[wanted][count]
            label = int(y[k])
            prop = HERE / "vnnlib" / f"{name}_{k}_{eps:g}.vnnlib"
            comment = f"test image {k}, a {label}: do changes of at most {eps:g} make {name} see another digit?"
            prop.write_text(property_text(x[k].numpy().astype(np.float64), label, eps, comment))
            if answer(net, model, x[k], label, eps, prop) == wanted:
                rows.append((f"onnx/{model.name}", f"vnnlib/{prop.name}", TIMEOUT, wanted))
                count += 1
            else:
                prop.unlink()
    return rows


def main() -> None:
    torch.set_num_threads(1)  # sums in one order, so that the same networks come out again
    x, y = digits()
    held = 300  # images at the end that no network has seen
    rows: list[tuple[str, str, int, str]] = []
    for folder in ("onnx", "vnnlib"):
        (HERE / folder).mkdir(exist_ok=True)
        for old in (HERE / folder).iterdir():
            old.unlink()
    for name in networks():
        torch.manual_seed(0)
        net = networks()[name]
        train(net, x[:-held], y[:-held])
        net.eval()
        model = HERE / "onnx" / f"{name}.onnx"
        export(net, model)
        print(f"{name}: {(net(x[-held:]).argmax(1) == y[-held:]).float().mean():.1%} of {held} test images right")
        rows += instances(name, net, model, x[-held:], y[-held:])
    with open(HERE / "instances.csv", "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["onnx", "vnnlib", "timeout_s", "expected"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()

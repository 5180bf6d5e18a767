"""Per-example gradients of ResNet-20 by torch.func, JAX and BackPACK, beside this package.

Each library runs in a process of its own, on the same network, sizes and machine: ResNet-20 with
BatchNorm in inference, 269,722 weights, random images of 32 x 32. Measured is the median time of
the Gram matrix J J^T of N' = 100 examples, and of one ordinary gradient of their mean loss, warm.
Prints a table. The peers have an environment of their own, since they are no part of the package:

    python -m venv .venv-peers
    .venv-peers/bin/pip install torch==2.13.0 jax backpack-for-pytorch
    python benchmarks/peers.py --peers-python .venv-peers/bin/python [--rounds 7]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do

LIBRARIES = ("infomcr_tf", "torch.func", "BackPACK", "JAX")
EXAMPLES = 100
WIDTHS = (16, 32, 64)


def main():
    """Measures every library that is installed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers-python", default=sys.executable, help="Python of the peers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=LIBRARIES, help="measure one, in this process")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.rounds)))
        return
    print("| library | version | Gram matrix, s | gradient, s | ratio |\n|---|---|---|---|---|")
    for library in LIBRARIES:
        python = sys.executable if library == "infomcr_tf" else arguments.peers_python
        command = [python, __file__, "--only", library, "--rounds", str(arguments.rounds)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"| {library} | not measured: {done.stderr.strip().splitlines()[-1]} | | | |")
            continue
        got = json.loads(done.stdout.strip().splitlines()[-1])
        ratio = got["gram"] / got["gradient"]
        print(
            f"| {library} | {got['version']} | {got['gram']:.3f} | {got['gradient']:.3f} | "
            f"{ratio:.2f} |",
            flush=True,
        )


def measure(library, rounds):
    """Median seconds of both."""
    make = {
        "infomcr_tf": this_package,
        "torch.func": torch_func,
        "BackPACK": backpack,
        "JAX": jax_vmap,
    }[library]
    version, gram, gradient, size = make()
    if size != 269_722:
        raise ValueError(f"The network must have 269,722 weights. Received: {size}")
    times = {"gram": [], "gradient": []}
    for number in range(rounds + 2):
        for name, function in (("gram", gram), ("gradient", gradient)):
            start = time.perf_counter()
            function()
            if number >= 2:  # the first calls compile
                times[name].append(time.perf_counter() - start)
    return {"version": version, **{name: statistics.median(t) for name, t in times.items()}}


def this_package():
    """The engine of this package."""
    from gradient_models import make
    from gram import num_parameters, ordinary_gradient

    import infomcr_tf
    from infomcr_tf.gradients import GradientEngine

    model, examples = make("resnet20")
    x, y = examples(EXAMPLES)
    engine, gradient = GradientEngine(model), ordinary_gradient(model)
    version = getattr(infomcr_tf, "__version__", "this tree")
    return version, lambda: engine.gram(x, y), lambda: gradient(x, y), num_parameters(model)


def torch_resnet20(nn, functional):
    """ResNet-20 with option A shortcuts, of modules that BackPACK can extend."""

    class Block(nn.Module):
        def __init__(self, channels, filters, stride):
            super().__init__()
            self.stride, self.more = stride, filters - channels
            self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(filters)
            self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(filters)

        def forward(self, x):
            h = functional.relu(self.bn1(self.conv1(x)))
            h = self.bn2(self.conv2(h))
            if self.more:
                x = x[:, :, :: self.stride, :: self.stride]
                x = functional.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
            return functional.relu(h + x)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn = nn.BatchNorm2d(16)
            blocks, channels = [], 16
            for filters in WIDTHS:
                for number in range(3):
                    stride = 2 if number == 0 and filters > 16 else 1
                    blocks.append(Block(channels, filters, stride))
                    channels = filters
            self.blocks = nn.Sequential(*blocks)
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            h = functional.relu(self.bn(self.conv(x)))
            return self.fc(self.blocks(h).mean(dim=(2, 3)))

    return Network().eval()


def torch_examples(torch):
    """Random images and labels."""
    torch.manual_seed(0)
    return torch.randn(EXAMPLES, 3, 32, 32), torch.randint(10, (EXAMPLES,))


def torch_gradient(torch, model, x, y):
    """One ordinary gradient."""

    def gradient():
        loss = torch.nn.functional.cross_entropy(model(x), y)
        return torch.autograd.grad(loss, list(model.parameters()))

    return gradient


def torch_func():
    """`vmap(grad)` of torch.func."""
    import torch
    from torch.func import functional_call, grad, vmap

    model = torch_resnet20(torch.nn, torch.nn.functional)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    x, y = torch_examples(torch)

    def loss(parameters, x, y):
        logits = functional_call(model, (parameters, buffers), (x[None],))
        return torch.nn.functional.cross_entropy(logits, y[None])

    per_example = vmap(grad(loss), in_dims=(None, 0, 0))

    def gram():
        rows = [g.flatten(1) for g in per_example(parameters, x, y).values()]
        return sum((r @ r.T).double() for r in rows)

    size = sum(p.numel() for p in model.parameters())
    return torch.__version__, gram, torch_gradient(torch, model, x, y), size


def backpack():
    """`BatchGrad` of BackPACK."""
    import backpack as library
    import torch
    from backpack.extensions import BatchGrad

    model = torch_resnet20(torch.nn, torch.nn.functional)
    x, y = torch_examples(torch)
    ordinary = torch_gradient(torch, model, x, y)
    for module in model.modules():
        if not list(module.children()):
            library.extend(module)

    def gram():
        model.zero_grad()
        with library.backpack(BatchGrad()):
            torch.nn.functional.cross_entropy(model(x), y, reduction="sum").backward()
        rows = [p.grad_batch.flatten(1) for p in model.parameters()]
        return sum((r @ r.T).double() for r in rows)

    return library.__version__, gram, ordinary, sum(p.numel() for p in model.parameters())


def jax_weights(np, rng):
    """Weights of ResNet-20 as arrays."""
    shapes, channels = [(3, 3, 3, 16)], 16
    for filters in WIDTHS:
        for _ in range(3):
            shapes += [(3, 3, channels, filters), (3, 3, filters, filters)]
            channels = filters
    return {
        "kernels": [(rng.normal(size=s) / np.sqrt(9 * s[2])).astype(np.float32) for s in shapes],
        "norms": [(np.ones(s[3], np.float32), np.zeros(s[3], np.float32)) for s in shapes],
        "fc": (rng.normal(size=(64, 10)).astype(np.float32) / 8, np.zeros(10, np.float32)),
    }


def jax_logits(jax, np):
    """ResNet-20 as a function of weights and images."""

    def layer(weights, number, h, stride):
        kernel, (scale, offset) = weights["kernels"][number], weights["norms"][number]
        h = jax.lax.conv_general_dilated(
            h, kernel, (stride,) * 2, [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return h / np.sqrt(1 + 1e-3).astype(np.float32) * scale + offset

    def logits(weights, x):
        h, number, channels = jax.nn.relu(layer(weights, 0, x, 1)), 1, 16
        for filters in WIDTHS:
            for block in range(3):
                stride = 2 if block == 0 and filters > 16 else 1
                out = jax.nn.relu(layer(weights, number, h, stride))
                out = layer(weights, number + 1, out, 1)
                more = filters - channels
                pad = [(0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)]
                short = jax.numpy.pad(h[:, ::stride, ::stride], pad)
                h, number, channels = jax.nn.relu(out + short), number + 2, filters
        return h.mean(axis=(1, 2)) @ weights["fc"][0] + weights["fc"][1]

    return logits


def jax_vmap():
    """`jit(vmap(grad))` of JAX, the network written with its functions."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)
    weights, logits = jax_weights(np, rng), jax_logits(jax, np)

    def loss(weights, x, y):
        log_p = jax.nn.log_softmax(logits(weights, x))
        return -log_p[jax.numpy.arange(len(y)), y].mean()

    def of_one(weights, x, y):
        return loss(weights, x[None], y[None])

    @jax.jit
    def gram(weights, x, y):
        rows = jax.vmap(jax.grad(of_one), in_axes=(None, 0, 0))(weights, x, y)
        flat = [r.reshape(len(x), -1) for r in jax.tree.leaves(rows)]
        return [r @ r.T for r in flat]

    gradient = jax.jit(jax.grad(loss))
    x = rng.normal(size=(EXAMPLES, 32, 32, 3)).astype(np.float32)
    y = rng.integers(10, size=EXAMPLES)

    def summed():
        return sum(np.asarray(part, np.float64) for part in gram(weights, x, y))

    def ordinary():
        jax.block_until_ready(gradient(weights, x, y))

    size = sum(leaf.size for leaf in jax.tree.leaves(weights))
    return jax.__version__, summed, ordinary, size


if __name__ == "__main__":
    main()

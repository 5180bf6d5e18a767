"""ResNet-20 by other libraries beside this package: per-example gradients and curvature.

Each library runs in a process of its own, on the same network, sizes and machine: ResNet-20 with
BatchNorm in inference, 269,722 weights, random images of 32 x 32. Prints a table of

- `gram`: the median time of the Gram matrix J J^T of N' = 100 examples, and of one ordinary
  gradient of their mean loss, warm, by torch.func, JAX and BackPACK;
- `eigenvalues`: the time from a model and arrays to the two largest eigenvalues of the Hessian of
  the mean loss of 200 examples at tolerance 1e-3, by PyHessian and by curvlinops with scipy, with
  the products that were taken (each draws its own initial weights, by the same rule).

The peers have an environment of their own, since they are no part of the package:

    python -m venv .venv-peers
    .venv-peers/bin/pip install torch==2.13.0 jax backpack-for-pytorch
    .venv-peers/bin/pip install PyHessian curvlinops-for-pytorch
    python benchmarks/peers.py gram --peers-python .venv-peers/bin/python [--rounds 7]
    python benchmarks/peers.py eigenvalues --peers-python .venv-peers/bin/python
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do

EXAMPLES = 100
EIGENVALUE_EXAMPLES = 200
NUM_PARAMETERS = 269_722


def main():
    """Measures every library that is installed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--peers-python", default=sys.executable, help="Python of the peers")
    parser.add_argument("--rounds", type=int, default=7, help="of gram")
    parser.add_argument("--only", help="measure one library, in this process")
    arguments = parser.parse_args()
    measure, libraries, columns = TASKS[arguments.task]
    if arguments.only:
        print(json.dumps(measure(libraries[arguments.only], arguments.rounds)))
        return
    print(f"| library | version | {' | '.join(columns)} |\n|{'---|' * (2 + len(columns))}")
    for library in libraries:
        python = sys.executable if library == "infomcr_tf" else arguments.peers_python
        command = [python, __file__, arguments.task, "--only", library]
        command += ["--rounds", str(arguments.rounds)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            row = f"not measured: {done.stderr.strip().splitlines()[-1]}"
        else:
            got = json.loads(done.stdout.strip().splitlines()[-1])
            row = " | ".join(str(got[name]) for name in ("version", *columns))
        print(f"| {library} | {row} |", flush=True)


def measure_gram(make, rounds):
    """Median seconds of the Gram matrix and of the gradient."""
    version, gram, gradient, size = make()
    if size != NUM_PARAMETERS:
        raise ValueError(f"The network must have {NUM_PARAMETERS} weights. Received: {size}")
    times = {"Gram matrix, s": [], "gradient, s": []}
    for number in range(rounds + 2):
        for name, function in zip(times, (gram, gradient), strict=True):
            start = time.perf_counter()
            function()
            if number >= 2:  # the first calls compile
                times[name].append(time.perf_counter() - start)
    found = {name: round(statistics.median(taken), 3) for name, taken in times.items()}
    ratio = round(found["Gram matrix, s"] / found["gradient, s"], 2)
    return {"version": version, **found, "ratio": ratio}


def measure_eigenvalues(make, _rounds):
    """Seconds from a model and arrays to the two largest eigenvalues; once, as nothing is warm."""
    version, compute = make()
    start = time.perf_counter()
    values, products = compute()
    return {
        "version": version,
        "seconds": round(time.perf_counter() - start, 1),
        "products": products,
        "eigenvalues": ", ".join(f"{value:.4g}" for value in values),
    }


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


def torch_examples(torch, n=EXAMPLES):
    """Random images and labels."""
    torch.manual_seed(0)
    return torch.randn(n, 3, 32, 32), torch.randint(10, (n,))


def torch_gradient(torch, model, x, y):
    """One ordinary gradient."""

    def gradient():
        loss = torch.nn.functional.cross_entropy(model(x), y)
        return torch.autograd.grad(loss, list(model.parameters()))

    return gradient


def torch_func():
    """`vmap(grad)` of torch.func."""
    import torch
    from peer_networks import torch_resnet20
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
    from peer_networks import torch_resnet20

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

    return (
        importlib.metadata.version("backpack-for-pytorch"),
        gram,
        ordinary,
        sum(p.numel() for p in model.parameters()),
    )


def jax_vmap():
    """`jit(vmap(grad))` of JAX, the network written with its functions."""
    import jax
    import numpy as np
    from peer_networks import jax_logits, jax_weights

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


def this_package_eigenvalues():
    """`HessianOperator` and `top_eigenvalues` of this package."""
    from gradient_models import make
    from keras.utils import set_random_seed

    import infomcr_tf
    from infomcr_tf.curvature import HessianOperator, top_eigenvalues

    set_random_seed(0)
    model, examples = make("resnet20")
    x, y = examples(EIGENVALUE_EXAMPLES)
    products = []

    class Counted(HessianOperator):
        def _matmat(self, V):
            products.append(V.shape[1])
            return super()._matmat(V)

    def compute():
        values, _ = top_eigenvalues(Counted(model, x, y), 2, tol=1e-3, progress=False)
        return values, sum(products)

    return infomcr_tf.__version__, compute


def pyhessian():
    """Power iteration of PyHessian."""
    import pyhessian as library
    import torch
    from peer_networks import torch_resnet20
    from torch import nn

    x, y = torch_examples(torch, EIGENVALUE_EXAMPLES)
    model, products = torch_resnet20(nn, nn.functional), []
    module = sys.modules["pyhessian.hessian"]
    product = module.hessian_vector_product

    def counted(*arguments):
        products.append(1)
        return product(*arguments)

    module.hessian_vector_product = counted

    def compute():
        hessian = library.hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False)
        values, _ = hessian.eigenvalues(maxIter=100, tol=1e-3, top_n=2)
        return values, len(products)

    return importlib.metadata.version("PyHessian"), compute


def curvlinops():
    """Lanczos process of scipy on the Hessian of curvlinops."""
    import torch
    from curvlinops import HessianLinearOperator
    from peer_networks import torch_resnet20
    from scipy.sparse.linalg import LinearOperator, eigsh
    from torch import nn

    x, y = torch_examples(torch, EIGENVALUE_EXAMPLES)
    model, products = torch_resnet20(nn, nn.functional), []

    def compute():
        parameters = [p for p in model.parameters() if p.requires_grad]
        batches = list(zip(x.split(EXAMPLES), y.split(EXAMPLES), strict=True))
        hessian = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, batches)
        matrix = hessian.to_scipy()

        def product(v):
            products.append(1)
            return matrix @ v

        counted = LinearOperator(matrix.shape, matvec=product, dtype=matrix.dtype)
        values = eigsh(counted, 2, which="LA", tol=1e-3, return_eigenvectors=False)
        return sorted(values, reverse=True), len(products)

    return importlib.metadata.version("curvlinops-for-pytorch"), compute


TASKS = {
    "gram": (
        measure_gram,
        {
            "infomcr_tf": this_package,
            "torch.func": torch_func,
            "BackPACK": backpack,
            "JAX": jax_vmap,
        },
        ("Gram matrix, s", "gradient, s", "ratio"),
    ),
    "eigenvalues": (
        measure_eigenvalues,
        {
            "infomcr_tf": this_package_eigenvalues,
            "PyHessian": pyhessian,
            "curvlinops": curvlinops,
        },
        ("seconds", "products", "eigenvalues"),
    ),
}


if __name__ == "__main__":
    main()

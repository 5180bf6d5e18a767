"""ResNet-20 in PyTorch and in JAX, for the comparison with other libraries (`peers.py`)."""

WIDTHS = (16, 32, 64)


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

    network = Network().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # as `infomcr_tf.models` does
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


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

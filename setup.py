"""Metadata and dependencies. Each lower bound is the version that the tests were run with."""

from pathlib import Path

from setuptools import find_packages, setup

URL = "https://github.com/infomcr-tf/infomcr-tf"

TEST = ["pytest>=8.3", "pytest-xdist>=3.6", "hypothesis>=6.112"]
# The examples and tutorials that measure and tune models of others.
EXAMPLES = ["keras-hub>=0.32", "keras-tuner>=1.4.8"]
DOCS = [
    *EXAMPLES,
    "sphinx>=8.2",
    "myst-parser>=4.0",  # the pages are Markdown
    "sphinx-gallery>=0.20",  # runs the tutorials
    "sphinx-copybutton>=0.5.2",
    "furo>=2025.9.25",
]

setup(
    name="infomcr-tf",
    version="0.1.0",
    description="Measure how well a minimum of a neural network generalises, and train better ones "
    "(Jia & Su, ICML 2020), in TensorFlow/Keras",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    url=URL,
    project_urls={"Changelog": f"{URL}/blob/main/CHANGELOG.md", "Issues": f"{URL}/issues"},
    python_requires=">=3.10",
    packages=find_packages(include=["infomcr_tf", "infomcr_tf.*"]),
    package_data={"infomcr_tf": ["py.typed"]},
    entry_points={
        "console_scripts": [
            "infomcr-train-cifar = infomcr_tf.commands:train_cifar_command",
            "infomcr-train-imagenet = infomcr_tf.commands:train_imagenet_command",
            "infomcr-characterize = infomcr_tf.commands:characterize_command",
            "infomcr-experiments = infomcr_tf.commands:experiments_command",
        ]
    },
    install_requires=[
        "tensorflow>=2.20",
        "keras>=3.12",
        "numpy>=2.1",
        "h5py>=3.11",  # to look through a weights file before Keras loads it
        "tensorflow-datasets>=4.9.9",
        "importlib_resources>=6.4",  # tensorflow-datasets imports it without declaring it
        "tensorboard>=2.20",  # to read the event files; TensorFlow 2.21 no longer brings it
        "scipy>=1.13.1",
        "scikit-learn>=1.5.2",  # the bundled digits
        "matplotlib>=3.9.2",
        "pillow>=10.4",  # fewer colours, so that pictures are small
        "tqdm>=4.66.5",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.20"],
        "ray": ["ray>=2.60"],  # experiments on many machines
        "peers": ["torch>=2.4", "jax>=0.4.35"],  # benchmarks/peers.py compares with them
        "examples": EXAMPLES,
        "docs": DOCS,
        "test": TEST,
        "dev": [*TEST, "ruff>=0.6", "mypy>=1.14", "uv>=0.5", "build>=1.2", "twine>=6.0"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)

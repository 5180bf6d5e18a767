"""One of each kind, registered from outside the package, is offered, run and shown."""

import keras
import numpy as np
import pytest

from infomcr_tf.characterization import METRICS, Metric, Number, register_metric
from infomcr_tf.command_line.options import Parser
from infomcr_tf.comparison import ComparisonOptions, DataOptions, Minimum, compare
from infomcr_tf.data import DATASETS, DatasetEntry, ImageDataset
from infomcr_tf.experiments.experiment import Experiment, Setting
from infomcr_tf.experiments.figures import draw_figures
from infomcr_tf.experiments.generalization_measures import (
    GENERALIZATION_MEASURES,
    TrainedNetwork,
    compute_measures,
)
from infomcr_tf.experiments.results import Results
from infomcr_tf.registry import Registry
from infomcr_tf.regularizer import SCHEDULES, register_beta_schedule
from infomcr_tf.training import CifarConfig, RunFolder, TrainingRun
from infomcr_tf.training.learning_rate import LEARNING_RATE_SCHEDULES, by_epoch
from infomcr_tf.training.stopping import STOPPING_RULES


def noise(data_dir, download):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 8, 8, 1), np.uint8)
    labels = np.arange(60, dtype=np.int32) % 3
    return ImageDataset("noise", images[:40], labels[:40], images[40:], labels[40:], 3)


@pytest.fixture
def registered(tiny):
    entry = DatasetEntry(
        load=noise, num_images=40, image_shape=(8, 8, 1), num_classes=3, augmentation="flip-only"
    )
    DATASETS.register("noise", entry)
    LEARNING_RATE_SCHEDULES.register(
        "halving", lambda plan: by_epoch(lambda epoch: plan.learning_rate * 0.5**epoch)
    )
    register_beta_schedule("even-epochs", lambda _stage, progress: float(progress > 0.3))
    STOPPING_RULES.register("three-epochs", lambda history: len(history) == 3)
    GENERALIZATION_MEASURES.register("largest_weight", largest_weight)
    register_metric(
        Metric(
            name="condition_number",
            title="condition number of xi",
            unit="1",
            compute=lambda trial: trial.scaled_eigenvalues[-1] / trial.scaled_eigenvalues[0],
            shown=("callback", "table", "plot", "experiments", "figure"),
            further=(
                Number(
                    name="smallest_eigenvalue",
                    title="smallest eigenvalue",
                    compute=lambda trial: trial.scale * trial.scaled_eigenvalues[0],
                    reduce=np.min,
                ),
            ),
        )
    )
    yield
    METRICS.unregister("condition_number")
    GENERALIZATION_MEASURES.unregister("largest_weight")
    STOPPING_RULES.unregister("three-epochs")
    SCHEDULES.unregister("even-epochs")
    LEARNING_RATE_SCHEDULES.unregister("halving")
    DATASETS.unregister("noise")


def largest_weight(network: TrainedNetwork) -> float:
    return max(float(np.abs(w).max()) for w in network.model.get_weights())


def test_help_offers_them(registered):
    parser = Parser(prog="train")
    parser.add_options(CifarConfig)
    text = " ".join(parser.format_help().split())
    for name in ("tiny", "noise", "halving", "even-epochs", "three-epochs"):
        assert name in text
    parser = Parser(prog="characterize")
    parser.add_options(ComparisonOptions)
    assert "condition_number" in parser.format_help()


def test_a_run_uses_them_and_a_comparison_shows_them(registered, tmp_path):
    config = CifarConfig(
        dataset="noise",
        model="tiny",
        schedule="halving",
        regularize="even-epochs",
        beta=2.0,
        stop="three-epochs",
        num_sub_batches=2,
        run_dir=str(tmp_path / "run"),
    )
    TrainingRun(config).run(verbose=0)
    folder = RunFolder.load(tmp_path / "run")
    assert folder.config.augmentation == "flip-only"
    rows = folder.read_history()
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.1, 0.05, 0.025])
    assert [row["beta"] for row in rows] == [0, 2, 2]
    minimum = Minimum.open(tmp_path / "run", DataOptions())
    options = ComparisonOptions(metrics="condition_number,trace", num_trials=3, num_samples=5)
    comparison = compare({"run": tmp_path / "run"}, progress=False, **options.arguments())
    assert "condition number of xi" in str(comparison)
    report = characterize_again(minimum)
    eigenvalue = report.trials["smallest_eigenvalue"]
    assert report.smallest_eigenvalue == eigenvalue.min()
    assert report.condition_number == pytest.approx(np.mean(report.trials["condition_number"]))
    assert "condition number of xi" in str(report)
    assert "condition_number" in dir(report)
    titles = [axis.get_title("left") for axis in comparison.plot().axes]
    assert "condition number of xi" in titles


def characterize_again(minimum):
    from infomcr_tf import characterize

    return characterize(
        minimum.model,
        minimum.x,
        minimum.y,
        metrics=["condition_number"],
        num_trials=3,
        num_samples=5,
        progress=False,
    )


def test_a_report_of_a_metric_that_is_not_registered_is_refused(registered, tmp_path):
    from infomcr_tf import MinimumReport

    values = {"condition_number": [1.0, 2.0], "smallest_eigenvalue": [1.0, 1.0], "num_kept": [5, 5]}
    report = MinimumReport(
        num_parameters=9,
        num_examples=9,
        num_samples=5,
        trials={name: np.array(own) for name, own in values.items()},
    )
    report.save(tmp_path / "report.json")
    assert MinimumReport.load(tmp_path / "report.json").condition_number == 1.5
    metric = METRICS["condition_number"]
    METRICS.unregister("condition_number")
    try:
        with pytest.raises(ValueError, match="not registered: condition_number"):
            MinimumReport.load(tmp_path / "report.json")
    finally:
        METRICS.register("condition_number", metric)


def test_experiments_list_and_draw_them(registered):
    settings = tuple(
        Setting(label=str(size), config=CifarConfig(confusion_size=size)) for size in (0, 10)
    )
    experiment = Experiment(
        name="s", title="S", variable="size", settings=settings, num_seeds=2, views={"raw": {}}
    )
    rows = [
        {
            "run": f"{i}",
            "group": "",
            "label": label,
            "seed": i,
            "epochs": 1,
            "train_loss": 0.1,
            "train_error": 0.0,
            "test_error": 10.0 + i,
            "gap": 10.0 + i,
            "gamma_hat": -10.0 + i,
            "condition_number": 5.0 + i,
            "largest_weight": 1.0 + i,
        }
        for i, label in enumerate(("0", "10", "0", "10"))
    ]
    results = Results.collect(experiment, rows, {})
    assert "condition number of xi" in results.table()[0]
    ranked = [line[0] for line in results.rank_table()]
    assert {"condition number of xi", "largest weight"} <= set(ranked)
    titles = [axis.get_title("left") for f in draw_figures(results).values() for axis in f.axes]
    assert "condition number of xi" in titles
    assert any(title.startswith("largest weight\nτ") for title in titles)


def test_a_generalization_measure_is_computed(registered):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(inputs))
    network = TrainedNetwork(
        model=model, initial_weights=model.get_weights(), x=np.ones((2, 2)), y=np.zeros(2)
    )
    found = compute_measures(network, ["largest_weight"])
    assert found == {"largest_weight": largest_weight(network)}


@pytest.mark.parametrize("name", ["", "two words", "a,b", 3, None])
def test_names_that_a_flag_cannot_have_are_refused(name):
    with pytest.raises(ValueError, match="must be a text without spaces and commas"):
        Registry("thing").register(name, 1)


def test_a_name_is_given_once():
    registry = Registry("thing")
    assert registry.register("a", 1) == 1
    with pytest.raises(ValueError, match="a thing called 'a' already"):
        registry.register("a", 2)
    assert dict(registry) == {"a": 1}
    with pytest.raises(ValueError, match=r"`thing` must be one of 'a'. Received: thing='b'"):
        registry.unregister("b")
    registry.unregister("a")
    assert not len(registry)


def test_a_number_needs_one_source_and_known_places():
    with pytest.raises(ValueError, match="exactly one of"):
        Metric(name="m", title="m")
    with pytest.raises(ValueError, match="`shown` must be of"):
        Metric(name="m", title="m", compute=len, shown=("everywhere",))
    with pytest.raises(ValueError, match="`needs` must be one of"):
        Metric(name="m", title="m", compute=len, needs="luck")
    taken = Number(name="trace", title="trace", compute=len)
    with pytest.raises(ValueError, match="called 'trace' already"):
        register_metric(Metric(name="m", title="m", compute=len, further=(taken,)))

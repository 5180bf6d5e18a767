"""The numbers that the paper gives: mean and standard deviation over its runs, errors in percent.

Figures 2 to 4 have no numbers in the text; they are not read off.
"""

# Table 1: (data set, architecture, with the penalty) -> test error.
TABLE1 = {
    ("cifar10", "cnn", False): (8.52, 0.23),
    ("cifar10", "cnn", True): (7.55, 0.06),
    ("cifar10", "wrn28_2", False): (5.63, 0.20),
    ("cifar10", "wrn28_2", True): (5.15, 0.09),
    ("cifar10", "densenet_bc_100_12", False): (4.61, 0.08),
    ("cifar10", "densenet_bc_100_12", True): (4.37, 0.06),
    ("cifar10", "resnet20", False): (8.50, 0.31),
    ("cifar10", "resnet20", True): (7.89, 0.13),
    ("cifar100", "cnn", False): (31.12, 0.35),
    ("cifar100", "cnn", True): (29.27, 0.17),
    ("cifar100", "wrn28_2", False): (25.71, 0.24),
    ("cifar100", "wrn28_2", True): (23.88, 0.13),
    ("cifar100", "densenet_bc_100_12", False): (22.54, 0.32),
    ("cifar100", "densenet_bc_100_12", True): (22.23, 0.21),
}

# Table 2: with the penalty -> column of the results.
TABLE2 = {
    False: {
        "test_error": (35.52, 0.11),
        "train_error": (23.67, 2.05),
        "gap": (11.85, None),
        "test_top5_error": (14.27, 0.02),
        "train_top5_error": (7.33, 2.25),
        "top5_gap": (6.94, None),
    },
    True: {
        "test_error": (34.99, 0.10),
        "train_error": (24.0, 3.11),
        "gap": (10.99, None),
        "test_top5_error": (13.85, 0.05),
        "train_top5_error": (7.31, 1.07),
        "top5_gap": (6.54, None),
    },
}

# Table 3: (architecture, with the penalty) -> the metric with normalised logits.
TABLE3 = {
    ("resnet20", False): (-979.3, 22.3),
    ("resnet20", True): (-1138.1, 11.0),
    ("wrn28_2", False): (-689.6, 24.9),
    ("wrn28_2", True): (-748.7, 21.3),
    ("densenet_bc_100_12", False): (-850.3, 23.5),
    ("densenet_bc_100_12", True): (-886.2, 20.5),
}

# Section 7.2.1, WRN-18-1.5 on two 2080 Ti, batch 128: milliseconds without and with the penalty.
STEP_MILLISECONDS = (185.7, 285.6)

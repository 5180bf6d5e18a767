"""The command line that all scripts share: flags from dataclasses, signals, a quiet start."""

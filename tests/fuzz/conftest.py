"""Says at the end how many cases have been checked."""

from fuzz.fuzzing import COUNTS


def pytest_terminal_summary(terminalreporter):
    if COUNTS:
        terminalreporter.write_line(f"fuzzing: {sum(COUNTS.values()):,} cases checked")

"""Says at the end how many cases have been checked."""


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("passed", [])
    cases = sum(dict(report.user_properties).get("cases", 0) for report in reports)
    if cases:
        terminalreporter.write_line(f"fuzzing: {cases:,} cases checked")

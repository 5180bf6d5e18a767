"""One self-contained HTML page per experiment: no network, no other file."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from infomcr_tf.experiments.figures import to_svg
from infomcr_tf.experiments.results import Results
from infomcr_tf.storage import replacing

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid #06c; }
th[aria-sort=ascending] button::after { content: " \\25b2"; }
th[aria-sort=descending] button::after { content: " \\25bc"; }
td.failed { color: #a00; white-space: normal; text-align: left; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; }
pre { font-size: .8rem; overflow-x: auto; background: #f5f5f5; padding: .6rem; }
"""

# Sorts by the number that a cell begins with, or by its text.
_SCRIPT = """
document.querySelectorAll("th button").forEach(button => button.addEventListener("click", () => {
  const th = button.parentElement, table = th.closest("table"), body = table.tBodies[0];
  const up = th.getAttribute("aria-sort") !== "ascending";
  table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[th.cellIndex].textContent;
  [...body.rows].sort((a, b) => {
    const [x, y] = [parseFloat(key(a)), parseFloat(key(b))];
    const order = isNaN(x) || isNaN(y) ? key(a).localeCompare(key(b)) : x - y;
    return up ? order : -order;
  }).forEach(row => body.append(row));
}));
"""

_RUN_COLUMNS = ("run", "group", "label", "seed")


def write_report(
    results: Results,
    figures: Mapping[str, Figure],
    path: Path,
) -> None:
    """Writes the page.

    Args:
        results: what was found.
        figures: name -> figure, set inline.
        path: of the page, replaced as a whole.
    """
    title = html.escape(results.experiment.title)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        _list(results.notes),
        *(f"<figure>{to_svg(figure)}</figure>" for figure in figures.values()),
        "<h2>Means and standard deviations over seeds</h2>",
        _table(results.table()),
    ]
    if results.ranks:
        parts += [
            "<h2>Rank correlations (Kendall's tau, 95 % bootstrap intervals over runs)</h2>",
            _table(results.rank_table()),
        ]
    parts += ["<h2>Runs</h2>", _table(_run_table(results))]
    if results.failures:
        failed = [["run", "reason"], *([name, why] for name, why in results.failures.items())]
        parts += ["<h2>Failed runs</h2>", _table(failed, cell_class="failed")]
    parts += ["<h2>Settings of the runs</h2>", *_settings(results)]
    parts.append(f"<script>{_SCRIPT}</script></body></html>")
    with replacing(path) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in sentences) + "</ul>"


def _table(table: Sequence[Sequence[str]], cell_class: str = "") -> str:
    heading, *lines = table
    attribute = f' class="{cell_class}"' if cell_class else ""
    head = "".join(f'<th><button type="button">{html.escape(t)}</button></th>' for t in heading)
    rows = (
        "<tr>" + "".join(f"<td{attribute}>{html.escape(text)}</td>" for text in line) + "</tr>"
        for line in lines
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _run_table(results: Results) -> list[list[str]]:
    names = list(dict.fromkeys(name for row in results.rows for name in row))
    names = [*_RUN_COLUMNS, *(name for name in names if name not in _RUN_COLUMNS)]
    lines = [[_text(row.get(name, "")) for name in names] for row in results.rows]
    return [[name.replace("_", " ") for name in names], *lines]


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _settings(results: Results) -> list[str]:
    """All options of each setting, whose runs differ in the seed, and of each measurement."""
    blocks = [*results.options.items()]
    blocks += [(f"measured: {view}", own) for view, own in results.experiment.views.items()]
    return [
        f"<details><summary>{html.escape(title)}</summary><pre>"
        + html.escape("\n".join(f"{name} = {value}" for name, value in values.items()))
        + "</pre></details>"
        for title, values in blocks
    ]

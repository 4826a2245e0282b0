"""A table for readers, as Markdown, CSV and terminal text. Imports nothing heavy."""

import csv
import io
import re
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import NamedTuple

from calm.storage import csv_cell


class Score(NamedTuple):
    """Mean of a metric over seeds, its standard deviation (None for one seed), and the number of seeds."""

    mean: float
    spread: float | None
    seeds: int

    @classmethod
    def over(cls, values: list[float]) -> "Score":
        """Mean and sample standard deviation of one value a seed."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values))

    def __str__(self) -> str:
        return self.text if self.spread is None else f"{self.text} ± {100 * self.spread:.1f}"

    @property
    def text(self) -> str:
        """The mean in percent."""
        return f"{100 * self.mean:.1f}"


@dataclass
class Table:
    """Cells are texts, Scores or None; `bold` holds (row, column), `rules` the rows that begin a group."""

    name: str
    title: str
    columns: list[str]
    rows: list[list]
    left: int = 1  # columns of words before the columns of numbers
    bold: set[tuple[int, int]] = field(default_factory=set)
    rules: set[int] = field(default_factory=set)
    note: str = ""

    def markdown(self) -> str:
        """As Markdown, with the best of each column in bold."""
        lines = ["| " + " | ".join(map(_escaped, self.columns)) + " |"]
        lines.append("|" + "|".join(" --- " if column < self.left else " ---: " for column in range(len(self.columns))) + "|")
        for number, row in enumerate(self.rows):
            cells = [_escaped(cell_text(cell)) for cell in row]
            cells = [f"**{cell}**" if (number, column) in self.bold else cell for column, cell in enumerate(cells)]
            lines.append("| " + " | ".join(cells) + " |")
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n" + (f"\n{self.note}\n" if self.note else "")

    def csv(self) -> str:
        """As CSV with numbers at full precision. A Score fills two columns: mean and standard deviation."""
        has_scores = [any(isinstance(row[column], Score) for row in self.rows) for column in range(len(self.columns))]
        header = zip(self.columns, has_scores, strict=True)
        lines = [[part for name, double in header for part in ((name, f"{name} std") if double else (name,))]]
        for row in self.rows:
            row = [*row[: self.left], *map(_machine_readable, row[self.left :])]
            cells = [_csv_cells(cell, double) for cell, double in zip(row, has_scores, strict=True)]
            lines.append([part for parts in cells for part in parts])
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([csv_cell(part) for part in line] for line in lines)
        return file.getvalue()

    def text(self) -> str:
        """As aligned text for a terminal. A star marks the best of each column."""
        heads = [_two_lines(name) for name in self.columns]
        body = [
            [self._aligned(cell, c) + ("*" if (r, c) in self.bold else " ") for c, cell in enumerate(row)]
            for r, row in enumerate(self.rows)
        ]
        widths = [max(max(map(len, heads[c])) + 1, *(len(row[c]) for row in body)) for c in range(len(heads))]
        lines = [self._line([head[part] + " " for head in heads], widths) for part in (0, 1)]
        lines.append("-" * max(len(line) for line in lines))
        for number, row in enumerate(body):
            if number in self.rules and number:
                lines.append("")
            lines.append(self._line(row, widths))
        return "\n".join([self.title, "", *lines]) + "\n"

    def _aligned(self, cell, column: int) -> str:
        """Means stand below means, whether or not a standard deviation follows."""
        if not isinstance(cell, Score):
            return cell_text(cell)
        tails = [len(cell_text(row[column])) - len(row[column].text) for row in self.rows if isinstance(row[column], Score)]
        return cell.text + cell_text(cell)[len(cell.text) :].ljust(max(tails))

    def _line(self, cells: list[str], widths: list[int]) -> str:
        sides = [(str.ljust if column < self.left else str.rjust) for column in range(len(cells))]
        return " ".join(side(cell, width) for side, cell, width in zip(sides, cells, widths, strict=True)).rstrip()


def cell_text(cell) -> str:
    """A cell as a reader sees it."""
    return "" if cell is None else str(cell)


def best_cells(rows: list[list], left: int) -> set[tuple[int, int]]:
    """(row, column) of the highest mean of each column from `left` on."""
    best = set()
    for column in range(left, len(rows[0]) if rows else 0):
        means = [(round(row[column].mean, 9), number) for number, row in enumerate(rows) if row[column]]
        best |= {(number, column) for mean, number in means if mean == max(means)[0]}
    return best


def group_starts(groups: list) -> set[int]:
    """Numbers of the rows, after the first, whose group differs from that of the row before."""
    return {number for number in range(1, len(groups)) if groups[number] != groups[number - 1]}


def _escaped(text: str) -> str:
    """A text within a cell of a Markdown table, where no label becomes a column or HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _machine_readable(cell):
    """A number written for readers, such as "−1,234.5", as a program reads it; any other cell as it is."""
    if isinstance(cell, str) and re.fullmatch(r"[+−-]?\d{1,3}(,\d{3})*(\.\d+)?|[+−-]?\d+(\.\d+)?", cell):
        return cell.replace("−", "-").replace(",", "")
    return cell


def _csv_cells(cell, double: bool) -> tuple:
    if isinstance(cell, Score):
        return cell.mean, "" if cell.spread is None else cell.spread
    text = cell_text(cell)
    return (text, "") if double else (text,)


def _two_lines(name: str) -> tuple[str, str]:
    first, _, second = name.rpartition("_") if "_" in name else ("", "", name)
    return first.replace("_", " "), second

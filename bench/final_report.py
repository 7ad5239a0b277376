"""`python -m bench report`: what sage-actors does on a repository, measured there, as Markdown and HTML with plots.

    python -m bench report                             this repository, 100 kills: about ten minutes
    python -m bench report --repository ../mine --out report
    python -m bench report --quick                     10 kills, nothing repeated: about two minutes

The repository is copied; nothing is written to it. Exit code 0: everything was measured; 1: something was not, and
the report says what and why.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from bench.ground import ROOT
from bench.machine import facts
from bench.measure import Size
from bench.report_measure import MEASURES, Section, Subject, unmeasured
from bench.report_pages import html, markdown
from bench.report_svg import svg
from bench.sage_ground import copied, name_of

__all__ = ["main", "measured", "written"]

_KILLS, _QUICK_KILLS = 100, 10
_REPEATS = 3
_SCALES = 20, 40


def main(argv: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    repository = given.repository.absolute()
    if not repository.is_dir():
        _parser().error(f"{given.repository} is no directory")
    kills = given.kills or (_QUICK_KILLS if given.quick else _KILLS)
    machine = {"repository": name_of(repository), **facts()}
    size = Size(given.quick, given.repeat)
    sections = measured(repository, kills, size, given.scale or size.pick(*_SCALES))
    for path in written(sections, machine, given.out):
        print(f"written to {path}")
    return 1 if any(each.problem for each in sections) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench report", description="Measure sage-actors on a repository, and write it down."
    )
    parser.add_argument(
        "--repository", type=Path, default=ROOT, metavar="PATH", help="by default the one this file is in"
    )
    parser.add_argument("--out", type=Path, default=Path("sage-report"), metavar="DIR", help="(sage-report)")
    parser.add_argument("--kills", type=int, metavar="N", help=f"({_KILLS}; {_QUICK_KILLS} with --quick)")
    parser.add_argument(
        "--repeat", type=int, metavar="N", help=f"repeat what is repeated N times ({_REPEATS})"
    )
    parser.add_argument(
        "--scale",
        type=float,
        metavar="N",
        help=f"operations that wait take 1/N of their time ({_SCALES[0]}; {_SCALES[1]} with --quick)",
    )
    parser.add_argument("--quick", action="store_true", help="the small size")
    return parser


def measured(repository: Path, kills: int, size: Size, scale: float) -> list[Section]:
    """Every section; one that could not be measured says why, and takes no other along."""
    sections = []
    with copied(repository) as here:
        subject = Subject(here, repository, kills, size, scale)
        for measure in MEASURES:
            try:
                section = measure(subject)
            except Exception as error:  # noqa: BLE001 - the rest is measured all the same
                traceback.print_exc()
                section = unmeasured(measure, error)
            sections.append(section)
            _tell(section)
    return sections


def _tell(section: Section) -> None:
    print(f"\n== {section.title}", flush=True)
    for each in section.figures:
        print(each.line(), flush=True)
    for note in (*section.not_measured, *([section.problem] if section.problem else [])):
        print(f"    {note}", flush=True)


def written(sections: Sequence[Section], machine: dict[str, str], out: Path) -> list[Path]:
    """The pages and plots, in `out`, which is made where it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    pages = {"report.md": markdown(sections, machine), "report.html": html(sections, machine)}
    for section in sections:
        pages |= {f"{chart.name}.svg": svg(chart) for chart in section.charts}
    for name, text in pages.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in pages]


if __name__ == "__main__":
    sys.exit(main())

"""How often each file changed, and by how many people, from git: the last twelve months, 1,000 commits at most."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sage_actors.messages.units import counted
from sage_actors.servers.corpus.repository import EXCLUDED, Repository, shown_name

__all__ = ["Changes", "Churn", "read_churn"]

_DAYS = 365
_MAX_COMMITS = 1_000


@dataclass(slots=True)
class Changes:
    """Of one file. newest: the date of its newest commit, as YYYY-MM-DD."""

    commits: int = 0
    authors: set[str] = field(default_factory=set)
    newest: str | None = None


@dataclass(slots=True)
class Churn:
    """described: which history was read, or why none was."""

    is_known: bool
    described: str
    files: dict[str, Changes] = field(default_factory=dict)

    def of(self, path: str) -> Changes:
        """Of the file at `path`, relative to the project; no changes where the history names it not."""
        return self.files.get(path) or Changes()


def read_churn(repository: Repository) -> Churn:
    """The changes in the twelve months before the newest commit, so that an old project has a history too."""
    newest = repository.git("log", "-1", "--format=%cI").decode("ascii", "replace").strip()
    if not newest:
        return Churn(False, "there is no git history")
    since = datetime.fromisoformat(newest) - timedelta(days=_DAYS)
    out = repository.git(
        *("log", "--no-merges", f"--max-count={_MAX_COMMITS}", f"--since={since.isoformat()}"),
        *("--no-ext-diff", "--no-textconv", "--no-renames", "--relative", "--name-only", "-z"),
        *("--format=%x1e%aN%x1f%cI%x1f", "--", "."),
    )
    records = [each.split("\x1f") for each in out.decode("utf-8", "surrogateescape").split("\x1e")]
    records = [each for each in records if len(each) == 3]
    churn = Churn(True, "", {})
    commits = sum(_count(churn, author, date[:10], names) for author, date, names in records)
    is_cut = len(records) == _MAX_COMMITS
    churn.described = (
        f"{counted(commits, 'commit')} without merges, "
        + (f"the newest {_MAX_COMMITS}" if is_cut else f"in the twelve months up to {newest[:10]}")
        + _shallow(repository)
    )
    return churn


def _count(churn: Churn, author: str, date: str, names: str) -> bool:
    """Whether the commit counts: not if it has only what a run wrote itself."""
    paths = [shown_name(path) for name in names.split("\0") if (path := name.strip("\n"))]
    own = [path for path in paths if not path.startswith(EXCLUDED)]
    for path in own:
        changes = churn.files.setdefault(path, Changes())
        changes.commits += 1
        changes.authors.add(author)
        changes.newest = changes.newest or date
    return bool(own) or not paths


def _shallow(repository: Repository) -> str:
    is_shallow = repository.git("rev-parse", "--is-shallow-repository").strip() == b"true"
    return " (the clone is shallow: older ones are not here)" if is_shallow else ""

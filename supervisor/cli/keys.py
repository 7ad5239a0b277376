"""The command `keys`: where the key of saved state is; make one, rotate it, seal old state again, drop an old one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sage_actors.messages.units import counted
from sage_actors.supervisor.cli.options import (
    at_terminal,
    confirmed,
    json_option,
    project_option,
    reading_keys,
    state_of,
)

if TYPE_CHECKING:
    from sage_actors.actors.keys.provider import KeyRing

__all__ = ["keys_command"]

_MOST_NAMED = 10

_to_option = click.option(
    "-o", "--output", "output", type=click.Path(path_type=Path), metavar="FILE", help="A new file, mode 0600."
)
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group("keys", invoke_without_command=True)
@json_option
@click.pass_context
def keys_command(ctx: click.Context, as_json: bool) -> None:
    """Show and manage the key that seals saved state.

    It comes from $SAGE_STATE_KEY, else from the OS keychain, else from a private file. Only `export`, and `rotate` for
    $SAGE_STATE_KEY, print a key, and only when told to.

    \b
    Examples:
      sage-actors keys show
      sage-actors keys rotate                   # a new key seals; the old one still opens what it sealed
      sage-actors keys reencrypt                # in each project: seal old state again
      sage-actors keys drop 45bf91b02b93b065    # forget the old key
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(_show_keys, as_json=as_json)


@keys_command.command("show")
@json_option
def _show_keys(as_json: bool = False) -> None:
    """Where the key comes from, and the ids of the keys. Never the key."""
    _describe(reading_keys(), as_json)


@keys_command.command("create")
@click.option("--keychain", is_flag=True, help="In the keychain of the system, not in a file.")
@json_option
def _create_key(keychain: bool, as_json: bool) -> None:
    """Make a key file; refused if there is one already."""
    from sage_actors.actors.keys.provider import create_key_file, create_keychain_key, default_key_path

    _warn_if_hidden()
    _describe(create_keychain_key() if keychain else create_key_file(default_key_path()), as_json)


@keys_command.command("rotate")
@_to_option
@_yes_option
@project_option
@json_option
def _rotate_key(output: Path | None, yes: bool, project: Path, as_json: bool) -> int:
    """Make a new key that seals new state. Older keys are kept, and open what they sealed.

    A run that is going on keeps its key, and uses the new one once it is resumed. If the key comes from
    $SAGE_STATE_KEY, which no program can change for you, the value to set it to is written to -o FILE, or to standard
    output.
    """
    from sage_actors.actors.keys.provider import KEY_VARIABLE, default_key_path, format_keys, rotate_keys

    ring = reading_keys()
    from_environment = ring.source == "environment"
    if from_environment and not _may_print(output, yes):
        return 1
    rotated = rotate_keys(ring, default_key_path())
    _audit(project, ring, "rotated", id=rotated.primary.id.hex(), before=ring.primary.id.hex())
    if from_environment:
        _give_out(format_keys(rotated.keys), output)
        click.echo(
            f"Set ${KEY_VARIABLE} to that, wherever it is set; until then nothing has changed.", err=True
        )
        return 0
    _describe(rotated, as_json)
    if not as_json:
        click.echo(
            "Next: `sage-actors keys reencrypt` in each project; then the old key can be dropped.", err=True
        )
    return 0


@keys_command.command("reencrypt")
@project_option
@json_option
def _reencrypt(project: Path, as_json: bool) -> int:
    """Seal every run of the project, archived ones too, and its cache under the key that seals what is new.

    A run that a live process owns, or that is damaged, is left and named, with exit code 1. A crash leaves each run as
    it was, or done. The audit log stays: its records prove what was when, under the key of their time.
    """
    from dataclasses import asdict

    from sage_actors.supervisor.json_text import to_json
    from sage_actors.supervisor.recovery.reencrypt import reencrypt

    keys = reading_keys()
    said = (lambda name: None) if as_json else (lambda name: click.echo(f"{name} sealed again"))
    done = reencrypt(state_of(project), keys, on_run=said)
    _audit(project, keys, "reencrypted", id=keys.primary.id.hex(), runs=len(done.runs))
    if as_json:
        click.echo(to_json({"key": keys.primary.id.hex(), **asdict(done)}))
        return 1 if done.refused else 0
    kept = counted(done.cache_entries, "entry", "entries")
    entries = f", {kept} of the cache" if done.cache_entries else ""
    runs, before = counted(len(done.runs), "run"), counted(len(done.unchanged), "was", "were")
    click.echo(f"{runs}{entries} sealed under key {keys.primary.id.hex()}; {before} already")
    for name in done.kept_aside:
        click.echo(f"Note: {name} was kept aside by a repair, and stays under the key of its time.", err=True)
    for name, reason in done.refused.items():
        click.echo(f"Left: {name}: {reason}", err=True)
    return 1 if done.refused else 0


@keys_command.command("export")
@_to_option
@_yes_option
def _export_key(output: Path | None, yes: bool) -> int:
    """Give the keys out as $SAGE_STATE_KEY takes them. Whoever has them can read all saved state."""
    from sage_actors.actors.keys.provider import format_keys

    if not _may_print(output, yes):
        return 1
    _give_out(format_keys(reading_keys().keys), output)
    return 0


@keys_command.command("drop")
@click.argument("key_id", metavar="ID")
@click.option(
    "--leave-audit", is_flag=True, help="Drop it though records of an audit log can then not be proved."
)
@_yes_option
@project_option
@json_option
def _drop_key(key_id: str, leave_audit: bool, yes: bool, project: Path, as_json: bool) -> int:
    """Forget the key ID for good. Refused while state of a project that is known here is sealed under it.

    Known are the project given and every one that state was written for with keys of this user.
    """
    from sage_actors.actors.keys.provider import default_key_path, drop_key

    ring = reading_keys()
    key = next((each for each in ring.keys if each.id.hex() == key_id.lower()), None)
    if key is None:
        known = ", ".join(each.id.hex() for each in ring.keys)
        raise click.UsageError(f"There is no key {key_id!r}; there are {known}.")
    if len(ring.keys) == 1:
        raise click.UsageError("That is the only key; `sage-actors keys rotate` makes another one first.")
    gone = _refuse_while_needed(project, key.id, leave_audit)
    if ring.source == "environment":
        _say_which(ring, key.id)
        return 0
    if gone:
        click.echo(f"Not there now, and not asked: {', '.join(gone)}", err=True)
    if not confirmed(f"Forget key {key_id} for good? Nothing will open what it sealed.", yes):
        return 1
    left = drop_key(ring, key.id, default_key_path())
    _audit(project, left, "dropped", id=key_id.lower())
    _describe(left, as_json)
    return 0


def _refuse_while_needed(project: Path, key_id: bytes, leave_audit: bool) -> list[str]:
    """The known projects that are not there now."""
    from sage_actors.actors.keys.projects import known_projects, uses_of_key
    from sage_actors.messages.errors import StorageError

    needs, gone = [], []
    for each in dict.fromkeys([project.resolve(), *known_projects()]):
        if not each.is_dir():
            gone.append(str(each))
            continue
        try:
            uses = uses_of_key(each, key_id)
        except OSError as cause:
            raise StorageError(f"cannot tell whether {each} needs that key: {cause}") from cause
        needs += [f"{each}: {use}" for use in uses if not (leave_audit and use.endswith("audit log"))]
    if needs:
        more = [f"and {len(needs) - _MOST_NAMED:,} more"] if len(needs) > _MOST_NAMED else []
        shown = "\n  ".join([*needs[:_MOST_NAMED], *more])
        raise click.UsageError(
            f"Key {key_id.hex()} is still needed; `sage-actors keys reencrypt` in these projects seals runs anew, "
            f"and --leave-audit gives up the proof of old records:\n  {shown}"
        )
    return gone


def _say_which(ring: KeyRing, key_id: bytes) -> None:
    from sage_actors.actors.keys.provider import KEY_VARIABLE

    place = [each.id for each in ring.keys].index(key_id) + 1
    click.echo(
        f"The keys come from ${KEY_VARIABLE}: take number {place} of the {len(ring.keys)} in it out, wherever it "
        "is set. No state that is known here needs it."
    )


def _may_print(output: Path | None, yes: bool) -> bool:
    """Whether the key may go to standard output, if it is to go there."""
    if output is not None or yes:
        return True
    if not at_terminal():
        raise click.UsageError(
            "This prints the key itself; whoever sees it can read all state. Add --yes, or -o FILE for a private file."
        )
    return click.confirm("Print the key itself here? Whoever sees it can read all saved state.", err=True)


def _give_out(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text)
        return
    from sage_actors.actors.keys.key_file import write_private_file

    write_private_file(output.absolute(), f"{text}\n".encode("ascii"))
    click.echo(f"written to {output}", err=True)


def _audit(project: Path, ring: KeyRing, action: str, **fields: object) -> None:
    """Record it in the project's audit log, if it has one."""
    from sage_actors.actors.audit.project import audit_project
    from sage_actors.messages.errors import StateError

    try:
        with audit_project(project, keys=ring) as audit:
            audit.record("key", None, action=action, **fields)
    except StateError as error:
        click.echo(f"Warning: this is not in the audit log: {error}", err=True)


def _warn_if_hidden() -> None:
    """The file is only asked where there is no key in the environment."""
    import os

    from sage_actors.actors.keys.variable import KEY_VARIABLE, given_keys

    if given_keys(os.environ) is not None:
        click.echo(f"Note: ${KEY_VARIABLE} is set, and is used instead of the key file.", err=True)


def _describe(ring: KeyRing, as_json: bool) -> None:
    from sage_actors.actors.keys.provider import default_key_path
    from sage_actors.supervisor.json_text import to_json

    ids = [key.id.hex() for key in ring.keys]
    where = str(default_key_path()) if ring.source == "file" else None
    if as_json:
        click.echo(to_json({"source": ring.source, "file": where, "seals": ids[0], "opens": ids}))
        return
    click.echo(f"source  {ring.source}" + (f", {where}" if where else ""))
    click.echo(f"seals   key {ids[0]}")
    if len(ids) > 1:
        click.echo(f"opens   {', '.join(ids[1:])} as well")

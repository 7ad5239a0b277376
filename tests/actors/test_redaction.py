"""What a worker says, without secrets: results, output cut into pieces, and the user's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from secret_samples import Draw, sample

from sage_actors.actors.state.actor import Append, CommitFailed, Committed, OpenRun, StateActor
from sage_actors.actors.state.journal_format import Location
from sage_actors.actors.user_config import load_user_config
from sage_actors.actors.workers.output import LogBook
from sage_actors.actors.workers.redaction import Redactor, add_note, parse_secrets
from sage_actors.messages.codec import pack, unpack
from sage_actors.messages.errors import DefinitionError, Problem, ResultError, SecretInStateError
from sage_actors.messages.records import LogLines, NodeFailed, NodesStarted, NodesSucceeded, Record
from sage_actors.messages.secret_scan import Allowed, Finding, SecretsPolicy
from sage_actors.messages.secret_values import KnownValues
from sage_actors.supervisor.config import load_config

pytestmark = pytest.mark.requirement("ORCH-016")
KEY = (1, 2, 3)
TOKEN = Draw(5).word(24)


@pytest.fixture
def redactor() -> Redactor:
    made = Redactor()
    made.learn([("env.TOKEN", TOKEN)])
    return made


def row(text: str, stream: str = "stdout", key: tuple[int, int, int] = KEY) -> list[Any]:
    return [*key, stream, text]


END = row("", "")


# ---------------------------------------------------------------------- results


def test_a_result_loses_its_secrets_and_keeps_the_rest(redactor: Redactor) -> None:
    packed, findings = redactor.result(pack({"a": f"x{TOKEN}", "b": 2}), "node")
    assert unpack(packed) == {"a": "x[redacted:env.TOKEN]", "b": 2}
    assert findings == [("env.TOKEN", "$.a")]


def test_a_result_is_rejected_where_that_is_wanted(redactor: Redactor) -> None:
    with pytest.raises(
        SecretInStateError, match=r"node 'n'.*\n.*\$\.a: holds a secret \(env\.TOKEN\)"
    ) as rejected:
        redactor.result(pack({"a": TOKEN}), "n", policy=SecretsPolicy("reject"))
    assert TOKEN not in str(rejected.value)
    assert not rejected.value.retryable


def test_what_is_allowed_is_neither_redacted_nor_rejected(redactor: Redactor) -> None:
    packed = pack({"a": sample("jwt", 1)[0]})
    policy = SecretsPolicy("reject", (Allowed("jwt", "$.a"),))
    assert redactor.result(packed, "n", policy=policy) == (packed, [])


def test_a_known_value_cannot_be_allowed(redactor: Redactor) -> None:
    policy = SecretsPolicy("redact", (Allowed("*", "*"),))
    packed, _ = redactor.result(pack({"a": TOKEN}), "n", policy=policy)
    assert unpack(packed) == {"a": "[redacted:env.TOKEN]"}


def test_notes_are_added_to_what_was_used_and_are_not_endless() -> None:
    assert add_note(None, []) is None
    used = add_note({"cost": 1.0}, [Finding("jwt", "$.a")])
    assert used == {"cost": 1.0, "redacted": [["jwt", "$.a"]]}
    more = add_note(used, [Finding("jwt", f"$[{i}]") for i in range(100)])
    assert more is not None
    assert len(more["redacted"]) == 50
    assert add_note({"redacted": "anything"}, [Finding("jwt", "$")]) == {"redacted": [["jwt", "$"]]}


# ---------------------------------------------------------------------- output


@pytest.mark.parametrize("cut", range(1, len(TOKEN)))
def test_a_secret_that_was_written_in_two_pieces_is_found(redactor: Redactor, cut: int) -> None:
    told = redactor.rows([row(f"it is {TOKEN[:cut]}")])
    told += redactor.rows([row(f"{TOKEN[cut:]}\n")])
    assert told == [row("it is [redacted:env.TOKEN]\n")]


def test_pieces_of_one_stream_become_one_row_and_streams_are_kept_apart(redactor: Redactor) -> None:
    rows = [
        row(TOKEN[:4]),
        row(TOKEN[4:] + "\n"),
        row("e\n", "stderr"),
        row("f\n", "stderr"),
        row("INFO x\n", "log"),
    ]
    assert redactor.rows(rows) == [
        row("[redacted:env.TOKEN]\n"),
        row("e\nf\n", "stderr"),
        row("INFO x\n", "log"),
    ]


def test_what_no_newline_ended_leaves_with_the_end_of_the_attempt(redactor: Redactor) -> None:
    assert redactor.rows([row("a\nlast"), row("oops", "stderr")]) == [row("a\n")]
    assert redactor.rows([END]) == [row("last"), row("oops", "stderr")]
    assert redactor.rows([END]) == []


def test_attempts_do_not_get_each_others_lines(redactor: Redactor) -> None:
    other = (1, 9, 1)
    assert redactor.rows([row("mine"), row("yours", key=other)]) == []
    assert redactor.rows([row("", "", key=other)]) == [row("yours", key=other)]
    assert redactor.rows([END]) == [row("mine")]


def test_a_line_without_end_is_not_held_for_ever(redactor: Redactor) -> None:
    (told,) = redactor.rows([row("x" * 5000)])
    (rest,) = redactor.rows([END])
    assert told[4] + rest[4] == "x" * 5000
    assert len(told[4]) > 1000


@pytest.mark.parametrize("cut", range(1, len(TOKEN), 3))
def test_a_secret_in_two_pieces_of_a_long_line_is_found(redactor: Redactor, cut: int) -> None:
    told = redactor.rows([row("x" * 70_000 + TOKEN[:cut])])
    told += redactor.rows([row(TOKEN[cut:] + "y" * 70_000)])
    told += redactor.rows([END])
    assert "".join(each[4] for each in told) == "x" * 70_000 + "[redacted:env.TOKEN]" + "y" * 70_000


@pytest.mark.parametrize("cut", range(1, len(TOKEN), 3))
def test_where_output_is_cut_no_half_of_a_secret_is_left(redactor: Redactor, cut: int) -> None:
    for pieces in ([TOKEN + " and so on"], [TOKEN[:3], TOKEN[3:], " and so on", "more"]):
        book = LogBook(redactor, cap_bytes=100 + cut)
        book.add(KEY, "stdout", "x" * 99 + " ")
        for piece in pieces:
            book.add(KEY, "stdout", piece)
        book.end(KEY)
        text = "".join(each[4] for each in book.take())
        assert text == "x" * 99 + f" [redacted:env.TOKEN]\n[output cut: more than {100 + cut} characters]\n"


def test_output_of_nobody_in_particular_is_not_held(redactor: Redactor) -> None:
    unknown = (-1, -1, -1)
    assert redactor.rows([row(f"a {TOKEN}", key=unknown)]) == [row("a [redacted:env.TOKEN]", key=unknown)]


def test_a_private_key_is_taken_out_of_output_as_a_whole(redactor: Redactor) -> None:
    text, secret = sample("private-key", 3)
    told = redactor.rows([row("begin\n"), *(row(line + "\n") for line in text.splitlines()), row("end\n")])
    assert told == [row("begin\n[redacted:private-key]\nend\n")]
    assert secret not in str(told)


# ---------------------------------------------------------------------- the user's rules


def test_the_users_rules_are_read(private_home: Path) -> None:
    path = private_home / "config.toml"
    path.write_text(
        '[secrets]\non_output = "reject"\nallow = [{ rule = "jwt" }, { path = "$.a*", rule = "key-name" }]\n'
    )
    policy = load_user_config(path=path).secrets
    assert policy == SecretsPolicy("reject", (Allowed("jwt", "*"), Allowed("key-name", "$.a*")))
    assert SecretsPolicy.from_dict(policy.to_dict()) == policy


def test_all_that_is_wrong_with_the_rules_is_told_at_once() -> None:
    problems: list[Problem] = []
    parse_secrets({"on_output": "hide", "allow": [{}, {"rule": 1}, "jwt"], "more": 1}, problems)
    assert [each.place for each in problems] == [
        "secrets.more",
        "secrets.on_output",
        "secrets.allow[0]",
        "secrets.allow[1]",
        "secrets.allow[2]",
    ]
    problems.clear()
    assert parse_secrets([], problems) == SecretsPolicy()
    assert problems


def test_a_secret_in_a_projects_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".sage").mkdir()
    text, secret = sample("github-token", 4)
    (tmp_path / ".sage" / "config.toml").write_text(f'[breakers."{text}"]\nfailures = 2\n')
    with pytest.raises(SecretInStateError, match="github-token") as refused:
        load_config(tmp_path)
    assert secret not in str(refused.value)
    (tmp_path / ".sage" / "config.toml").write_text(f'more = 1\n[breakers."{text}"]\nfailures = 2\n')
    with pytest.raises(DefinitionError, match="unknown setting") as wrong:
        load_config(tmp_path)
    assert secret not in str(wrong.value)


# ---------------------------------------------------------------------- values that hide themselves


class Masked:
    """As pydantic's SecretStr, and every class that follows it."""

    def __str__(self) -> str:
        return "**********"

    def get_secret_value(self) -> str:
        return TOKEN


def test_a_value_that_hides_itself_is_refused_with_its_path() -> None:
    with pytest.raises(
        ResultError, match=r"value\['a'\]\[1\] is a secret \(test_redaction\.Masked\)"
    ) as refused:
        pack({"a": [1, Masked()]})
    assert "secret_outputs" in str(refused.value)
    with pytest.raises(ResultError, match="the inputs cannot be stored") as refused:
        pack(Masked(), what="the inputs")
    assert "${env.NAME}" in str(refused.value)
    assert "secret_outputs" not in str(refused.value)  # which is for results


def test_a_value_that_holds_itself_is_refused_in_a_line() -> None:
    endless: dict[str, Any] = {}
    endless["inside"] = endless
    with pytest.raises(ResultError, match="does it contain itself") as refused:
        pack(endless)
    assert len(str(refused.value)) < 400


# ---------------------------------------------------------------------- the last witness


class Writer:
    """Keeps what is appended."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.tag = b""

    def append(self, plaintext: bytes) -> Location:
        self.frames.append(plaintext)
        return Location(1, len(self.frames), 0)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "record",
    [
        NodesSucceeded(0.0, [[0, 1, 0, pack({"a": TOKEN.encode().hex()}), None]]),
        NodeFailed(0.0, 0, 1, {"type": "E", "message": TOKEN}, None, "fail", 0, None),
        LogLines(0.0, [[0, 1, "stdout", f"it is {TOKEN}"]]),
    ],
)
def test_the_state_actor_writes_no_known_secret(record: Record) -> None:
    known, writer = KnownValues(), Writer()
    known.add([("env.TOKEN", TOKEN)])
    events: list[Any] = []
    actor = StateActor.start()
    try:
        actor.ask(OpenRun(1, writer, events.append, known), timeout=10)
        actor.ask(Append(1, [NodesStarted(0.0, [[0, 1]])], False, "start"), timeout=10)
        actor.ask(Append(1, [record], True, "result"), timeout=10)
    finally:
        actor.stop(timeout=10)
    assert isinstance(events[0], Committed)
    assert isinstance(events[1], CommitFailed)
    assert isinstance(events[1].error, SecretInStateError)
    assert TOKEN not in str(events[1].error)
    assert TOKEN.encode() not in b"".join(writer.frames)

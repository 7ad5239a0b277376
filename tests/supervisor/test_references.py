"""References: how they are found, what they give, and that no value ever reaches a shell unquoted."""

from __future__ import annotations

import enum
import json
import subprocess
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_actors.messages.errors import DefinitionError, ExpressionError
from sage_actors.supervisor.definitions.references import (
    Reference,
    Template,
    escape,
    find_references,
    is_single_reference,
    parse_template,
    truthy,
)


class Colour(str, enum.Enum):  # noqa: UP042 - StrEnum has a __str__ that hides the mistake
    RED = "r"
    NAMED = "${n}"


VALUES: dict[str, Any] = {
    "market": {"findings": ["first", "second"], "score": 0.5, "a|b": 7, "none": None},
    "research/market": [1, 2, 3],
    "n": 5,
    "text": "plain",
}


def scope(reference: Reference) -> Any:
    others: dict[str, dict[str, Any]] = {
        "input": {"topic": "tea"},
        "item": {"": {"a": {"b": 1}}},
        "index": {"": 3},
    }
    return others.get(reference.kind, VALUES)[reference.name]


def evaluate(value: Any, *, quote_at: tuple[str, ...] | None = None) -> Any:
    return parse_template(value, quote_at=quote_at).evaluate(scope)


def test_a_text_of_a_class_of_its_own_is_its_characters() -> None:
    assert evaluate({"said": Colour.RED, "list": [Colour.RED]}) == {"said": "r", "list": ["r"]}
    assert evaluate([Colour.RED, "${n}"])[0].__class__ is str
    assert evaluate(Colour.NAMED) == 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${n}", 5),
        ("${ n }", 5),
        ("${inputs.topic}", "tea"),
        ("${research/market}", [1, 2, 3]),
        ("${research/market | [0]}", 1),
        ("${market | findings[1]}", "second"),
        ("${market | findings | [0]}", "first"),
        ('${market | "a|b"}', 7),
        ("${market | {first: findings[0], rest: '}'}}", {"first": "first", "rest": "}"}),
        ("${market | findings[?@ == 'first'] | length(@)}", 1),
        ("${market | missing.path}", None),
        ("${item.a.b}", 1),
        ("${item | a}", {"b": 1}),
        ("${index}", 3),
        ("n=${n}!", "n=5!"),
        ("${n}${n}", "55"),
        ("<${market | none}>", "<null>"),
        ("<${research/market}>", "<[1,2,3]>"),
        ("<${market | {s: score}}>", '<{"s":0.5}>'),
        ("<${text}>", "<plain>"),
        ("$${n}", "${n}"),
        ("$$${n}", "$${n}"),
        ("a $${n} ${n}", "a ${n} 5"),
        ("no $ { reference } $n", "no $ { reference } $n"),
        ("", ""),
    ],
)
def test_a_text_with_references_gives(text: str, value: Any) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${", "not closed"),
        ("${a", "not closed"),
        ("${a | 'x}", "not closed"),
        ("${}", "empty reference"),
        ("${ | a}", "empty reference"),
        ("${a.b}", "a node id has no dots"),
        ("${a[0]}", "only the whole"),
        ("${a b}", "this is no input"),
        ("${/a}", "this is no input"),
        ("${inputs}", "inputs needs a name"),
        ("${inputs.}", "inputs needs a name"),
        ("${env.a-b}", "env needs a name"),
        ("${keyring.x | y}", "a secret can only be used whole"),
        ("${item.a | b}", "a path on both sides"),
        ("${a | }", "bad JMESPath"),
        ("${a || b}", "bad JMESPath"),
        ("${a | [?}", "bad JMESPath"),
        ("${a | nofunc(}", "bad JMESPath"),
        ("${a | " + "[" * 3000 + "}", "JMESPath"),
        ("${a | " + "x" * 5000 + "}", "the limit is 4096"),
    ],
)
def test_a_bad_reference_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse_template({"deep": [1, text]}, place="arguments")
    (problem,) = caught.value.problems
    assert problem.place == "arguments.deep[1]"
    assert said in problem.message
    with pytest.raises(DefinitionError):
        find_references({"deep": [1, text]}, place="arguments")


def test_all_bad_references_of_a_value_are_reported() -> None:
    with pytest.raises(DefinitionError) as caught:
        parse_template({"a": "${", "b": "${x.y} and ${}", "c": "${fine}"})
    assert [each.place for each in caught.value.problems] == ["a", "b", "b"]


def test_references_say_what_they_mean_and_where_they_stand() -> None:
    value = {"a": "${x/y}", "b": ["${inputs.t} ${z | q}", 7], "c": {"d": "${env.KEY}"}}
    expected = [
        Reference("node", "x/y", None, "arguments.a", True),
        Reference("input", "t", None, "arguments.b[0]", False),
        Reference("node", "z", "q", "arguments.b[0]", False),
        Reference("env", "KEY", None, "arguments.c.d", True),
    ]
    assert list(parse_template(value, place="arguments").references) == expected
    assert find_references(value, place="arguments") == expected
    flat = {"a": "${x/y}", "b": "${z}", "c": 1}
    assert find_references(flat, place="p") == list(parse_template(flat, place="p").references)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="${}|a.'\"`\\ x") | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_an_escaped_value_has_no_references_and_comes_back_the_same(value: Any) -> None:
    template = parse_template(escape(value))
    assert template.is_static
    assert template.value == value


@given(json_values)
def test_what_is_put_in_is_never_expanded_again(value: Any) -> None:
    template = parse_template({"whole": "${n}", "text": "<${n}>"})
    result = template.evaluate(lambda _: value)
    assert result["whole"] == value
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert result["text"] == f"<{value if isinstance(value, str) else compact}>"
    bound = template.bind("node", {"n": value})
    assert bound.is_static
    assert bound.value == result


@given(json_values)
def test_any_value_is_parsed_or_refused_as_a_definition(value: Any) -> None:
    try:
        template = parse_template(value)
    except DefinitionError:
        with pytest.raises(DefinitionError):
            find_references(value)
    else:
        assert list(template.references) == find_references(value)


def test_a_value_without_references_is_kept_as_it_is() -> None:
    value = {"a": [1, {"b": "text"}], "c": None}
    assert parse_template(value).value is value


def test_binding_leaves_the_other_references_open() -> None:
    template = parse_template("${inputs.topic} of ${n}")
    bound = template.bind("input", {"topic": "${n}"})
    assert [each.name for each in bound.references] == ["n"]
    assert [each.name for each in template.references] == ["topic", "n"]
    assert bound.evaluate(scope) == "${n} of 5"
    assert template.bind("input", {}).references == template.references


def test_a_packed_result_passes_through_undecoded() -> None:
    packed = msgpack.ExtType(1, b"\x01")
    template = parse_template({"a": "${n}", "b": ["${n}"]})
    result = template.evaluate(lambda reference: packed)
    assert result["a"] is packed
    assert result["b"][0] is packed
    assert all(each.whole and each.expression is None for each in template.references)


def test_an_expression_that_does_not_fit_the_value_says_where() -> None:
    template = parse_template({"x": "${n | length(@)}"}, place="arguments")
    with pytest.raises(ExpressionError, match=r"arguments\.x: cannot apply 'length\(@\)' to \$\{n\}"):
        template.evaluate(scope)


def test_a_value_that_has_no_text_form_says_so() -> None:
    with pytest.raises(ExpressionError, match="cannot be put into text"):
        parse_template("<${n}>").evaluate(lambda _: {"a": b"\x00"})


def test_a_template_that_is_not_static_has_no_value_of_its_own() -> None:
    with pytest.raises(ExpressionError, match=r"\$\{inputs.topic\} has no value here"):
        _ = parse_template("${inputs.topic}").value


def test_a_value_nested_without_end_is_refused() -> None:
    value: Any = "${a}"
    for _ in range(5000):
        value = [value]
    with pytest.raises(DefinitionError, match="levels deep"):
        parse_template(value)


@pytest.mark.parametrize("value", [None, False, "", [], {}, ()])
def test_jmespath_counts_as_false(value: object) -> None:
    assert not truthy(value)


@pytest.mark.parametrize("value", [0, 0.0, True, " ", "false", [0], {"a": None}, b""])
def test_jmespath_counts_as_true(value: object) -> None:
    assert truthy(value)


def test_one_reference_is_told_from_text() -> None:
    assert is_single_reference("${a | b == `1`}")
    assert not any(map(is_single_reference, ("${a} ", "a", "${a}${b}", "$${a}", "${", 5, ["${a}"])))


ATTACKS = [
    "$(echo pwned)",
    "`echo pwned`",
    "'; echo pwned; '",
    '"; echo pwned; "',
    "a\necho pwned",
    "a & echo pwned",
    "a | echo pwned",
    "\\'; echo pwned; \\'",
    "${HOME}$HOME",
    "*",
    "~",
    "!!",
    "# comment",
    "",
    "-n",
    "a  b\t c",
]


def run_shell(command: str) -> str:
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout


@pytest.mark.requirement("ORCH-023")
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "command",
    [
        "printf %s ${x}",
        "printf '%s' ${x}",
        'printf "%s" ${x}',
        "printf %s ${x} # a comment after it",
        "# it's a comment\nprintf %s ${x}",
        "A='it'; printf %s ${x}",
        'printf "$${EMPTY}%s" ${x}',
        "printf %s $(printf %s ${x}; printf _) | sed 's/_$//'",
    ],
)
def test_the_shell_sees_one_word_whatever_the_value(command: str, attack: str) -> None:
    template = parse_template(command, quote_at=())
    word = template.evaluate(lambda _: attack)
    output = run_shell(word)
    if "$(" in command:  # what an unquoted substitution prints is split and matched by the shell itself
        assert "pwned" not in output.replace(attack, "").splitlines()
        return
    assert output == attack


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
def test_quoting_is_the_inverse_of_the_shells_reading(value: str) -> None:
    import shlex

    command = parse_template("cmd ${x} ${x | @}end", quote_at=()).evaluate(lambda _: value)
    assert shlex.split(command) == ["cmd", value, f"{value}end"]


@pytest.mark.requirement("ORCH-023")
@pytest.mark.parametrize(
    "command",
    [
        'echo "${x}"',
        "echo '${x}'",
        "echo \\${x}",
        "echo `echo ${x}`",
        'echo "$(echo "${x}")"',
        'echo "`echo "${x}"`"',
        'echo "$${A:-"${x}"}"',
        "cat <<EOF\n${x}\nEOF",
        "cat <<-'E'\n${x}\nE",
        "# ${x}\necho",
        "echo; # note ${x}",
        "echo $'a' ${x}",
        "echo $((${x} + 1))",
    ],
)
def test_a_reference_where_quoting_does_not_protect_is_refused(command: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse_template(command, place="command", quote_at=())
    (problem,) = caught.value.problems
    assert problem.place == "command"
    assert problem.hint


@pytest.mark.parametrize(
    "command", ["echo '$${x}' ${x}", "cat <<< ${x}", 'a=${x}; echo "$a"', "echo $${#A} ${x}"]
)
def test_what_looks_dangerous_but_is_not_is_allowed(command: str) -> None:
    assert parse_template(command, quote_at=()).references


def test_only_the_command_of_a_value_is_quoted() -> None:
    value = {"config": {"command": "echo ${x}", "stdin": "${x} y"}, "arguments": {"a": "${x} z"}}
    template = parse_template(value, quote_at=("config", "command"))
    assert template.evaluate(lambda _: "a b") == {
        "config": {"command": "echo 'a b'", "stdin": "a b y"},
        "arguments": {"a": "a b z"},
    }
    words = parse_template({"command": ["echo", "${x}"]}, quote_at=("command",))
    assert words.evaluate(lambda _: "a b") == {"command": ["echo", "a b"]}


def test_a_command_that_is_all_reference_becomes_one_quoted_word() -> None:
    template: Template = parse_template("${x}", quote_at=())
    assert not template.references[0].whole
    assert template.evaluate(lambda _: "rm -rf /") == "'rm -rf /'"
    assert template.evaluate(lambda _: [1, 2]) == "'[1,2]'"

"""The programs that a project's work is made of run inside the sandbox as they do outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_harness import enter, run, scene_for
from test_sandbox_attacks import needs

from sage_actors.sandbox.environment import clean_environment

pytestmark = pytest.mark.requirement("ORCH-023")

# name: (what must be installed, what is done in an empty directory of the project)
TOOLS = {
    "shell pipes": ("sh", "seq 9 | sort -r | head -3 > a && grep -c . a | grep -qx 3"),
    "chmod": ("chmod", "printf '#!/bin/sh\\necho hi' > x && chmod +x x && ./x | grep -qx hi"),
    "git": (
        "git",
        "git init -q r && cd r && git config user.name N && git config user.email e@x && echo a > f && git add f"
        " && git commit -qm one && git checkout -qb b && echo b >> f && git stash -q && git stash pop -q"
        " && git commit -qam two && git merge-base --is-ancestor b~1 b && git worktree add -q ../w && git log -2",
    ),
    "git in the project": ("git", "cd ../.. && git init -q --bare sub/tools/bare && git -C sub/tools/bare rev-parse"),
    "python": ("python3", "python3 -c 'import ssl, sqlite3, ctypes, zoneinfo; zoneinfo.ZoneInfo(\"Europe/Paris\")'"),
    "venv": ("python3", "python3 -m venv --without-pip v && v/bin/python -c 'import sys; assert sys.prefix'"),
    "pytest": ("python3", "echo 'def test(tmp_path): tmp_path.joinpath(\"x\").write_text(\"y\")' > test_x.py && "
               "python3 -m pytest -q -p no:cacheprovider test_x.py"),
    "pool": ("python3", "python3 -c 'import multiprocessing as m; assert m.Pool(2).map(abs, [-1]) == [1]'"),
    "asyncio": (
        "python3",
        "python3 -c 'import asyncio\nasync def f(): return await (await asyncio."
        "create_subprocess_exec(\"true\")).wait()\nassert asyncio.run(f()) == 0'",
    ),
    "psutil": ("python3", "python3 -c 'import psutil; psutil.Process().cpu_affinity(); psutil.virtual_memory()'"),
    "node": ("node", "node -e 'require(\"fs\").writeFileSync(\"n\", \"1\"); new (require(\"worker_threads\").Worker)"
             "(\"1\", {eval: true})'"),
    "npm": ("npm", "npm init -y >/dev/null && npm pkg get name && npm ls"),
    "gcc": ("gcc", "echo 'int main(){return 0;}' > a.c && gcc -pthread -o a a.c && ./a"),
    "make": ("make", "printf 'all:\\n\\techo done > out\\n' > Makefile && make -j2 && test -s out"),
    "cmake": ("cmake", "printf 'cmake_minimum_required(VERSION 3.10)\\nproject(x NONE)\\n' >"
              " CMakeLists.txt && cmake -S . -B b"),
    "tar": ("tar", "mkdir d && echo x > d/f && tar czpf d.tgz d && rm -r d && tar xzpf d.tgz && test -s d/f"),
    "rsync-like copies": ("cp", "echo x > f && cp -a f g && install -m 755 f h && ln -s f l &&"
                          " mv l m && touch -d 2001-01-01 f"),
    "find and xargs": ("find", "touch a b && find . -type f -print0 | xargs -0 ls -l"),
    "ps": ("ps", "ps ax | grep -q ps"),
    "sqlite": ("sqlite3", "sqlite3 x.db 'pragma journal_mode=wal; create table t(a); insert into t values (1)'"),
    "perl": ("perl", "perl -MPOSIX -e 'print strftime(\"%Y\", localtime)'"),
    "java": ("java", "java -version"),
    "jq": ("jq", "echo '{\"a\":1}' | jq -e .a"),
    "curl without a network": ("curl", "curl -s -m 2 http://127.0.0.1:1/; test $? = 7"),
    "here document": ("bash", "bash -c 'cat <<< x | tee y; diff <(echo x) y'"),
    "mktemp": ("mktemp", "d=$(mktemp -d) && touch $d/x && rm -r $d"),
    "flock": ("flock", "flock lock true"),
    "rustc": ("rustc", "echo 'fn main() { println!(\"hi\"); }' > m.rs && rustc m.rs && ./m"),
    "cargo": ("cargo", "cargo init -q --vcs none --name x . && cargo build -q --offline"),
    "go": ("go", "go mod init x && echo 'package main\nfunc main() {}' > m.go && go build && ./x"),
}  # fmt: skip


@pytest.fixture(scope="module")
def done() -> Iterator[dict[str, tuple[int, str]]]:
    """Exit code and output of each tool, in one confined process."""
    needs("namespaces")
    with scene_for(os.geteuid()) as scene:

        def inside(answer: int) -> bytes:
            enter(scene, "namespaces", alone=True, keep=(answer,))
            return json.dumps({name: _use(scene.project, *tool) for name, tool in TOOLS.items()}).encode()

        yield json.loads(run(inside))


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_works(done: dict[str, tuple[int, str]], name: str) -> None:
    if shutil.which(TOOLS[name][0]) is None:
        pytest.skip(f"{TOOLS[name][0]} is not installed")
    code, output = done[name]
    assert code == 0, output


def _use(project: str, program: str, script: str) -> tuple[int, str]:
    if shutil.which(program) is None:
        return 127, "not installed"
    directory = Path(project, "sub/tools")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    environ = clean_environment(os.environ, extra=(), tmp="/tmp", proxy_url=None)
    result = subprocess.run(
        ["sh", "-c", script], cwd=directory, env=environ, capture_output=True, text=True, timeout=60
    )
    return result.returncode, (result.stdout + result.stderr)[-600:]

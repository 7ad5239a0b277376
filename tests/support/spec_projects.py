"""Small real repositories for the tests of documents, and the check that every citation leads somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

__all__ = [
    "FINDING",
    "assert_citations_exist",
    "commit_all",
    "go_project",
    "monorepo",
    "python_project",
    "rust_project",
    "ts_project",
    "write",
]

FINDING = {
    "text": "class Client",
    "kind": "code",
    "citation": {"source": "src/shop/client.py", "line": 4},
    "score": 3.0,
}
_CITED = re.compile(r"`((?![a-z]+:)[^`\s]+?):(\d+)`")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def commit_all(root: Path, message: str = "Import") -> None:
    if not (root / ".git").exists():
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, "commit", "-qm", message], cwd=root, check=True)


def python_project(root: Path) -> Path:
    return _copied(_python_project, root)


def ts_project(root: Path) -> Path:
    return _copied(_ts_project, root)


def monorepo(root: Path) -> Path:
    """Parts with manifests of their own: web (JavaScript), api (Python), tool (Go); and what is no part."""
    api = '[project]\nname = "shop-api"\nversion = "2.1"\nrequires-python = ">=3.11"\ndependencies = ["httpx"]\n\n'
    web = '{\n  "name": "web",\n  "scripts": {\n    "test": "node --test"\n  }\n}\n'
    return write(
        root,
        {
            "README.md": "# Shop\n\nEverything of the shop stands in one place.\n",
            "services/api/pyproject.toml": api + "[tool.pytest.ini_options]\n\n[tool.ruff]\n",
            "services/api/api/handler.py": "def handle_order(order):\n    return order\n",
            "services/api/tests/test_handler.py": "from api.handler import handle_order\n\ndef test_it(): ...\n",
            "packages/web/package.json": web,
            "packages/web/src/queue.js": "class RequestQueue {\n}\nmodule.exports = { RequestQueue }\n",
            "packages/web/test/queue.test.js": "const { RequestQueue } = require('../src/queue')\n",
            "tool/go.mod": "module example.com/tool\n",
            "examples/demo/package.json": web,
            "packages/web/node_modules/x/package.json": web,
        },
    )


def go_project(root: Path) -> Path:
    return _copied(_go_project, root)


def rust_project(root: Path) -> Path:
    return _copied(_rust_project, root)


def _copied(make: Callable[[Path], Path], root: Path) -> Path:
    """Made once a session, since git takes its time, and copied for each test."""
    shutil.copytree(Path(_made(make).name), root, dirs_exist_ok=True)
    return root


@cache
def _made(make: Callable[[Path], Path]) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    make(Path(folder.name))
    return folder


def _python_project(root: Path) -> Path:
    """A client library with tests, documentation, a change log and declared checks."""
    write(
        root,
        {
            "pyproject.toml": '[project]\nname = "shop"\nversion = "1.2.0"\ndescription = "Talks to the shop"\n'
            'requires-python = ">=3.11"\nlicense = "MIT"\ndependencies = [\n    "httpx>=0.27",\n]\n\n'
            '[tool.pytest.ini_options]\ntestpaths = ["tests"]\n\n[tool.ruff]\nline-length = 100\n',
            "README.md": "# shop\n\nTalks to the shop from Python. Its `Client` retries requests.\n",
            "CHANGELOG.md": "# Changes\n\n## Unreleased\n\n- Retry limits\n",
            "docs/usage.md": "# Usage\n\nThe retry limit must never be larger than ten attempts.\n\nSee `Client`.\n",
            "src/shop/__init__.py": 'from shop.client import Client\n\n__all__ = ["Client"]\n',
            "src/shop/client.py": "from shop.errors import ShopError, TooMany\n\n\nclass Client:\n"
            '    """Sends requests to the shop."""\n\n    def __init__(self, retry_limit: int = 3) -> None:\n'
            "        self.retry_limit = retry_limit\n\n    def send(self, path: str) -> str:\n"
            '        """Sends one request, again if it fails."""\n        if self.retry_limit > 10:\n'
            '            raise TooMany("the retry limit is too large")\n        return path\n\n'
            "    def add_middleware(self, middleware: object) -> None:\n"
            '        """Adds what sees each request."""\n        self.middleware = middleware\n',
            "src/shop/errors.py": "class ShopError(Exception):\n    pass\n\n\nclass TooMany(ShopError):\n    pass\n"
            "\n\nclass NotFound(ShopError):\n    pass\n",
            "tests/test_client.py": "import pytest\n\nfrom shop import Client\n\n\ndef test_send() -> None:\n"
            '    assert Client().send("/a") == "/a"\n\n\ndef test_limit() -> None:\n'
            "    with pytest.raises(ValueError):\n"
            '        Client(retry_limit=11).send("/a")\n',
            ".github/workflows/ci.yml": "jobs:\n  test:\n    steps:\n      - run: python -m pytest -q\n",
        },
    )
    commit_all(root)
    write(root, {"src/shop/client.py": (root / "src/shop/client.py").read_text() + "\n\nLIMIT = 10\n"})
    commit_all(root, "Bound the retry limit of the client")
    return root


def _ts_project(root: Path) -> Path:
    write(
        root,
        {
            "package.json": '{\n  "name": "shop-web",\n  "version": "2.0.0",\n  "license": "MIT",\n'
            '  "engines": {"node": ">=20"},\n  "scripts": {\n    "test": "node --test",\n    "lint": "eslint ."\n  },\n'
            '  "dependencies": {\n    "fast-uri": "^3.0.0"\n  }\n}\n',
            "README.md": "# shop-web\n\nA small web client for the shop, in TypeScript.\n",
            "src/server.ts": "export class ShopError extends Error {}\n\n"
            "/** Registers a hook that sees each request. */\n"
            "export function addHook(hook: () => void): void {\n  hook();\n}\n",
            "src/server.test.ts": "import { addHook } from './server';\naddHook(() => {});\n",
        },
    )
    commit_all(root)
    return root


def _go_project(root: Path) -> Path:
    write(
        root,
        {
            "go.mod": "module example.org/shop\n\ngo 1.22\n\nrequire (\n\tgolang.org/x/net v0.20.0\n)\n",
            "shop.go": "// Package shop serves.\npackage shop\n\n// Use adds a middleware to the engine.\n"
            "func (e *Engine) Use(m Middleware) {}\n\n// Middleware sees each request.\ntype Middleware func()\n\n"
            "// Engine serves.\ntype Engine struct{}\n",
            "shop_test.go": 'package shop\n\nimport "testing"\n\nfunc TestUse(t *testing.T) { (&Engine{}).Use(nil) }\n',
        },
    )
    commit_all(root)
    return root


def _rust_project(root: Path) -> Path:
    write(
        root,
        {
            "Cargo.toml": '[package]\nname = "shop"\nversion = "0.3.0"\nedition = "2021"\nlicense = "MIT"\n'
            '\n[dependencies]\nserde = "1"\n',
            "src/lib.rs": "/// Adds a plugin that sees each request.\npub fn register_plugin() {}\n\n"
            "pub enum ShopError {\n    NotFound,\n}\n\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn works() {}\n}\n",
        },
    )
    commit_all(root)
    return root


def assert_citations_exist(project: Path, document: str) -> int:
    """Every `file:line` in the text is a line of that file; how many there are."""
    cited = _CITED.findall(document)
    for path, line in cited:
        file = project / path
        assert file.is_file(), f"{path} is not there"
        count = len(file.read_text(encoding="utf-8").splitlines())
        assert 1 <= int(line) <= count, f"{path}:{line} of {count} lines"
    return len(cited)

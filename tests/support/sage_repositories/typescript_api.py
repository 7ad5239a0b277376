"""A TypeScript service with a bug: orders over HTTP, with a plugin interface and a store."""

from __future__ import annotations

from pathlib import Path

from sage_repositories.history import ADA, BO, CHE, Change, replay

__all__ = ["ERROR", "make_typescript_api"]

_PACKAGE = """\
{
  "name": "orderly",
  "version": "1.3.0",
  "description": "A small public API for orders",
  "license": "MIT",
  "type": "module",
  "engines": {"node": ">=20"},
  "scripts": {
    "test": "node --test",
    "lint": "eslint src"
  },
  "dependencies": {
    "fast-uri": "^3.0.0",
    "pino": "^9.0.0"
  },
  "devDependencies": {
    "typescript": "^5.4.0"
  }
}
"""
_SERVER = """\
import { OrderError, TooManyOrders } from './errors';
import { Order, Store } from './store';

export interface Request {
  path: string;
  customer?: { id: string };
}

export type Hook = (request: Request) => void | Promise<void>;

/** Serves orders. Hooks see each request before it is answered. */
export class Server {
  private hooks: Hook[] = [];

  constructor(private readonly store: Store, private readonly limit = 100) {}

  /** Registers a hook that sees each request. */
  addHook(hook: Hook): void {
    this.hooks.push(hook);
  }

  /** Answers one request with the orders of its customer. */
  async handle(request: Request): Promise<Order[]> {
    for (const hook of this.hooks) {
      await hook(request);
    }
    return this.ordersOf(request);
  }

  private async ordersOf(request: Request): Promise<Order[]> {
    // FIXME: requests without a customer
    const orders = await this.store.find(request.customer.id);
    if (orders.length > this.limit) {
      throw new TooManyOrders(`${orders.length} orders`);
    }
    if (orders.length === 0) {
      throw new OrderError('no orders');
    }
    return orders;
  }
}
"""
_ERRORS = """\
/** The root of all errors of the public API. */
export class OrderError extends Error {}

/** A customer has more orders than one answer may hold. */
export class TooManyOrders extends OrderError {}
"""
_STORE = """\
export interface Order {
  id: string;
  customer: string;
  total: number;
}

/** Where orders are kept. */
export class Store {
  constructor(private readonly orders: Order[] = []) {}

  async find(customer: string): Promise<Order[]> {
    return this.orders.filter((order) => order.customer === customer);
  }

  async add(order: Order): Promise<void> {
    this.orders.push(order);
  }
}
"""
_TEST = """\
import assert from 'node:assert';
import { test } from 'node:test';
import { Server } from '../src/server';
import { Store } from '../src/store';

test('orders of a customer are found', async () => {
  const store = new Store([{ id: '1', customer: 'a', total: 3 }]);
  const found = await new Server(store).handle({ path: '/', customer: { id: 'a' } });
  assert.equal(found.length, 1);
});

test('a request without a customer is refused', async () => {
  await assert.rejects(new Server(new Store()).handle({ path: '/' }), /no customer/);
});
"""
_DOCS = """\
# The public API

Clients may send 50 requests a minute. Rate limiting is done at the gateway today; the service itself has none.

Hooks (`Server.addHook`) are the way to add behaviour to each request.
"""

ERROR = """\
TypeError: Cannot read properties of undefined (reading 'id')
    at Server.ordersOf (src/server.ts:32:60)
    at Server.handle (src/server.ts:27:17)
    at TestContext.<anonymous> (test/server.test.ts:13:24)
"""
"""What the failing test of this repository prints."""


def make_typescript_api(root: Path) -> Path:
    """The repository at `root`: five commits by three authors; one test of it fails."""
    return replay(
        root,
        [
            Change(
                "Import the service",
                CHE,
                {
                    "package.json": _PACKAGE,
                    "tsconfig.json": '{\n  "compilerOptions": {"strict": true, "module": "nodenext"}\n}\n',
                    "src/server.ts": _SERVER.replace(
                        "private readonly limit = 100", "private readonly limit = 10"
                    ),
                    "src/store.ts": _STORE,
                    "README.md": "# orderly\n\nA small public API for orders, with hooks.\n",
                    ".gitignore": "node_modules/\ndist/\n",
                },
            ),
            Change("Give errors a root", ADA, {"src/errors.ts": _ERRORS}),
            Change(
                "Raise the limit of orders in one answer",
                BO,
                edits={"src/server.ts": ("limit = 10)", "limit = 100)")},
            ),
            Change("Describe the public API and its rate limits", ADA, {"docs/api.md": _DOCS}),
            Change(
                "Test the server in CI",
                BO,
                {
                    "test/server.test.ts": _TEST,
                    ".github/workflows/node.yml": "jobs:\n  node:\n    steps:\n      - run: npm test\n",
                },
            ),
        ],
    )

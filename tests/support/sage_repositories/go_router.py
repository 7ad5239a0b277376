"""A Go module with a bug: an HTTP router with middleware, groups and a table of routes."""

from __future__ import annotations

from pathlib import Path

from sage_repositories.history import ADA, BO, CHE, Change, replay

__all__ = ["ERROR", "make_go_router"]

_ROUTER = """\
// Package waypoint routes HTTP requests.
package waypoint

import (
	"errors"
	"net/http"
	"sync"
)

// ErrNoRoute says that nothing is registered for a path.
var ErrNoRoute = errors.New("waypoint: no route")

// Middleware wraps a handler.
type Middleware func(http.Handler) http.Handler

// Router holds routes. It is safe for concurrent use.
type Router struct {
	mu         sync.RWMutex
	routes     map[string]http.Handler
	middleware []Middleware
}

// New returns an empty router.
func New() *Router {
	return &Router{routes: map[string]http.Handler{}}
}

// Use adds a middleware that every request passes.
func (r *Router) Use(m Middleware) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.middleware = append(r.middleware, m)
}

// Handle registers a handler for a path.
func (r *Router) Handle(path string, handler http.Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.routes[path] = handler
}

// Lookup finds the handler of a path.
func (r *Router) Lookup(path string) (http.Handler, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	handler, ok := r.routes[path]
	if !ok {
		return nil, ErrNoRoute
	}
	return handler, nil
}

// ServeHTTP implements http.Handler.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	handler, _ := r.Lookup(req.URL.Path)
	for _, m := range r.middleware {
		handler = m(handler)
	}
	handler.ServeHTTP(w, req)
}
"""
_GROUP = """\
package waypoint

import "net/http"

// Group registers routes below a prefix.
type Group struct {
	router *Router
	prefix string
}

// Group makes a group of routes.
func (r *Router) Group(prefix string) *Group {
	return &Group{router: r, prefix: prefix}
}

// Handle registers a handler below the prefix of the group.
func (g *Group) Handle(path string, handler http.Handler) {
	// TODO: join with one slash
	g.router.Handle(g.prefix+path, handler)
}
"""
_LOGGER = """\
package waypoint

import (
	"log"
	"net/http"
	"time"
)

// Logger is a middleware that logs each request and how long it took.
func Logger(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		start := time.Now()
		next.ServeHTTP(w, req)
		log.Printf("%s %s in %s", req.Method, req.URL.Path, time.Since(start))
	})
}
"""
_TEST = """\
package waypoint

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestLookup(t *testing.T) {
	r := New()
	r.Handle("/a", http.NotFoundHandler())
	if _, err := r.Lookup("/a"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Lookup("/b"); err != ErrNoRoute {
		t.Fatalf("got %v", err)
	}
}

func TestUse(t *testing.T) {
	r := New()
	r.Use(Logger)
	r.Handle("/a", http.NotFoundHandler())
	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/a", nil))
}

func TestUnknownPath(t *testing.T) {
	New().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/b", nil))
}
"""
_DOCS = """\
# Middleware

A middleware wraps every handler of a router; register it with `Router.Use` before the first request.

Middleware must be safe for concurrent use, since requests are served in parallel.
"""

ERROR = """\
--- FAIL: TestUnknownPath (0.00s)
panic: runtime error: invalid memory address or nil pointer dereference [recovered]

goroutine 8 [running]:
example.org/waypoint.(*Router).ServeHTTP(0xc000012345, {0x7d1, 0xc0}, 0xc000098000)
	/src/waypoint/router.go:59 +0xd1
example.org/waypoint.TestUnknownPath(0xc000082b60)
	/src/waypoint/router_test.go:28 +0x9c
"""
"""What the failing test of this repository prints."""


def make_go_router(root: Path) -> Path:
    """The repository at `root`: five commits by three authors; one test of it fails."""
    return replay(
        root,
        [
            Change(
                "Import the router",
                BO,
                {
                    "go.mod": "module example.org/waypoint\n\ngo 1.21\n\nrequire golang.org/x/time v0.5.0\n",
                    "router.go": _ROUTER.replace("ErrNoRoute\n", "nil\n", 1),
                    "README.md": "# waypoint\n\nA small HTTP router with middleware, for public APIs.\n",
                    "Makefile": "test:\n\tgo test ./...\n\nlint:\n\tgo vet ./...\n",
                },
            ),
            Change("Add a middleware that logs requests", ADA, {"logger.go": _LOGGER}),
            Change("Add groups of routes", CHE, {"group.go": _GROUP, "docs/middleware.md": _DOCS}),
            Change(
                "Fix Lookup: an unknown path is an error\n\nServeHTTP got a nil handler without one.",
                ADA,
                {"router.go": _ROUTER},
            ),
            Change(
                "Test the router",
                BO,
                {
                    "router_test.go": _TEST,
                    ".github/workflows/go.yml": "jobs:\n  go:\n    steps:\n      - run: go test ./...\n",
                },
            ),
        ],
    )

"""Measures of a project's code: size, complexity, churn, tests."""

"""Helpers of the tests: backends, tolerances, judges, drawn arguments."""

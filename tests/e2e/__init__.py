"""Whole commands. A package, so that its conftest does not take the name of the unit tests'."""

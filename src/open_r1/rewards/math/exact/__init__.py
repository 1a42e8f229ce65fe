"""Equality of mathematical answers, decided exactly."""

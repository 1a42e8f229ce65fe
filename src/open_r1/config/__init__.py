"""Recipes: their schema, defaults and rules, and how they are loaded."""

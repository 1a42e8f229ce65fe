"""Stages in order, each a recipe: resumable, cached by what they depend on, with lineage."""

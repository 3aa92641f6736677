"""The measuring itself, measured."""

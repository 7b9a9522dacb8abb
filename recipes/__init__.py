"""The shipped recipes: one module each, a value and its story."""

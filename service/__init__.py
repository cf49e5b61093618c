"""The codec over HTTP: `glc serve`."""

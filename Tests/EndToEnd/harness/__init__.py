"""What the end-to-end tests and agent/demo stand on. Only the standard library, so that the demo needs no more."""

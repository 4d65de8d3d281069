"""The shows of agent/demo."""

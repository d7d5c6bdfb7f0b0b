"""The simulated world: not built yet; the ports it needs are in place."""

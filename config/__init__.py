"""Settings, limits, logging, and the example practices."""

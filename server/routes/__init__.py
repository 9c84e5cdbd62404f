"""What answers each path. A route knows the service and the engine's outside, never how connections are kept."""

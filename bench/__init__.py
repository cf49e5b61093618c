"""Measurements: rate against the ideal and the published estimate, and start-up."""

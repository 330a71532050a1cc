"""Notices to people, and where they go."""

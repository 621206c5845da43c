"""What was measured of TIME."""

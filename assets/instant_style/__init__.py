"""What was measured of InstantStyle."""

"""What GeoRemover leaves behind, measured on held-out scenes."""

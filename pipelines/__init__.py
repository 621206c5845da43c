"""Everything that computes. Nothing in this package imports gradio."""

"""What guiding the small language model does, measured: the figures behind the Concept Guidance tab."""

"""MegaPortrait's three nets, taught their own task on rendered truth: data and training."""
